"""Map each weight of a model in memory to the tensor that holds it in the files of the base.

Transformers renames tensors while it loads them: it adds or removes the prefix of the base model (`transformer.` of
GPT-2), applies the renames of an architecture (`embed_out` is `lm_head` of GPT-NeoX), and builds some weights from
several tensors (fused experts). An adapter is named after the weight in memory, so a merge needs this map.

The model is built without memory for its weights (torch's device `meta`), so the map costs a second for any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gpu.artifacts.tensors import Tensor, read_header
from gpu.errors import MergeRefused
from gpu.model.base import weights_files
from gpu.model.tokenizer import explain_load_errors
from gpu.runtime.library_paths import library_path


class StoredWeight(NamedTuple):
    """The tensor that stores a weight."""

    tensor: str
    """Its name in the files."""
    transposed: bool = False
    """True for a weight that its layer holds as (in, out), not (out, in): transformers' Conv1D."""


def stored_as_named(weight: str) -> StoredWeight:
    """Return the tensor of a weight that has the same name in memory and in the files."""
    return StoredWeight(weight)


@dataclass(frozen=True)
class Layout:
    """The map. Names of weights are those of the model's `state_dict`."""

    shapes: Mapping[str, tuple[int, ...]]
    """Each weight and persistent buffer in memory, with its shape."""
    stored: Mapping[str, str]
    """By weight in memory: the one tensor of the same shape that it is read from. Tied weights may share one."""
    parts: Mapping[str, tuple[str, ...]]
    """By weight in memory: the tensors that it is built from, if that is not one tensor of its shape."""
    tied: Mapping[str, str]
    """By weight without an own tensor: the weight whose tensor it shares."""
    copies: tuple[tuple[str, str], ...]
    """Pairs of weights that the config ties, although the files hold both."""
    transposed: frozenset[str]
    """Weights that their layers hold as (in, out)."""
    unread: tuple[str, ...]
    """Tensors in the files that the model does not have."""

    @property
    def missing(self) -> list[str]:
        """Weights in memory that the files do not have, sorted."""
        return sorted(self.shapes.keys() - self.stored.keys() - self.parts.keys() - self.tied.keys())

    def locate(self, weight: str) -> StoredWeight:
        """Return the tensor of `weight`. Raises MergeRefused, with the reason, if a change of it cannot be stored."""
        if weight in self.tied or weight in self.tied.values():
            other = self.tied.get(weight) or next(name for name, source in self.tied.items() if source == weight)
            raise MergeRefused(
                f"the files of the base hold {weight} and {other} as one tensor (they are tied), "
                "so a change of one of them alone cannot be stored"
            )
        return StoredWeight(self.tensor(weight), weight in self.transposed)

    def tensor(self, weight: str) -> str:
        """Return the tensor that `weight` is read from; another weight may share it.

        Raises MergeRefused if it is not one tensor of the same shape.
        """
        if weight in self.stored:
            return self.stored[weight]
        if weight in self.parts:
            parts = self.parts[weight]
            raise MergeRefused(
                f"transformers builds {weight} from {_list_parts(parts)}, so its layout in memory is not that of the "
                "files of the base"
            )
        raise MergeRefused(f"the files of the base have no tensor for {weight}")


def read_layout(directory: Path) -> Layout:
    """Return the layout of the model in `directory`. Raises ModelUnusable, OSError, ValueError."""
    tensors: dict[str, Tensor] = {}
    for name in weights_files(directory):
        tensors.update(read_header((directory / name).resolve()))
    with explain_load_errors(f"the model at {directory}"):
        return make_layout(empty_model(directory), tensors)


def empty_model(directory: Path) -> Any:
    """Return the model in `directory` without memory for its weights. Does not change the random generators."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(library_path(directory), trust_remote_code=False)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def make_layout(model: Any, tensors: Mapping[str, Tensor]) -> Layout:
    """Return how transformers fills `model` from files with these tensors."""
    from transformers.pytorch_utils import Conv1D

    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found: dict[str, list[str]] = {}
    unread = []
    for tensor, weight in _names_in_memory(model, tensors):
        if weight in shapes:
            found.setdefault(weight, []).append(tensor)
        else:
            unread.append(tensor)
    stored = {
        weight: names[0]
        for weight, names in found.items()
        if len(names) == 1 and tensors[names[0]].shape == shapes[weight]
    }
    tied: dict[str, str] = {}
    copies = []
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        if target in found and source in found:
            copies.append((target, source))
        elif source in found:
            tied[target] = source
        elif target in found:
            tied[source] = target
    parts = {weight: tuple(names) for weight, names in found.items() if weight not in stored}
    stored.update({weight: stored[source] for weight, source in tied.items() if source in stored})
    return Layout(
        shapes=shapes,
        stored=stored,
        parts=parts,
        tied=tied,
        copies=tuple(copies),
        transposed=frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)),
        unread=tuple(sorted(unread)),
    )


def _names_in_memory(model: Any, tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return (tensor, weight) for each tensor, by the rules of transformers' loader.

    The loader is `convert_and_load_state_dict_in_model`. For a tensor that is split into several weights, the first
    weight is returned.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state, prefix = model.state_dict(), model.base_model_prefix
    conversions = get_model_conversion_mapping(model)
    renames = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    names = []
    for tensor in sorted(tensors, key=dot_natural_key):
        weight, _ = rename_source_key(tensor, renames, converters, prefix, state)
        if weight not in state and tensor in state:
            weight, _ = rename_source_key(tensor, [], [], prefix, state)
        names.append((tensor, weight))
    return names


def _list_parts(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) == 1 else f"{len(parts)} tensors ({parts[0]} and others)"
