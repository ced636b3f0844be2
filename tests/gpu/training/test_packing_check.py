"""Packing is refused for models that cannot keep rows apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from events.messages import Step
from events.settings import DataSettings
from gpu.errors import ModelUnusable
from gpu.model.build import TrainedModel
from gpu.training.packing_check import refuse_unpackable
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import make_rows

SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}

GOOD: dict[str, dict[str, Any]] = {
    "llama": ATTENTION,
    "qwen2": ATTENTION,
    "qwen3": {**ATTENTION, "head_dim": 8},
    "mistral": ATTENTION,
    "gemma2": {**ATTENTION, "head_dim": 8},
    "phi3": {**ATTENTION, "pad_token_id": 0},
    "gpt2": {"num_attention_heads": 4},
    "gpt_neox": {"num_attention_heads": 4, "intermediate_size": 64},
}
BAD: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "bloom": {"n_head": 4},
    "lfm2": {**ATTENTION, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
}


def made(family: str, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> TrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **config)).to(dtype)
    model.config.use_cache = False
    return TrainedModel(model.train(), torch.device("cpu"), {}, {}, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", GOOD)
def test_ordinary_decoders_can_be_packed(family: str, dtype: torch.dtype) -> None:
    trained = made(family, GOOD[family], dtype)
    refuse_unpackable(trained)
    assert trained.model.training


@pytest.mark.parametrize("family", BAD)
def test_models_that_would_mix_rows_are_refused(family: str) -> None:
    """A state that runs along the sequence, positions that the model computes, convolutions in some layers."""
    with pytest.raises(ModelUnusable, match="packing = false"):
        refuse_unpackable(made(family, BAD[family]))


def test_a_warm_model_is_asked_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been built for a job that packs nothing."""
    session, job = home.new_session(), home.add(make_rows(10))
    checkpoint = home.train_job(session, job, settings(LORA))
    monkeypatch.setattr("gpu.training.packing_check._separates_rows", lambda _: False)
    packing = settings(LORA, data=DataSettings(packing=True))
    with pytest.raises(ModelUnusable):
        home.train_job(session, job, packing, global_step=6, checkpoint=checkpoint)
    assert len(home.channel.of(Step)) == 6
