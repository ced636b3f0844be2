"""Layers that are computed again in the backward pass: the same bits, and less that is kept."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from events.settings import DataSettings, JobSettings
from gpu.errors import ModelUnusable
from gpu.training import gradient_checkpointing
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(8)

MODES = {
    "lora, dropout": settings(LORA),
    "lora, dropout, bf16": settings(LORA, precision="bf16"),
    "lora, dropout, plain kernels": settings(LORA, kernels="plain"),
    "qlora, dropout": settings(QLORA),
    "full": settings(FULL),
    "lora, dropout, packing": settings(LORA, data=DataSettings(packing=True, max_length=150)),
}


def with_checkpointing(how: JobSettings, wanted: str) -> JobSettings:
    training = msgspec.structs.replace(how.training, gradient_checkpointing=wanted)
    return msgspec.structs.replace(how, training=training)


def is_on(session: object) -> set[bool]:
    model = session._model.trained.model  # type: ignore[attr-defined]
    return {each.gradient_checkpointing for each in model.modules() if isinstance(each, GradientCheckpointingLayer)}


@pytest.mark.parametrize("mode", MODES)
def test_it_changes_no_bit_and_may_change_within_a_job(home: Home, mode: str) -> None:
    job, off, on = home.add(ROWS), *(with_checkpointing(MODES[mode], each) for each in ("off", "on"))
    whole = home.bits(home.train_job(home.new_session(), job, off))
    session = home.new_session()
    half = home.train_job(session, job, on, until=2)
    assert is_on(session) == {True}
    assert home.bits(home.train_job(session, job, off, step=2, checkpoint=half)) == whole
    assert is_on(session) == {False}


def test_auto_switches_it_on_if_the_device_has_too_little_memory(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    job, session = home.add(ROWS), home.new_session()
    home.train_job(session, job, settings(LORA), until=1)
    assert is_on(session) == {False}
    monkeypatch.setattr(gradient_checkpointing, "usable_bytes", lambda device: 1e6)
    session = home.new_session()
    home.train_job(session, job, settings(LORA), until=1)
    assert is_on(session) == {True}


def test_a_model_without_such_layers_refuses_on_and_ignores_auto(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """All architectures that the tests know have them."""
    monkeypatch.setattr(gradient_checkpointing, "GradientCheckpointingLayer", torch.nn.Bilinear)
    job, how = home.add(ROWS), settings(LORA)
    with pytest.raises(ModelUnusable, match="gradient_checkpointing"):
        home.train_job(home.new_session(), job, with_checkpointing(how, "on"), until=1)
    home.train_job(home.new_session(), job, how, until=1)


def test_the_memory_of_a_device_leaves_some_for_others() -> None:
    assert 0 < gradient_checkpointing.usable_bytes(torch.device("cpu")) < math.inf
