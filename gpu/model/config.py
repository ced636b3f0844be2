"""The config.json of checkpoints and versions: that of the base, with as few edits as possible.

transformers 5 renamed fields, and also reads the old names. Earlier versions, and programs that follow them, know only
the old names and use defaults for missing fields: a `rope_theta` of 10000 makes another model without an error. So a
field with two names is written under both. Other fields stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ROPE = "rope_parameters"
"""The new name: one dict with all settings of the rotary positions, or one dict for each type of layer."""

_THETA, _SHARE, _TYPE = "rope_theta", "partial_rotary_factor", "rope_type"

OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt_neox": {_THETA: "rotary_emb_base", _SHARE: "rotary_pct"},
    "gpt_neox_japanese": {_THETA: "rotary_emb_base", _SHARE: "rotary_pct"},
}
"""Types of models with other old names."""

THETAS_BY_LAYER: Mapping[str, Mapping[str, str]] = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "gemma3n_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "modernbert-decoder": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "olmo3": {"full_attention": "rope_theta"},
}
"""Types of models with a base frequency for each type of layer, and its old name. Models that are newer than
transformers 4 have no old names."""

SCALED_LAYERS = "full_attention"
"""The type of layers that the old `rope_scaling` describes."""

LONGROPE_ONLY = frozenset({"phi3", "phi4_multimodal"})
"""Types of models for which transformers 4 accepts only type, short_factor and long_factor in `rope_scaling`."""

_EXPERTS = {"num_local_experts": "num_experts"}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "qwen3_moe": _EXPERTS,
    "qwen3_vl_moe_text": _EXPERTS,
    "qwen3_omni_moe_text": _EXPERTS,
    "qwen3_omni_moe_talker_text": _EXPERTS,
}
"""Types of models with other renamed fields: new name and old name."""

LAYER_TYPES: Mapping[str, Mapping[str, str]] = {
    "granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"},
}
"""Types of models whose layer types transformers 4 knows only by old names. transformers 5 reads these too."""


def edit_config(config: bytes, *, dtype: str, architecture: str | None = None, untied: bool = False) -> bytes:
    """Return a config.json for weights that are stored as `dtype`, with each field under both its names.

    `config`: the bytes of the base's. `architecture`: the class of the model; None: unchanged. `untied`: head and
    embedding are two weights, whatever the config says. Returns the same bytes if nothing changes. Raises ValueError.
    """
    before: dict[str, Any] = json.loads(config)
    after = json.loads(config)
    if architecture is not None:
        after["architectures"] = [architecture]
    after["dtype"] = after["torch_dtype"] = dtype
    for part in (after, after.get("text_config")) if untied else ():
        if isinstance(part, dict) and part.get("tie_word_embeddings", True):
            part["tie_word_embeddings"] = False
    _add_old_names(after, dtype)
    return config if after == before else json.dumps(after, indent=2, ensure_ascii=False).encode() + b"\n"


def _add_old_names(section: dict[str, Any], dtype: str) -> None:
    """Add the old names to a section of a config and to the sections in it."""
    if section.keys() & {"dtype", "torch_dtype"}:
        section["dtype"] = section["torch_dtype"] = dtype
    kind = str(section.get("model_type"))
    for name, value in old_names_of(section).items():
        section.setdefault(name, value)
    for new, old in RENAMED.get(kind, {}).items():
        if new in section:
            section.setdefault(old, section[new])
    if kind in LAYER_TYPES and isinstance(section.get("layer_types"), list):
        section["layer_types"] = [LAYER_TYPES[kind].get(each, each) for each in section["layer_types"]]
    for name, value in section.items():
        if isinstance(value, dict) and name.endswith("_config"):
            _add_old_names(value, dtype)


def old_names_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions in a section under their old names; {} if it has none."""
    rope, kind = section.get(ROPE), str(section.get("model_type"))
    if not isinstance(rope, dict) or not rope:
        return {}
    if not any(isinstance(value, dict) for value in rope.values()):
        names = OLD_NAMES.get(kind, {})
        found = {names.get(name, name): rope[name] for name in (_THETA, _SHARE) if rope.get(name) is not None}
        return {**found, "rope_scaling": _scaling(rope, kind)}
    thetas = THETAS_BY_LAYER.get(kind)
    if thetas is None:
        return {}
    layers = {layer: rope.get(layer) or {} for layer in thetas}
    found = {name: layers[layer][_THETA] for layer, name in thetas.items() if _THETA in layers[layer]}
    return {**found, "rope_scaling": _scaling(layers[SCALED_LAYERS], kind)}


def _scaling(rope: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the old `rope_scaling`; None if positions are not scaled."""
    rest = {name: value for name, value in rope.items() if name not in {_THETA, _SHARE}}
    rest.setdefault(_TYPE, rope.get("type", "default"))
    if rest[_TYPE] == "default" and not rest.keys() - {_TYPE, "type"}:
        return None
    if kind in LONGROPE_ONLY:
        return {"type": rest[_TYPE], **{name: rest[name] for name in ("short_factor", "long_factor") if name in rest}}
    return rest
