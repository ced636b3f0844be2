"""The loss on rows that are never trained: right, harmless, and never in the way."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from events.messages import Evaluated, Heartbeat, Prepare, Step
from events.settings import DataSettings, EvaluationSettings, JobSettings
from gpu.errors import EvaluationFailed, YieldRequested
from gpu.ipc.worker_channel import Heartbeats
from gpu.model.build import build
from gpu.training.evaluate import evaluate, is_due, steps_since
from tests.gpu.helpers import FULL, LORA, QLORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(40)

HELD_OUT = DataSettings(holdout=0.3)


def often(method: Any = LORA, *, every_steps: int = 2, rows: int = 8, **changes: Any) -> JobSettings:
    """Evaluated after every second step."""
    made = settings(method, data=HELD_OUT, **changes)
    return replace(made, evaluation=EvaluationSettings(every_steps=every_steps, rows=rows))


def standing(home: Home, how: JobSettings, data: bytes = ROWS) -> tuple[Any, Any]:
    """A model, and the tokens of a file."""
    session = home.new_session()
    session.prepare(Prepare(attempt=1, job=home.add(data), settings=how))
    return build(how, home.path, torch.device("cpu")), session._prepared[1].tokens


def measure(home: Home, how: JobSettings, channel: FakeChannel | None = None) -> Any:
    """The loss on all rows of the file, before anything is trained."""
    trained, tokens = standing(home, how)
    channel = channel or FakeChannel()
    return evaluate(trained, tokens, how, 7, channel, Heartbeats(channel, 1)), trained, tokens


def test_it_is_the_mean_over_all_tokens_that_are_to_be_predicted(home: Home) -> None:
    """Row by row, without dropout, it is the same."""
    how = settings(LORA)
    found, trained, tokens = measure(home, how)
    trained.model.eval()
    logits = []
    for row in range(len(tokens)):
        start, end = tokens.span(row)
        ids = torch.tensor(tokens.ids[start:end][None].astype("int64"))
        with torch.no_grad():
            scores = torch.log_softmax(trained.model(input_ids=ids).logits[0].float(), dim=-1)
        logits += [
            -float(scores[place - 1, ids[0, place]]) for place in range(1, end - start) if tokens.trained[start + place]
        ]
    assert found.tokens == len(logits)
    assert found.loss == pytest.approx(sum(logits) / len(logits), rel=1e-5)
    assert found.rows == len(tokens) == 40


def test_it_is_the_same_number_each_time(home: Home) -> None:
    """To the bit: dropout is off, and the order is fixed."""
    assert measure(home, settings(LORA))[0].loss == measure(home, settings(LORA))[0].loss


def test_the_model_trains_on_as_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is back in training mode, also when something went wrong, and no gradient is left."""
    trained, tokens = standing(home, settings(LORA))
    channel = FakeChannel()
    for fault in ("", "evaluation:7:0"):
        monkeypatch.setenv("KEEPSTEP_FAULTS", fault)
        with suppress(EvaluationFailed):
            evaluate(trained, tokens, settings(LORA), 7, channel, Heartbeats(channel, 1))
            assert not fault
        assert all(module.training for module in trained.model.modules())
        assert all(parameter.grad is None for parameter in trained.parameters.values())


@pytest.mark.parametrize(
    "how",
    [often(LORA), often(FULL), often(QLORA), often(LORA, precision="bf16")],
    ids=["lora", "full", "qlora", "bf16"],
)
def test_weights_are_the_same_bits_with_evaluations_and_without(home: Home, how: JobSettings) -> None:
    """So are the losses of the steps."""
    job = home.add(ROWS)
    quiet = replace(how, evaluation=EvaluationSettings(rows=0))
    ends = []
    for each in (how, quiet):
        ends.append((home.bits(home.train_job(home.new_session(), job, each, evaluates=True)), losses(home.channel)))
        assert bool(home.channel.of(Evaluated)) == (each is how)
    assert ends[0] == ends[1]


def losses(channel: FakeChannel) -> list[Any]:
    return [fact.loss for fact in channel.of(Step)]


def test_a_job_is_evaluated_at_its_beginning_on_its_way_and_at_its_end(home: Home) -> None:
    """Reported with the mean loss of the steps since then."""
    home.train_job(home.new_session(), home.add(ROWS), often(every_steps=4), evaluates=True)
    steps, found = losses(home.channel), home.channel.of(Evaluated)
    total = len(steps)
    assert [fact.step for fact in found] == [0, *range(4, total, 4), total]
    assert [fact.step for fact in found] == [
        step for step in range(total + 1) if is_due(step, total, often(every_steps=4).evaluation)
    ]
    assert found[0].training_loss is None
    assert found[1].training_loss == pytest.approx(sum(steps[:4]) / 4)
    last = steps_since(total, often(every_steps=4).evaluation)
    assert found[-1].training_loss == pytest.approx(sum(steps[-last:]) / last)
    assert found[-1].loss < found[0].loss
    assert {fact.rows for fact in found} == {7}  # those that are held out; 8 would be the most


def test_it_is_not_evaluated_where_it_was_before_or_nobody_wants_it(home: Home) -> None:
    """The order says so."""
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, often(), evaluates=True, evaluated_to=4)
    assert [fact.step for fact in home.channel.of(Evaluated)][:2] == [6, 8]
    home.train_job(home.new_session(), job, often())
    assert home.channel.of(Evaluated) == []


def test_a_resumed_run_is_evaluated_as_an_undisturbed_one(home: Home) -> None:
    """The same losses after the same steps, the training loss too."""
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, often(every_steps=4), evaluates=True)
    whole = [(fact.step, fact.loss, fact.training_loss) for fact in home.channel.of(Evaluated)]
    for cut in (4, 6):
        checkpoint = home.train_job(home.new_session(), job, often(every_steps=4), until=cut)
        home.train_job(
            home.new_session(),
            job,
            often(every_steps=4),
            step=cut,
            checkpoint=checkpoint,
            evaluates=True,
            evaluated_to=4,
        )
        again = [(fact.step, fact.loss, fact.training_loss) for fact in home.channel.of(Evaluated)]
        assert again == [each for each in whole if each[0] > 4]


def test_progress_is_said_in_its_own_phase(home: Home) -> None:
    """A hang in it is told from a hang in a step."""
    home.train_job(home.new_session(), home.add(ROWS), often(), evaluates=True)
    assert {fact.phase for fact in home.channel.of(Heartbeat)} >= {"evaluate", "step"}


def test_it_stops_at_once_when_the_daemon_wants_it_to(home: Home) -> None:
    """Nothing is reported, and the steps that were made are committed."""
    with pytest.raises(YieldRequested):
        measure(home, settings(LORA), FakeChannel(yield_after=0))
    job = home.add(ROWS)
    home.train_job(home.new_session(yield_after=2), job, often(every_steps=2), evaluates=True)
    assert [fact.step for fact in home.channel.of(Evaluated)] == [0]
    assert len(home.channel.of(Step)) == 2


def test_where_memory_is_short_fewer_rows_are_taken_together(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the same but for rounding; training is none the wiser."""
    how = settings(LORA, batch_size=8)
    whole = measure(home, how)[0]
    monkeypatch.setenv("KEEPSTEP_FAULTS", "evaluation:7:2")
    assert measure(home, how)[0].loss == pytest.approx(whole.loss, rel=1e-5)


def test_where_one_row_does_not_fit_the_evaluation_has_failed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said whose fault it was, and that nothing depends on it."""
    monkeypatch.setenv("KEEPSTEP_FAULTS", "evaluation:7:0")
    with pytest.raises(EvaluationFailed) as caught:
        measure(home, settings(LORA))
    assert isinstance(caught.value.cause, torch.OutOfMemoryError)


def test_a_loss_that_is_no_number_is_said_as_such(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stops nothing."""
    monkeypatch.setenv("KEEPSTEP_FAULTS", "nan_evaluation:2")
    home.train_job(home.new_session(), home.add(ROWS), often(), evaluates=True)
    found = {fact.step: fact.loss for fact in home.channel.of(Evaluated)}
    assert found.pop(2) == "NaN"
    assert all(math.isfinite(loss) for loss in found.values())
