"""A whole checkpoint, and the models that it must not be used with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.settings import FullSettings, JobSettings, LoraSettings, MethodSettings, ModelSettings
from gpu.artifacts.compatibility import OPTIMIZER, TrainingTarget, differences
from gpu.artifacts.manifest import Manifest
from tests.gpu.helpers import manifest

LORA = LoraSettings(r=64, target_modules=("q_proj", "v_proj"))
PARAMETERS = (("a", (64, 8)), ("b", (8, 64)))


def of(method: MethodSettings) -> JobSettings:
    return JobSettings(model=ModelSettings(path="models/mine"), method=method)


def whole(**lineage: Any) -> Manifest:
    plain = manifest()
    defaults = {"settings": of(LORA), "tokenizer_sha256": "t1", "base_sha256": "b1", "batches_sha256": "p1"}
    return msgspec.structs.replace(
        plain,
        parameters=PARAMETERS,
        optimizer=OPTIMIZER,
        lineage=msgspec.structs.replace(plain.lineage, **{**defaults, **lineage}),
    )


def ground(method: MethodSettings = LORA, **other: Any) -> TrainingTarget:
    return TrainingTarget(of(method), PARAMETERS, "b1", "t1")._replace(**other)


OTHER = (("a", (128, 8)), ("b", (8, 128)))


def test_factors_of_an_embedding_fit_under_their_older_names() -> None:
    old, new = (("e.lora_embedding_A.default", (4, 8)),), (("e.lora_embedding_A", (4, 8)),)
    assert differences(msgspec.structs.replace(whole(), parameters=old), ground(parameters=new)) == []


def test_buffers_are_those_of_the_model_or_of_before_they_were_saved() -> None:
    """An old checkpoint of a model has none, and those of its base are used."""
    buffers = (("scale", (1,), "F32"),)
    saved = msgspec.structs.replace(whole(), buffers=buffers)
    assert differences(whole(), ground(buffers=buffers)) == []
    assert differences(saved, ground(buffers=buffers)) == []
    assert differences(saved, ground()) == ["its buffers are not those of the model, by name, shape or dtype"]


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (ground(), []),
        (ground(batches_sha256="p1"), []),
        (ground(LoraSettings(r=64, target_modules=("v_proj", "q_proj"))), []),
        (ground(LoraSettings(r=64, target_modules="all-linear")), []),
        (ground(LoraSettings(r=64, dropout=0.5, target_modules=("q_proj", "v_proj"))), []),
        (
            ground(LoraSettings(r=128, target_modules=("q_proj", "v_proj")), parameters=OTHER),
            ["it has r=64, the settings say r=128"],
        ),
        (
            ground(LoraSettings(r=64, alpha=16.0, target_modules=("q_proj", "v_proj"))),
            ["it has alpha=32.0, the settings say alpha=16.0"],
        ),
        (
            ground(LoraSettings(r=64), parameters=(*PARAMETERS, ("c", (64, 8)))),
            ["it has target_modules=q_proj,v_proj, the settings say target_modules=all-linear"],
        ),
        (
            ground(parameters=(*PARAMETERS, ("c", (64, 8)))),
            ["it lacks the parameter c"],
        ),
        (ground(parameters=PARAMETERS[:1]), ["it holds the parameter b, which the model does not have"]),
        (ground(parameters=OTHER), ["its parameter a is (64, 8), the model's is (128, 8)"]),
        (ground(parameters=PARAMETERS[::-1]), ["its parameters are in another order than the model's"]),
        (
            ground(base_sha256="b2"),
            [
                "the base model at models/mine is not the one that it was trained on: its SHA-256 was b1, is b2",
            ],
        ),
        (
            ground(tokenizer_sha256="t2"),
            [
                "the tokenizer or chat template of models/mine is not the one that it was trained with: "
                "its SHA-256 was t1, is t2",
            ],
        ),
        (
            ground(batches_sha256="p2"),
            ["the batches after it are planned otherwise than those before it (rows, seed, geometry)"],
        ),
    ],
)
def test_every_difference_has_its_name(ours: TrainingTarget, says: list[str]) -> None:
    assert differences(whole(), ours) == says


def test_all_differences_are_reported_at_once() -> None:
    found = differences(whole(), ground(FullSettings(), parameters=OTHER, base_sha256="b2", tokenizer_sha256="t2"))
    assert "it has kind=lora, the settings say kind=full" in found
    assert len(found) == 3


def test_another_optimizer_is_named() -> None:
    theirs = msgspec.structs.replace(whole(), optimizer="torch.optim.Lion")
    assert differences(theirs, ground()) == ["it was trained with torch.optim.Lion, not with torch.optim.AdamW"]


def test_a_manifest_of_before_the_base_was_fingerprinted_is_read_and_not_compared() -> None:
    old = msgspec.json.decode(whole().encode())
    del old["lineage"]["base_sha256"]
    theirs = msgspec.json.decode(msgspec.json.encode(old), type=Manifest)
    assert differences(theirs, ground(base_sha256="b2")) == []
