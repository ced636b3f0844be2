"""Check the layers that LoRA adapts: each name in `target_modules` must match, and each change must be mergeable.

A name that matches nothing is refused, even if others match: a typo would train less than the user asked for.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from gpu.errors import MergeRefused, ModelUnusable

if TYPE_CHECKING:
    from gpu.model.layout import Layout

ALL_LINEAR = "all-linear"
"""peft's shorthand for every linear layer but the head."""

NAMES_SHOWN = 12
"""Names of layers in a message; a model has about ten different ones."""


ATTENTION = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv"),
        *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    }
)
"""Names of attention layers in the architectures of transformers."""


def refuse_unmatched(base: Any, targets: str | Sequence[str]) -> None:
    """Raise ModelUnusable for the first name, or for the pattern, that matches no layer that LoRA can adapt.

    A name matches the layer of that name, and every layer whose name ends with a dot and this name. A string is a
    regular expression for whole names. These are the rules of peft (`check_target_module_exists`).
    """
    layers = _adaptable_layers(base)
    if isinstance(targets, str):
        if targets.lower() == ALL_LINEAR:
            return
        if not any(re.fullmatch(targets, name) for name in layers):
            raise ModelUnusable(
                f'[method] target_modules = "{targets}" is a regular expression, and no name of a layer '
                f"matches it as a whole. {_list_layers(layers)} To name layers, write a list in keepstep.toml: "
                f"target_modules = [{_example(targets, layers)}]."
            )
        return
    if not targets:
        raise ModelUnusable(f"[method] target_modules is empty, so nothing would be trained. {_list_layers(layers)}")
    for target in targets:
        if not any(_matches(target, name) for name in layers):
            raise ModelUnusable(_explain_unmatched(base, target, layers))


def refuse_unmergeable(layers: Mapping[str, Any], layout: Layout) -> None:
    """Raise ModelUnusable if a change of an adapted layer could not be merged. `layers`: peft's layers by name."""
    reasons: dict[str, str] = {}
    for name, layer in layers.items():
        reason = _why_unmergeable(name, layer, layout)
        if reason is not None:
            reasons[name] = reason
    if not reasons:
        return
    name, reason = next(iter(reasons.items()))
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    advice = way_out(layers.keys(), reasons.keys())
    if set(reasons.values()) == {DORA_TRANSPOSED}:
        advice = "Set [method] use_dora = false in keepstep.toml."
    raise ModelUnusable(f"LoRA on {name}{more} could never become a version: {reason}. {advice}")


DORA_TRANSPOSED = (
    "it holds its weight as (in, out), and the magnitudes that DoRA trains for such a weight cannot be merged"
)


def _why_unmergeable(name: str, layer: Any, layout: Layout) -> str | None:
    fused = getattr(layer, "parameter_name", None)
    if fused is not None:  # peft's ParamWrapper
        return f"{fused} there is one weight of fused experts, not a layer, and a change of it cannot be merged"
    base = layer.get_base_layer()
    if not isinstance(base, _adaptable_types()):
        return f"it is a {type(base).__name__}, not a linear layer or an embedding"
    weight = f"{name}.weight"
    if any(layer.use_dora.values()) and (isinstance(base, torch.nn.Embedding) or weight in layout.transposed):
        return DORA_TRANSPOSED
    try:
        layout.locate(weight)
    except MergeRefused as error:
        return str(error)
    return None


def linear_names(base: Any) -> list[str]:
    """Return the last parts of the names of the linear layers, without the head."""
    head = base.get_output_embeddings()
    return list(
        short_names(
            name
            for name, module in base.named_modules()
            if isinstance(module, _adaptable_types())
            and not isinstance(module, torch.nn.Embedding)
            and module is not head
        )
    )


def way_out_without(names: Sequence[str], complaint: str) -> str:
    """Return a setting to try after peft refused a layer: the `names` that its message `complaint` does not quote.

    Only attention layers are proposed, if there are any.
    """
    quoted = set(re.findall(r"'(\w+)'", complaint))
    return way_out(attention_names(name for name in names if name not in quoted))


def way_out(adapted: Iterable[str], refused: Iterable[str] = ()) -> str:
    """Return a setting that works: the adapted names whose layers can all be merged."""
    bad = short_names(refused)
    good = [name for name in short_names(adapted) if name not in bad]
    if good:
        names = ", ".join(f'"{name}"' for name in good)
        return f"Set [method] target_modules = [{names}] in keepstep.toml: these can be merged."
    return "Name other layers in [method] target_modules in keepstep.toml."


def short_names(layers: Iterable[str]) -> dict[str, int]:
    """Return the last part of each name and the number of layers with it, in the model's order."""
    return dict(Counter(name.rpartition(".")[2] for name in layers))


def attention_names(adapted: Iterable[str]) -> list[str]:
    """Return the adapted names of attention layers; all names if none is known."""
    names = list(adapted)
    return [name for name in names if name in ATTENTION] or names


def _adaptable_types() -> tuple[type, ...]:
    from transformers.pytorch_utils import Conv1D

    return torch.nn.Linear, torch.nn.Embedding, Conv1D


def _adaptable_layers(base: Any) -> list[str]:
    return [name for name, module in base.named_modules() if name and isinstance(module, _adaptable_types())]


def _matches(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _explain_unmatched(base: Any, target: str, layers: Sequence[str]) -> str:
    problem = f'[method] target_modules names "{target}", and the model has no layer of that name that LoRA can adapt'
    last = target.rpartition(".")[2]
    ends = (f".{last}", f".{last}.weight")
    held = [name for name, _ in base.named_parameters() if name.endswith(ends)]
    if held and last not in short_names(layers):
        return (
            f"{problem}: {held[0]} is one weight of fused experts, not a layer. {_list_layers(layers)} "
            "Correct [method] target_modules in keepstep.toml."
        )
    near = difflib.get_close_matches(last, short_names(layers), n=3, cutoff=0.5)
    if near:
        return f"{problem}. The nearest names are {', '.join(near)}. Correct [method] target_modules in keepstep.toml."
    return f"{problem}. {_list_layers(layers)} Correct [method] target_modules in keepstep.toml."


def _list_layers(layers: Sequence[str]) -> str:
    names = list(short_names(layers))
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f"Its layers are {', '.join(names[:NAMES_SHOWN])}{more}."


def _example(pattern: str, layers: Sequence[str]) -> str:
    """Return the pattern, if it is the name of a layer; else names of attention layers."""
    names = [pattern] if any(_matches(pattern, name) for name in layers) else attention_names(short_names(layers))
    return ", ".join(f'"{name}"' for name in names)
