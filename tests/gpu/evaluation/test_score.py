"""Scores of rows against the logits of the whole model, and the divergence against its formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpu.evaluation import score
from gpu.evaluation.models import load_model
from gpu.evaluation.rows import Row
from gpu.evaluation.score import divergence, reference, score_rows
from gpu.model.build import TrainedModel
from tests.gpu.helpers import settings

ROWS = [
    Row("a", "j", [3, 9, 27, 81, 5, 6], [0, 0, 1, 1, 0, 1]),
    Row("b", "j", [4, 8, 16], [0, 1, 1]),
    Row("c", "k", list(range(3, 40)), [0, *[1] * 36]),
]


@pytest.fixture(scope="module")
def trained(model_directory: Path) -> TrainedModel:
    torch.set_num_threads(1)
    return load_model(model_directory.parent, None, settings(), torch.device("cpu"), lambda _: None)


def expected(trained: TrainedModel, row: Row) -> tuple[float, int]:
    logits = trained.model(input_ids=torch.tensor([row.ids])).logits[0, :-1].double()
    labels, marks = torch.tensor(row.ids[1:]), torch.tensor(row.trained[1:]).bool()
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")[marks]
    return float(losses.sum()), int((logits.argmax(1) == labels)[marks].sum())


@pytest.mark.parametrize("with_head", [True, False])
def test_scores_are_those_of_the_models_own_logits(
    trained: TrainedModel, with_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of rows of different lengths, in chunks of tokens, with and without the faster output layer."""
    monkeypatch.setattr(score, "CHUNK_ELEMENTS", 700)
    assert trained.head is not None
    if not with_head:
        monkeypatch.setattr(trained, "head", None)
    for found, row in zip(score_rows(trained, ROWS, 2, lambda *_: None), ROWS, strict=True):
        loss, right = expected(trained, row)
        assert (found.id, found.job, found.tokens, found.right) == (row.id, row.job, sum(row.trained), right)
        assert found.loss == pytest.approx(loss, rel=1e-4)


def test_a_batch_that_does_not_fit_is_halved(trained: TrainedModel) -> None:
    sizes: list[int] = []

    def limit(rows: int) -> None:
        sizes.append(rows)
        if rows > 1:
            raise torch.OutOfMemoryError("injected")

    scores = score_rows(trained, ROWS, 4, lambda *_: None, limit)
    assert [each.id for each in scores] == ["a", "b", "c"]
    assert sizes == [3, 2, 1, 1, 1]


def test_one_row_that_does_not_fit_is_an_error(trained: TrainedModel) -> None:
    def fail(_: int) -> None:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(torch.OutOfMemoryError):
        score_rows(trained, ROWS, 4, lambda *_: None, fail)


def test_a_model_does_not_diverge_from_itself(trained: TrainedModel) -> None:
    base = reference(trained, ROWS, lambda: None)
    found = divergence(trained, base, lambda: None)
    assert found is not None
    assert float(found.nats) == pytest.approx(0.0, abs=1e-6)
    assert found.tokens == sum(sum(row.trained) for row in ROWS)


def test_the_divergence_follows_its_formula(trained: TrainedModel) -> None:
    """KL(base ‖ model) = Σ p (log p - log q), with p uniform here."""
    base = reference(trained, ROWS[:1], lambda: None)
    (ours,) = base.log_probabilities
    uniform = torch.full_like(ours, 1 / ours.shape[1]).log()
    found = divergence(trained, base._replace(log_probabilities=(uniform,)), lambda: None)
    assert found is not None
    assert found.nats == pytest.approx(float((uniform.exp() * (uniform - ours)).sum(1).mean()), rel=1e-5)


def test_the_reference_takes_bounded_memory(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = trained.model.config.vocab_size
    monkeypatch.setattr(score, "REFERENCE_BYTES", 4 * vocabulary * 4)
    base = reference(trained, ROWS, lambda: None)
    assert sum(map(len, base.log_probabilities)) == 4
    found = divergence(trained, base, lambda: None)
    assert found is not None
    assert found.tokens == 4


def test_nothing_to_compare_is_no_divergence(trained: TrainedModel) -> None:
    assert divergence(trained, reference(trained, [], lambda: None), lambda: None) is None
