"""Samples while a model trains: the right answers, harmless, bounded, and never in the way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from msgspec.structs import replace

from events.messages import Heartbeat, Sample, Sampled, SamplesFailed, SamplesPutOff, Step
from events.samples import ANSWER_BYTES, SampleBudget, SamplePlan, SamplesSettings
from events.settings import DataSettings, JobSettings
from gpu.errors import SamplingFailed
from gpu.generate import answers
from gpu.training.attempt import Attempt
from gpu.training.rounds.sampler import Sampler
from gpu.training.rounds.spacing import Spacing
from tests.gpu.helpers import FULL, LORA, QLORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(40)
HELD_OUT = DataSettings(holdout=0.3)

BUDGET = SampleBudget()
"""Nothing was trained yet, and the cost of a round is unknown."""


@pytest.fixture
def rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any round costs little: a step of the tiny model takes less time than a token."""
    monkeypatch.setattr(Spacing, "spare_s", lambda *_: math.inf)


def plan(every_steps: int = 2, **changes: Any) -> SamplePlan:
    """Often, and short."""
    return SamplePlan(settings=SamplesSettings(every_steps=every_steps, **{"max_new_tokens": 12, **changes}))


def job_settings(method: Any = LORA, **changes: Any) -> JobSettings:
    return settings(method, data=changes.pop("data", HELD_OUT), **changes)


def train(home: Home, how: JobSettings, samples: SamplePlan | None, **changes: Any) -> dict[str, str]:
    """Train a job; the bits of its weights."""
    return home.bits(home.train_job(home.new_session(), home.add(ROWS), how, samples=samples, **changes))


def losses(channel: FakeChannel) -> list[Any]:
    return [(fact.loss, fact.grad_norm) for fact in channel.of(Step)]


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(
    "how",
    [
        job_settings(LORA),
        job_settings(FULL),
        job_settings(QLORA),
        job_settings(LORA, precision="bf16"),
        job_settings(LORA, data=DataSettings(holdout=0.3, packing=True)),
    ],
    ids=["lora", "full", "qlora", "bf16", "packing"],
)
def test_weights_are_the_same_bits_with_samples_and_without(home: Home, how: JobSettings) -> None:
    """So are loss and gradient norm of each step, also with random draws and after a round that failed."""
    quiet = (train(home, how, None), losses(home.channel))
    for samples in (plan(), plan(temperature=1.0)):
        assert (train(home, how, samples), losses(home.channel)) == quiet
        rounds = home.channel.of(Sampled)
        assert [fact.step for fact in rounds][:2] == [2, 4]
        assert all(len(fact.answers) == 3 for fact in rounds)


@pytest.mark.usefixtures("rich")
def test_a_round_that_fails_changes_no_bit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round is over, the next one is taken."""
    quiet = train(home, job_settings(), None)
    monkeypatch.setenv("KEEPSTEP_FAULTS", "samples:4:0")
    assert train(home, job_settings(), plan()) == quiet
    (failed,) = home.channel.of(SamplesFailed)
    assert (failed.step, failed.failure, failed.asked) == (4, "out_of_memory", False)
    assert [fact.step for fact in home.channel.of(Sampled)][:2] == [2, 6]


@pytest.mark.usefixtures("rich")
def test_where_memory_is_short_fewer_prompts_are_answered_together(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same."""
    train(home, job_settings(), plan())
    whole = home.channel.of(Sampled)[0].answers
    monkeypatch.setenv("KEEPSTEP_FAULTS", "samples:2:1")
    train(home, job_settings(), plan())
    assert home.channel.of(Sampled)[0].answers == whole


@pytest.mark.usefixtures("rich")
def test_an_error_in_a_round_ends_the_round(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes of the model are restored, and the job is trained to its end."""
    quiet = train(home, job_settings(), None)
    monkeypatch.setattr(answers, "_answer_batch", _fail)
    assert train(home, job_settings(), plan()) == quiet
    assert {fact.failure for fact in home.channel.of(SamplesFailed)} == {"code"}
    assert home.channel.of(SamplesFailed)[0].message == "a bug"


def _fail(*_: Any) -> None:
    raise ValueError("a bug")


@pytest.mark.usefixtures("rich")
def test_an_error_of_the_driver_ends_the_process_and_says_where(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in its memory can be trusted; the steps before it are committed."""

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(answers, "_answer_batch", broken)
    with pytest.raises(SamplingFailed, match="illegal memory access"):
        train(home, job_settings(), plan())


@pytest.mark.usefixtures("rich")
def test_samples_follow_every_few_steps_and_the_end_and_no_step_twice(home: Home) -> None:
    """Steps that an earlier attempt sampled are left out."""
    train(home, job_settings(), plan(4))
    total = len(home.channel.of(Step))
    assert [fact.step for fact in home.channel.of(Sampled)] == [*range(4, total, 4), total]
    train(home, job_settings(), plan(4), budget=SampleBudget(sampled_to=4))
    assert home.channel.of(Sampled)[0].step == 8
    train(home, job_settings(), plan(0))
    assert home.channel.of(Sampled) == []
    train(home, job_settings(), plan(4), budget=replace(BUDGET, abandoned=True, asked=True))
    assert [fact.asked for fact in home.channel.of(Sampled)] == [True]
    train(home, job_settings(), plan(prompts=0))
    assert home.channel.of(Sampled) == []


@pytest.mark.usefixtures("rich")
def test_a_request_is_met_at_the_next_step_whatever_it_costs(home: Home) -> None:
    """Also one that the order to train carries, before the first step."""
    train(home, job_settings(), plan(0), budget=replace(BUDGET, asked=True))
    assert [(fact.step, fact.asked) for fact in home.channel.of(Sampled)] == [(0, True)]
    session, job = home.new_session(), home.add(ROWS)
    home.channel.sample_orders = [Sample(attempt=1, plan=plan(0), asked=True)]
    home.train_job(session, job, job_settings(), samples=plan(0), budget=BUDGET)
    assert [fact.asked for fact in home.channel.of(Sampled)] == [True]


@pytest.mark.usefixtures("rich")
def test_without_held_out_rows_a_request_says_so_and_nothing_else_does(home: Home) -> None:
    """As evaluations, samples are silent where there is nothing to ask."""
    how = job_settings(data=DataSettings())
    train(home, how, plan())
    assert home.channel.of(Sampled) == home.channel.of(SamplesFailed) == []
    train(home, how, plan(), budget=replace(BUDGET, asked=True))
    (failed,) = home.channel.of(SamplesFailed)
    assert (failed.failure, failed.asked, failed.step) == ("prompts", True, 0)
    assert "there are no held-out rows" in failed.message


def test_an_expensive_round_is_put_off_and_says_so_once(home: Home) -> None:
    """Nothing is spent on it: its cost is known. Where much was trained since the last one, it is taken."""
    train(home, job_settings(), plan(), budget=SampleBudget(trained_s=1.0, round_s=1000.0))
    (put_off,) = home.channel.of(SamplesPutOff)
    assert home.channel.of(Sampled) == []
    assert (put_off.step, put_off.round_s, put_off.cost_max) == (2, 1000.0, 0.01)
    assert put_off.next_step is None  # the job ends long before


def test_other_samples_have_an_unknown_cost_and_their_own_questions() -> None:
    """A request for the same samples keeps both."""
    unused: Any = None
    orders: list[Sample] = []
    attempt = Attempt(
        number=1,
        home=Path(),
        prepared=cast("Any", SimpleNamespace(validation=None)),
        trained=unused,
        tokenizer=unused,
        limits=unused,
        channel=cast("Any", SimpleNamespace(take_sample_order=lambda: orders.pop())),
        heartbeats=unused,
    )
    sampler = Sampler(attempt, plan(8), SampleBudget(abandoned=True, round_s=9.0))
    questions = sampler._questions = cast("Any", ["What?"])
    for changed, kept, round_s in (
        (plan(8), questions, 9.0),
        (plan(8, max_new_tokens=99), questions, None),
        (plan(8, max_new_tokens=99, prompts=5), None, None),
    ):
        orders.append(Sample(attempt=1, plan=changed, asked=False))
        sampler.visit(1, 1)
        assert (sampler._questions, sampler._spacing.round_s) == (kept, round_s)


def test_a_round_of_unknown_cost_stops_after_a_few_tokens(home: Home) -> None:
    """A new home has trained next to nothing: the probe costs little, and says what the round would have cost."""
    train(home, job_settings(), plan(max_new_tokens=400), budget=BUDGET)
    (put_off,) = home.channel.of(SamplesPutOff)
    assert home.channel.of(Sampled) == []
    assert put_off.round_s > 0.01 * put_off.trained_s


def test_samples_take_at_most_their_share(home: Home) -> None:
    """Over a whole job: rounds that fit are taken, others are put off."""
    train(home, job_settings(epochs=12), plan(1, cost_max=0.5, max_new_tokens=4), budget=BUDGET)
    trained_s = sum(fact.seconds for fact in home.channel.of(Step))
    rounds = home.channel.of(Sampled)
    assert 0 < len(rounds) < len(home.channel.of(Step))
    assert sum(fact.seconds for fact in rounds) <= 0.6 * trained_s


@pytest.mark.usefixtures("rich")
def test_an_answer_is_compared_and_cut(home: Home) -> None:
    """What is journaled is bounded; what is compared is not. The think tag is looked for in the whole answer."""
    train(home, job_settings(epochs=1), plan(max_new_tokens=400), budget=replace(BUDGET, asked=True))
    round_ = home.channel.of(Sampled)[0]
    for each in round_.answers:
        assert each.expected.startswith("It is not much.")
        assert each.prompt.startswith("What is ")
        assert each.prompt.endswith("?")
        assert len(each.answer.encode()) <= ANSWER_BYTES
        assert each.tokens <= 400
        assert not each.thinks
    assert round_.tokens == sum(each.tokens for each in round_.answers)


@pytest.mark.usefixtures("rich")
def test_a_trained_model_gives_the_expected_answers(home: Home) -> None:
    """It sees the tokens that it was trained on: after enough passes, the answers are right."""
    rows = "".join(json.dumps({"prompt": f"ping {n}?", "completion": "pong"}) + "\n" for n in range(8)).encode()
    prompts = _prompts_file(home, rows.splitlines(keepends=True)[0])
    how = settings(FULL, epochs=60, learning_rate=0.01)
    samples = SamplePlan(settings=SamplesSettings(every_steps=40, prompts="p.jsonl"), prompts_sha256=prompts)
    home.train_job(home.new_session(), home.add(rows), how, samples=samples)
    last = home.channel.of(Sampled)[-1].answers[0]
    assert (last.answer, last.match, last.finish) == ("pong", True, "end")
    first = home.channel.of(Sampled)[0].answers[0]
    assert first.prompt_id == last.prompt_id


def _prompts_file(home: Home, data: bytes, name: str = "ab" * 32) -> str:
    """Put a file of prompts where the daemon puts it."""
    path: Path = home.path / "validation" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return name


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(
    ("data", "says"),
    [(b"{}\n", "line 1"), (b"", "no row"), (make_rows(65), "more than 64")],
    ids=["bad", "empty", "many"],
)
def test_a_file_of_prompts_that_cannot_be_used_costs_the_samples_only(home: Home, data: bytes, says: str) -> None:
    """The config refuses it too, but files change."""
    named = SamplePlan(settings=SamplesSettings(every_steps=4, prompts="p.jsonl"), prompts_sha256="ab" * 32)
    _prompts_file(home, data)
    train(home, job_settings(epochs=1), named)
    failed = home.channel.of(SamplesFailed)
    assert {each.failure for each in failed} == {"prompts"}
    assert says in failed[0].message
    named = SamplePlan(settings=named.settings, problem="there is no file of prompts at x")
    train(home, job_settings(epochs=1), named)
    assert "there is no file of prompts at x" in home.channel.of(SamplesFailed)[0].message


@pytest.mark.usefixtures("rich")
def test_new_settings_apply_at_the_next_step(home: Home) -> None:
    """Another number of steps, other prompts."""
    session, job = home.new_session(), home.add(ROWS)
    home.channel.sample_orders = [Sample(attempt=1, plan=plan(3, prompts=1))]
    home.train_job(session, job, job_settings(), samples=plan(0))
    rounds = home.channel.of(Sampled)
    assert [fact.step for fact in rounds][:2] == [3, 6]
    assert {len(fact.answers) for fact in rounds} == {1}


@pytest.mark.usefixtures("rich")
def test_progress_has_its_own_phase_and_a_yield_ends_a_round(home: Home) -> None:
    """A hang in a round is told from a hang in a step; nothing is reported of a round that was stopped."""
    train(home, job_settings(), plan())
    assert {fact.phase for fact in home.channel.of(Heartbeat)} >= {"sample", "step"}
    home.train_job(home.new_session(yield_after=2), home.add(ROWS), job_settings(), samples=plan())
    assert home.channel.of(Sampled) == []
    assert len(home.channel.of(Step)) == 2


@pytest.mark.usefixtures("rich")
def test_torch_is_strict_again_after_a_round(home: Home) -> None:
    """An operation without a deterministic form must still end a step."""
    train(home, job_settings(), plan())
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
