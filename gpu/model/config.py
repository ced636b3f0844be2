"""The config.json of what keepstep writes: that of the base, with as few edits as there can be.

transformers 5 renamed fields, and reads the old names too. Earlier versions, and programs that follow them, know the
old names only and take a default for what they miss: a `rope_theta` of 10000, which is silently another model. So a
field that has two names is written under both. Fields that keepstep does not know stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ROPE = "rope_parameters"
"""The new name: one dict with all that decides the rotary positions, or one dict for each type of layer."""

_THETA, _SHARE, _TYPE = "rope_theta", "partial_rotary_factor", "rope_type"

OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt_neox": {_THETA: "rotary_emb_base", _SHARE: "rotary_pct"},
    "gpt_neox_japanese": {_THETA: "rotary_emb_base", _SHARE: "rotary_pct"},
}
"""Types of models whose old names are not those of the others."""

THETAS_BY_LAYER: Mapping[str, Mapping[str, str]] = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "gemma3n_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "modernbert-decoder": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "olmo3": {"full_attention": "rope_theta"},
}
"""Types of models that differ by the type of the layer, and the old name of each base frequency. Models that came later
than transformers 4 never had old names."""

SCALED_LAYERS = "full_attention"
"""Where types of layers differ, the old `rope_scaling` is that of these."""

LONGROPE_ONLY = frozenset({"phi3", "phi4_multimodal"})
"""transformers 4 refuses a `rope_scaling` of theirs with any field but these three: type, short_factor, long_factor."""

_EXPERTS = {"num_local_experts": "num_experts"}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "qwen3_moe": _EXPERTS,
    "qwen3_vl_moe_text": _EXPERTS,
    "qwen3_omni_moe_text": _EXPERTS,
    "qwen3_omni_moe_talker_text": _EXPERTS,
}
"""Types of models with other fields that have a new name, and the old name of each."""

LAYER_TYPES: Mapping[str, Mapping[str, str]] = {
    "granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"},
}
"""Types of models whose layers transformers 4 knows by their old names only. transformers 5 reads these too."""


def edited(config: bytes, *, dtype: str, architecture: str | None = None, untied: bool = False) -> bytes:
    """`config` (the content of a config.json) for weights that are stored as `dtype`, each field under both its names.

    `architecture`: the class that the weights belong to; None: as it is. `untied`: head and embedding are two weights,
    whatever the config says. Returns the same bytes if nothing has to
    change. Raises ValueError.
    """
    before: dict[str, Any] = json.loads(config)
    after = json.loads(config)
    if architecture is not None:
        after["architectures"] = [architecture]
    after["dtype"] = after["torch_dtype"] = dtype
    for part in (after, after.get("text_config")) if untied else ():
        if isinstance(part, dict) and part.get("tie_word_embeddings", True):
            part["tie_word_embeddings"] = False
    _spell(after, dtype)
    return config if after == before else json.dumps(after, indent=2, ensure_ascii=False).encode() + b"\n"


def _spell(section: dict[str, Any], dtype: str) -> None:
    """Write what this section of a config, and those in it, have under new names under the old ones too."""
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
            _spell(value, dtype)


def old_names_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a section of a config says of rotary positions under new names, under the old ones; {} if it has none."""
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
    """The old `rope_scaling`; None: positions are not scaled."""
    rest = {name: value for name, value in rope.items() if name not in {_THETA, _SHARE}}
    rest.setdefault(_TYPE, rope.get("type", "default"))
    if rest[_TYPE] == "default" and not rest.keys() - {_TYPE, "type"}:
        return None
    if kind in LONGROPE_ONLY:
        return {"type": rest[_TYPE], **{name: rest[name] for name in ("short_factor", "long_factor") if name in rest}}
    return rest
