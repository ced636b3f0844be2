"""A config says the same under its old names as under its new ones, and is edited nowhere else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from gpu.model.config import LAYER_TYPES, OLD_NAMES, RENAMED, ROPE, THETAS_BY_LAYER, edit_config, old_names_of

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "torch_dtype": "bfloat16"}


def as_bytes(config: dict[str, Any]) -> bytes:
    return json.dumps(config, indent=4).encode()


def test_a_config_that_says_it_all_keeps_its_bytes() -> None:
    """Indentation, order and unknown fields included."""
    config = as_bytes({**LLAMA, "rope_theta": 5e5, "rope_scaling": None, "of_nobody": {"a": [1, 1e-5]}})
    assert edit_config(config, dtype="bfloat16", architecture="LlamaForCausalLM") == config


def test_only_what_must_change_changes() -> None:
    """The kind of number, under both names and in each section that has one."""
    config = {"of_nobody": [0.1], **LLAMA, "text_config": {"torch_dtype": "bfloat16", "of_nobody": "ü"}}
    del config["dtype"]
    after = json.loads(edit_config(as_bytes(config), dtype="float32"))
    kind = {"dtype": "float32", "torch_dtype": "float32"}
    assert after == {**config, **kind, "text_config": {**kind, "of_nobody": "ü"}}  # type: ignore[dict-item]


def test_what_a_base_says_under_an_old_name_is_left_alone() -> None:
    rope = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    config = {**LLAMA, ROPE: rope, "rope_theta": 1e6}
    after = json.loads(edit_config(as_bytes(config), dtype="bfloat16"))
    assert after == {**config, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    ("section", "old"),
    [
        ({"model_type": "llama"}, {}),
        ({"model_type": "llama", ROPE: {}}, {}),
        (
            {"model_type": "llama", ROPE: {"rope_theta": 5e5, "rope_type": "default"}},
            {"rope_theta": 5e5, "rope_scaling": None},
        ),
        (
            {"model_type": "gpt_neox", ROPE: {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
            {"rotary_emb_base": 1e6, "rotary_pct": 0.5, "rope_scaling": None},
        ),
        (
            {
                "model_type": "gemma3_text",
                ROPE: {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                },
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        (
            {
                "model_type": "phi3",
                ROPE: {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1], "long_factor": [2], "x": 3},
            },
            {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]}},
        ),
        ({"model_type": "of_later", ROPE: {"some_layers": {"rope_theta": 1e6}}}, {}),
    ],
)
def test_rotary_positions_have_their_old_names(section: dict[str, Any], old: dict[str, Any]) -> None:
    """Of a type of model that differs by layer and never had old names, none are invented."""
    assert old_names_of(section) == old


def test_other_renamed_fields_have_their_old_names() -> None:
    """transformers 4 would take its default number of experts."""
    after = json.loads(edit_config(as_bytes({"model_type": "qwen3_moe", "num_local_experts": 4}), dtype="float32"))
    assert after["num_experts"] == after["num_local_experts"] == 4
    hybrid = {"model_type": "granitemoehybrid", "layer_types": ["linear_attention", "full_attention"]}
    assert json.loads(edit_config(as_bytes(hybrid), dtype="float32"))["layer_types"] == ["mamba", "attention"]


def sections(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each section that has rotary positions."""
    if config.get(ROPE):
        yield config
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config"):
            yield from sections(value)


def changed(rope: dict[str, Any]) -> None:
    """Base frequencies that are nobody's default."""
    for name, value in rope.items():
        if name == "rope_theta":
            rope[name] = 777_000.0
        elif isinstance(value, dict):
            changed(value)


LATER = frozenset({"bailing_hybrid", "cohere2_moe", "olmo3"})
"""The installed transformers does not read their old names by themselves. With the new ones they do no harm."""


def test_the_installed_transformers_reads_the_old_names_as_the_new_ones() -> None:
    """For each type of causal language model that it has: with both, and, but for a few, with the old ones alone."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    warnings.simplefilter("ignore")
    seen = set()
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False))
        except Exception:  # noqa: BLE001 - a config that cannot be made of nothing, for whatever reason
            continue
        for section in sections(config):
            changed(section[ROPE])

        def read(text: bytes, kind: str = kind) -> list[Any]:
            given = json.loads(text, object_hook=lambda each: float(each["__float__"]) if "__float__" in each else each)
            made = json.loads(CONFIG_MAPPING[kind].from_dict(given).to_json_string(use_diff=False))
            return [section[ROPE] for section in sections(made)]

        new = read(as_bytes(config))
        both = edit_config(as_bytes(config), dtype="float32")
        assert read(both) == new, kind
        old = json.loads(both)
        with_old_names = [section for section in list(sections(old)) if old_names_of(section)]
        for section in with_old_names:
            del section[ROPE]
        if with_old_names and kind not in LATER:
            assert read(as_bytes(old)) == new, kind
            seen.add(kind)
    assert {"llama", "qwen2", "gemma3_text", "gpt_neox", "phi3", "modernbert-decoder"} <= seen


def test_the_tables_name_types_of_models_that_exist() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    named = {*OLD_NAMES, *THETAS_BY_LAYER, *RENAMED, *LAYER_TYPES}
    assert named - {*CONFIG_MAPPING_NAMES} <= {"qwen3_omni_moe_text", "qwen3_omni_moe_talker_text", "gemma3n_text"}
