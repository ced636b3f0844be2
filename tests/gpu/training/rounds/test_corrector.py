"""Self-correction while a model trains: harmless, repeatable, bounded, and never in the way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from events.messages import SelfCorrect, SelfCorrected, SelfCorrectionFailed, SelfCorrectionPutOff, Step
from events.self_correction import ANSWER_BYTES, CorrectionPlan, SelfCorrectionSettings, round_seed
from events.settings import DataSettings, JobSettings
from gpu.errors import CorrectionFailed
from gpu.generate import answers
from gpu.training.rounds import corrector
from gpu.training.rounds.spacing import Spacing
from tests.gpu.helpers import FULL, LORA, QLORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS, ASKED = make_rows(40), make_rows(30, start=100)


@pytest.fixture
def rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any round costs little."""
    monkeypatch.setattr(Spacing, "spare_s", lambda *_: math.inf)


def plan(home: Home, every_steps: int = 4, **changes: Any) -> CorrectionPlan:
    """Often, and short."""
    how = {"kind": "rejection", "prompts": 3, "answers": 2, "max_new_tokens": 12, **changes}
    return CorrectionPlan(settings=SelfCorrectionSettings(every_steps=every_steps, **how), sources=(home.add(ASKED),))


def train(home: Home, how: JobSettings, correction: CorrectionPlan | None, **channel: Any) -> dict[str, str]:
    """Train a job; the bits of its weights."""
    session = home.new_session()
    for name, value in channel.items():
        setattr(home.channel, name, value)
    return home.bits(home.train_job(session, home.add(ROWS), how, correction=correction))


def losses(channel: FakeChannel) -> list[Any]:
    return [(fact.loss, fact.grad_norm) for fact in channel.of(Step)]


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(
    "how",
    [
        settings(LORA),
        settings(FULL),
        settings(QLORA),
        settings(LORA, data=DataSettings(packing=True)),
    ],
    ids=["lora", "full", "qlora", "packing"],
)
def test_weights_are_the_same_bits_with_rounds_and_without(home: Home, how: JobSettings) -> None:
    """So are loss and gradient norm of each step. The divergence from the version is known if it is in memory."""
    quiet = (train(home, how, None), losses(home.channel))
    assert (train(home, how, plan(home)), losses(home.channel)) == quiet
    rounds = home.channel.of(SelfCorrected)
    assert rounds
    assert {fact.step for fact in rounds} <= {*range(4, 1000, 4), len(home.channel.of(Step))}
    assert all(len(fact.prompts) == 3 and fact.answers == 6 for fact in rounds)
    assert all((fact.kl is None) == (how.method == FULL) for fact in rounds)
    if how.method != FULL:
        assert rounds[-1].kl > 0.0


@pytest.mark.usefixtures("rich")
def test_a_round_that_runs_again_is_the_same(home: Home) -> None:
    """Prompts and draws follow from the seed and the step: a round that was lost with its process comes again."""
    train(home, settings(), plan(home))
    first = home.channel.of(SelfCorrected)
    train(home, settings(), plan(home))
    again = home.channel.of(SelfCorrected)
    assert [(fact.prompts, fact.seed, fact.kl) for fact in first] == [(f.prompts, f.seed, f.kl) for f in again]
    assert [fact.seed for fact in first] == [round_seed(42, fact.global_step) for fact in first]


@pytest.mark.usefixtures("rich")
def test_a_verifier_judges_and_its_verdicts_are_counted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal answers stand once, with the number of times that they were given."""
    monkeypatch.setattr(corrector, "_is_whole", lambda _, text: len(text) > 0)
    train(home, settings(), plan(home, match="regex", pattern=".", answers=3))
    for fact in home.channel.of(SelfCorrected):
        for prompt in fact.prompts:
            texts = [each.text for each in prompt.answers]
            assert len(texts) == len(set(texts))
            assert sum(each.times for each in prompt.answers) + prompt.left_out == 3
        right = sum(each.times for prompt in fact.prompts for each in prompt.answers if each.right)
        assert right == fact.right


@pytest.mark.usefixtures("rich")
def test_answers_that_do_not_end_or_are_too_long_are_left_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted, and are not right."""
    train(home, settings(), plan(home, max_new_tokens=1))
    assert all(prompt.left_out == 2 for fact in home.channel.of(SelfCorrected) for prompt in fact.prompts)
    reply = answers.Reply([1], "end", 2)
    assert corrector._is_whole(reply, "a" * ANSWER_BYTES)
    assert not corrector._is_whole(reply, "a" * (ANSWER_BYTES + 1))
    assert not corrector._is_whole(reply, " ")


@pytest.mark.usefixtures("rich")
def test_a_program_that_does_not_work_ends_the_round(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training continues, and the message names the setting."""
    monkeypatch.setattr(corrector, "_is_whole", lambda *_: True)
    quiet = train(home, settings(), None)
    assert train(home, settings(), plan(home, match="command", command="/no/such/program")) == quiet
    failed = home.channel.of(SelfCorrectionFailed)
    assert {fact.failure for fact in failed} == {"verifier"}
    assert "[self_correction] command judged no answer" in failed[0].message


@pytest.mark.usefixtures("rich")
def test_a_round_that_fails_changes_no_bit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, a bug, no prompt: the round is over, the next one is taken."""
    quiet = train(home, settings(), None)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "self_correction:4:0")
    assert train(home, settings(), plan(home)) == quiet
    (failed,) = home.channel.of(SelfCorrectionFailed)
    assert (failed.step, failed.failure) == (4, "out_of_memory")
    assert home.channel.of(SelfCorrected)[0].step == 8
    monkeypatch.delenv("KEEPSTEP_FAULTS")
    nothing = CorrectionPlan(settings=plan(home).settings, sources=(home.add(b'{"text": "a b"}\n'),))
    assert train(home, settings(), nothing) == quiet
    assert {fact.failure for fact in home.channel.of(SelfCorrectionFailed)} == {"prompts"}


@pytest.mark.usefixtures("rich")
def test_an_error_of_the_driver_ends_the_process_and_says_where(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in its memory can be trusted; the steps before it are committed."""

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(answers, "_answer_batch", broken)
    with pytest.raises(CorrectionFailed, match="illegal memory access"):
        train(home, settings(), plan(home))


def test_a_round_that_costs_too_much_is_put_off(home: Home) -> None:
    """Known or probed."""
    known = CorrectionPlan(settings=plan(home).settings, sources=plan(home).sources, trained_s=1.0, round_s=1000.0)
    train(home, settings(), known)
    (put_off,) = home.channel.of(SelfCorrectionPutOff)
    assert (put_off.step, put_off.round_s, put_off.next_step) == (4, 1000.0, None)
    train(home, settings(), plan(home, max_new_tokens=400, cost_max=0.0001))
    assert home.channel.of(SelfCorrectionPutOff)
    assert home.channel.of(SelfCorrected) == []


@pytest.mark.usefixtures("rich")
def test_an_order_ends_or_begins_rounds(home: Home) -> None:
    """A file was started, or the settings changed, while the job trains."""
    train(home, settings(), plan(home), correction_order=SelfCorrect(attempt=1))
    assert home.channel.of(SelfCorrected) == []
    train(home, settings(), None, correction_order=SelfCorrect(attempt=1, plan=plan(home)))
    assert home.channel.of(SelfCorrected)
    off = CorrectionPlan(settings=SelfCorrectionSettings(), sources=plan(home).sources)
    train(home, settings(), off)
    assert home.channel.of(SelfCorrected) == []


@pytest.mark.usefixtures("rich")
def test_the_model_trains_the_same_parameters_after_a_round(home: Home) -> None:
    """The divergence is measured without the adapter, and the adapter is trained on."""
    session = home.new_session()
    home.train_job(session, home.add(ROWS), settings(), correction=plan(home))
    trained = session._model.trained
    assert all(parameter.requires_grad for parameter in trained.parameters.values())
    names = {name for name, parameter in trained.model.named_parameters() if parameter.requires_grad}
    assert len(names) == len(trained.parameters)
    assert torch.are_deterministic_algorithms_enabled()


def test_short_answers_have_pairs_too() -> None:
    """A number is one token, or a few; equal answers are alike."""
    assert corrector._distinct_pairs([[1], [2], [3]]) == 1.0
    assert corrector._distinct_pairs([[1], [1], [1], [1]]) == 0.25
    assert corrector._distinct_pairs([[], []]) == 0.5
