"""The model that is trained: the base, and what of it (or beside it) learns."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from events.settings import AdapterSettings, FullSettings, JobSettings, LoraSettings, QloraSettings
from events.values import VersionId
from gpu.base import CONFIG, base_directory, base_sha256, model_location, weights_files
from gpu.collate import Inputs
from gpu.errors import ModelUnusable
from gpu.exact import seed_generators
from gpu.library_paths import library_path
from gpu.manifest import Parameters
from gpu.sealed import problem_of_base, trained_beside, version_directory
from gpu.tensors import read_header
from gpu.tokenizer import explained

BITSANDBYTES = "bitsandbytes"
"""The library of 4-bit numbers: https://github.com/bitsandbytes-foundation/bitsandbytes."""


@dataclass
class TrainedModel:
    """A model ready to train, and the names under which its trained parameters go to disk."""

    model: Any
    device: torch.device
    parameters: dict[str, torch.nn.Parameter]
    """All that learns, float32, in the model's order."""
    configs: dict[str, bytes]
    """The small files that make a checkpoint loadable by others, beside weights and tokenizer."""
    weights_file: str
    base_sha256: str = ""
    """What it was built from."""
    libraries: tuple[str, ...] = ()
    """What else decides its bits, besides those of every model."""
    takes_columns: bool = False
    """Whether the model can be asked for the logits of some positions only."""

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """What the model predicts at `inputs.columns`: (rows, columns, vocabulary)."""
        given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        if inputs.position_ids is not None:
            given["position_ids"] = inputs.position_ids
        if self.takes_columns:
            return self.model(**given, logits_to_keep=inputs.columns).logits
        return self.model(**given).logits[:, inputs.columns]

    @property
    def shapes(self) -> Parameters:
        """Name and shape of each trained parameter, as manifests list them."""
        return tuple((name, tuple(parameter.shape)) for name, parameter in self.parameters.items())


def build(
    settings: JobSettings,
    home: Path,
    device: torch.device,
    watch: Callable[[bytes], None] = lambda _: None,
    *,
    version: VersionId | None = None,
) -> TrainedModel:
    """Load the base (a version; None: the origin) and make it ready to train by the method of the settings.

    `watch` sees what is hashed of it.

    The same settings give the same bits: what LoRA begins with is drawn from the seed. Raises ModelUnusable.
    """
    location = _of_version(home, version, watch) if version else model_location(settings.model.path, home)
    with explained(f"the model {version or settings.model.path}"):
        directory = Path(location) if version else base_directory(settings.model.path, home)
        _refuse_quantised(directory)
        base, found = AutoModelForCausalLM.from_pretrained(
            library_path(Path(location)) if Path(location).is_dir() else location,
            output_loading_info=True,
            **_held_as(settings, device),
            trust_remote_code=settings.model.trust_remote_code,
            use_safetensors=True,  # nothing is ever unpickled
        )
        sha256 = base_sha256(directory, watch)
    for name in sorted({*found["missing_keys"], *found["mismatched_keys"]}):
        # Transformers would fill the gap with random numbers and a warning.
        raise ModelUnusable(f"the weights of the model {settings.model.path} are incomplete: {name} is missing.")
    base.config.use_cache = False
    if isinstance(settings.method, AdapterSettings):
        trained = _with_lora(base, settings.method, settings.training.seed, location)
        _refuse_what_cannot_be_merged(trained, directory)
    else:
        trained = _whole(base)
    for name, parameter in trained.parameters.items():
        if parameter.dtype != torch.float32:
            raise ModelUnusable(f"{name} would be trained in {parameter.dtype}; only float32 is exact enough.")
    trained.base_sha256 = sha256
    if isinstance(settings.method, QloraSettings):
        trained.libraries = (BITSANDBYTES,)
    trained.takes_columns = "logits_to_keep" in inspect.signature(base.forward).parameters
    trained.device = device
    trained.model.to(device)
    trained.model.train()
    return trained


def _of_version(home: Path, version: VersionId, watch: Callable[[bytes], None]) -> str:
    """Where what is trained beside a version is. Raises ModelUnusable if it is not what was published."""
    try:
        beside = trained_beside(home, version)
        problem = problem_of_base(version_directory(home, version), beside, watch)
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise ModelUnusable(
            f"versions/{version} is not what was published: {problem}. Put it back as it was; or go on from another "
            "one (`keepstep versions rollback`), or from the backup that was made before it (`keepstep backup list`)."
        )
    return str(beside)


def _held_as(settings: JobSettings, device: torch.device) -> dict[str, Any]:
    """In which form the weights are in memory, as `from_pretrained` is told. Raises ModelUnusable."""
    if isinstance(settings.method, FullSettings):
        return {"dtype": torch.float32}
    dtype = getattr(torch, settings.model.dtype)
    if not isinstance(settings.method, QloraSettings):
        return {"dtype": dtype}
    if find_spec(BITSANDBYTES) is None:
        raise ModelUnusable(
            f'{BITSANDBYTES} is not installed, and [method] kind = "qlora" holds the weights in its 4-bit numbers. '
            "`pip install 'keepstep[qlora]'`, or set kind = \"lora\"."
        )
    rounded = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.method.quant_type,
        bnb_4bit_use_double_quant=settings.method.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    # At once on its device: a model that needs four bits a weight may not fit elsewhere in more.
    return {"dtype": dtype, "quantization_config": rounded, "device_map": {"": device}}


def _with_lora(base: Any, method: AdapterSettings, seed: int, location: str) -> TrainedModel:
    targets = method.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=method.use_rslora,
        use_dora=isinstance(method, LoraSettings) and method.use_dora,
    )
    seed_generators("lora", seed)
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        raise ModelUnusable(
            f"LoRA cannot be put on this model: {error} Correct [method] target_modules in keepstep.toml."
        ) from error
    parameters = {
        _name_on_disk(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    return TrainedModel(
        model=model,
        device=torch.device("cpu"),
        parameters=parameters,
        configs={"adapter_config.json": _adapter_config(model, location)},
        weights_file="adapter_model.safetensors",
    )


def _name_on_disk(name: str) -> str:
    """What peft calls a trained parameter in its files: of one that is a module for each adapter, the adapter's name is
    left out; DoRA's vector has no `.weight` either."""
    return name.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector").replace(".default.", ".")


def _refuse_quantised(base: Path) -> None:
    """Raises ModelUnusable: nothing that is learned beside rounded weights could be merged into them."""
    if msgspec.json.decode((base / CONFIG).read_bytes()).get("quantization_config"):
        raise ModelUnusable(
            f"the model at {base} is quantised on disk, and what is learned beside it could never become a version. "
            "Use its 16-bit or 32-bit original in [model] path."
        )


def _refuse_what_cannot_be_merged(trained: TrainedModel, base: Path) -> None:
    """Raises ModelUnusable where LoRA would learn beside a weight that the files of the base do not have as it is in
    memory: tied to another, fused, or turned. Now, and not when weeks of it are to become a version."""
    there: dict[str, tuple[int, ...]] = {}
    for name in weights_files(base):
        there.update({tensor: entry.shape for tensor, entry in read_header(base / name).items()})
    for name, shape in trained.shapes:
        module, is_out_of, _ = name.partition(".lora_B.weight")
        weight = f"{module.removeprefix('base_model.model.')}.weight"
        if is_out_of and (weight not in there or there[weight][0] != shape[0]):
            raise ModelUnusable(
                f"what is learned beside {weight} could never be merged: the base has no such weight of its own (it is "
                "tied to another, or held in another layout). Leave it out of [method] target_modules."
            )


def _adapter_config(model: Any, location: str) -> bytes:
    """As peft writes it, but with every set in order, so that the same settings give the same bytes."""
    config = {**model.peft_config["default"].to_dict(), "inference_mode": True, "base_model_name_or_path": location}
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.dumps(ordered, indent=2, sort_keys=True).encode() + b"\n"


def _whole(base: Any) -> TrainedModel:
    base.requires_grad_(True)
    # Tied weights are one parameter under several names; it is listed, trained and saved once, under the first.
    parameters = dict(base.named_parameters())
    if base._weight_conversions:  # what from_pretrained had to do to the tensors on disk; empty for most models
        raise ModelUnusable(
            f"{type(base).__name__} is held in memory in another layout than on disk, and full training cannot save "
            'that yet. Use [method] kind = "lora".'
        )
    base.config.dtype = "float32"
    base.config.architectures = [type(base).__name__]
    configs = {"config.json": base.config.to_json_string(use_diff=True).encode()}
    if base.can_generate():
        configs["generation_config.json"] = base.generation_config.to_json_string(use_diff=True).encode()
    return TrainedModel(
        model=base,
        device=torch.device("cpu"),
        parameters=parameters,
        configs=configs,
        weights_file="model.safetensors",
    )
