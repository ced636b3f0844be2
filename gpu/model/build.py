"""Build the model to train: load the base, and make it trainable by LoRA, QLoRA or as a whole."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from events.settings import AdapterSettings, FullSettings, JobSettings, LoraSettings, QloraSettings
from events.trained import Trained
from events.values import ARITHMETIC, KERNELS, PLAIN_KERNELS, VersionId
from gpu.artifacts.manifest import Buffers, Parameters
from gpu.artifacts.version_manifest import find_base_problem, training_base, version_directory
from gpu.errors import MergeRefused, ModelUnusable
from gpu.model.base import base_directory, base_sha256, model_location
from gpu.model.config import edit_config
from gpu.model.files import CONFIG, GENERATION_CONFIG, read_model_file
from gpu.model.held_weights import compute_in_float32
from gpu.model.hub import commit_of
from gpu.model.layout import read_layout
from gpu.model.problems import refuse_problem
from gpu.model.targets import linear_names, refuse_unmatched, refuse_unmergeable, short_names, way_out_without
from gpu.model.tokenizer import explain_load_errors
from gpu.runtime.arithmetic import Arithmetic, autocasts
from gpu.runtime.determinism import environment, seed_generators
from gpu.runtime.library_paths import library_path
from gpu.training.collate import Inputs
from gpu.versions.merge import DTYPES
from journal.durable import read_file

if TYPE_CHECKING:
    from gpu.kernels.head_loss import Head

KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
"""By torch dtype: its name in a safetensors file."""

BITSANDBYTES = "bitsandbytes"
"""The library for 4-bit weights: https://github.com/bitsandbytes-foundation/bitsandbytes."""


@dataclass
class TrainedModel:
    """A model ready to train, and how its checkpoints are written."""

    model: Any
    device: torch.device
    parameters: dict[str, torch.nn.Parameter]
    """The trained parameters, float32, by name on disk, in the model's order."""
    configs: dict[str, bytes]
    """The config files that a checkpoint needs to be loaded by transformers or peft."""
    weights_file: str
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    """The persistent buffers of a model that is trained whole. They are saved with the weights."""
    adapted: Mapping[str, int] = field(default_factory=dict)
    """The number of adapted layers by the last part of their names; {} if the whole model is trained."""
    base_sha256: str = ""
    """SHA-256 of the base."""
    libraries: tuple[str, ...] = ()
    """Libraries that decide its bits in addition to those of every model."""
    arithmetic: Arithmetic = "fp32"
    """The arithmetic of its steps."""
    takes_columns: bool = False
    """True if the model can compute the logits of some positions only."""
    kernels: str = PLAIN_KERNELS
    """The faster kernels of its steps, by name (`gpu.kernels.choose`)."""
    head: Head | None = None
    """Computes the loss without all logits; None: the model's own logits are used."""

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """Return the logits at `inputs.columns`: (sequences, columns, vocabulary), in the model's arithmetic."""
        with self._autocast():
            if self.takes_columns:
                return self.model(**_arguments(inputs), logits_to_keep=inputs.columns).logits
            return self.model(**_arguments(inputs)).logits[:, inputs.columns]

    def hidden(self, inputs: Inputs, head: Head) -> torch.Tensor:
        """Return the hidden states at `inputs.positions`: (trained tokens, hidden), in the model's arithmetic."""
        with self._autocast():
            states = head.decoder(**_arguments(inputs)).last_hidden_state.flatten(0, 1)[inputs.positions]
        return states.to(torch.bfloat16) if autocasts(self.arithmetic) else states

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=autocasts(self.arithmetic))

    @property
    def environment(self) -> dict[str, str]:
        """What decides the bits of its steps apart from data, settings and weights."""
        return {**environment(self.device, self.libraries), ARITHMETIC: self.arithmetic, KERNELS: self.kernels}

    @property
    def shapes(self) -> Parameters:
        """Name and shape of each trained parameter, as manifests list them."""
        return tuple((name, tuple(parameter.shape)) for name, parameter in self.parameters.items())

    @property
    def buffer_kinds(self) -> Buffers:
        """Name, shape and dtype of each buffer, as manifests list them."""
        return tuple((name, tuple(buffer.shape), KINDS[buffer.dtype]) for name, buffer in self.buffers.items())

    @property
    def summary(self) -> Trained:
        """The number of trained parameters, and the layers they are in."""
        count = sum(parameter.numel() for parameter in self.parameters.values())
        share = count / max(1, int(self.model.num_parameters()))
        return Trained(layers=dict(self.adapted), parameters=count, share=round(share, 6))


def _arguments(inputs: Inputs) -> dict[str, torch.Tensor | None]:
    arguments = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
    return arguments if inputs.position_ids is None else {**arguments, "position_ids": inputs.position_ids}


def build(
    settings: JobSettings,
    home: Path,
    device: torch.device,
    watch: Callable[[bytes], None] = lambda _: None,
    *,
    version: VersionId | None = None,
    arithmetic: Arithmetic | None = None,
) -> TrainedModel:
    """Load the base (a version; None: the origin) and make it trainable by the method of the settings.

    `watch` receives each chunk that is hashed. `arithmetic` None: the precision of the settings. The same settings give
    the same bits: initial LoRA weights follow from the seed. Raises ModelUnusable.
    """
    model, arithmetic = settings.model, arithmetic or settings.training.precision
    location = _version_location(home, version, watch) if version else model_location(model.path, home)
    with explain_load_errors(f"the model {version or model.path}"):
        origin = base_directory(model.path, home, revision=model.revision)
        directory = Path(location) if version else origin
        base = load_weights(directory, settings, device, arithmetic)
        sha256 = base_sha256(directory, watch)
    base.config.use_cache = False
    if isinstance(settings.method, AdapterSettings):
        commit = "" if location == str(directory) else commit_of(directory)  # for a hub id
        trained = _with_lora(base, settings.method, settings.training.seed, location, commit, origin)
    else:
        trained = _with_all_weights(base, directory)
    for name, parameter in trained.parameters.items():
        if parameter.dtype != torch.float32:
            raise ModelUnusable(f"{name} would be trained in {parameter.dtype}; only float32 is exact enough.")
    trained.base_sha256 = sha256
    if isinstance(settings.method, QloraSettings):
        trained.libraries = (BITSANDBYTES,)
    trained.takes_columns = "logits_to_keep" in inspect.signature(base.forward).parameters
    trained.device, trained.arithmetic = device, arithmetic
    if not autocasts(arithmetic):
        compute_in_float32(trained.model)
    trained.model.to(device)
    trained.model.train()
    return trained


def load_weights(directory: Path, settings: JobSettings, device: torch.device, arithmetic: Arithmetic) -> Any:
    """Return the model in `directory`, with the weights in the form in which the method of the settings keeps them.

    Raises ModelUnusable, and the errors of the libraries (`explain_load_errors`).
    """
    _refuse_unusable(directory, settings)
    model, found = AutoModelForCausalLM.from_pretrained(
        library_path(directory),
        output_loading_info=True,
        **_load_options(settings, device, arithmetic),
        trust_remote_code=settings.model.trust_remote_code,
        use_safetensors=True,  # never a pickle
    )
    for name in sorted({*found["missing_keys"], *found["mismatched_keys"]}):
        # Transformers would fill it with random numbers and only warn.
        raise ModelUnusable(f"the weights of the model at {directory} are incomplete: {name} is missing.")
    return model


def set_eval_mode(model: Any) -> None:
    """Set evaluation mode, but leave layers of bitsandbytes in training mode.

    On some processors their first forward pass in evaluation mode packs the weights differently
    (`Linear4bit.forward`): it fails for small layers, and later training would round differently.
    """
    model.eval()
    for module in model.modules():
        if type(module).__module__.startswith(f"{BITSANDBYTES}."):
            module.training = True


def _version_location(home: Path, version: VersionId, watch: Callable[[bytes], None]) -> str:
    """Return the directory of the weights of a version. Raises ModelUnusable if they are not what was published."""
    try:
        base = training_base(home, version)
        problem = find_base_problem(version_directory(home, version), base, watch)
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise ModelUnusable(
            f"versions/{version} is not what was published: {problem}. Restore its files; or continue from another "
            "version (`keepstep versions rollback`) or from the backup before it (`keepstep backup list`)."
        )
    return str(base)


def _load_options(settings: JobSettings, device: torch.device, arithmetic: Arithmetic) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that decide the form of the weights in memory. Raises ModelUnusable."""
    if isinstance(settings.method, FullSettings):
        return {"dtype": torch.float32}
    dtype = getattr(torch, settings.model.dtype)
    if not isinstance(settings.method, QloraSettings):
        return {"dtype": dtype}
    if find_spec(BITSANDBYTES) is None:
        raise ModelUnusable(
            f'{BITSANDBYTES} is not installed, and [method] kind = "qlora" needs its 4-bit weights. '
            "`pip install 'keepstep[qlora]'`, or set kind = \"lora\"."
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.method.quant_type,
        bnb_4bit_use_double_quant=settings.method.double_quant,
        bnb_4bit_compute_dtype=dtype if autocasts(arithmetic) else torch.float32,
    )
    # Load it on its device at once: with more than four bits a weight, the model may not fit in memory.
    return {"dtype": dtype, "quantization_config": quantization, "device_map": {"": device}}


def _with_lora(base: Any, method: AdapterSettings, seed: int, location: str, commit: str, origin: Path) -> TrainedModel:
    targets = method.target_modules
    refuse_unmatched(base, targets)
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
    linear = linear_names(base)
    try:
        model = get_peft_model(base, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelUnusable(
            f"LoRA cannot be put on this model: {error} {way_out_without(linear, str(error))}"
        ) from error
    parameters = {
        name_on_disk(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    refuse_unmergeable(layers, read_layout(origin))
    return TrainedModel(
        model=model,
        device=torch.device("cpu"),
        parameters=parameters,
        configs={"adapter_config.json": _adapter_config(model, location, commit)},
        weights_file="adapter_model.safetensors",
        adapted=short_names(layers),
    )


def name_on_disk(name: str) -> str:
    """Return the name of a trained parameter in peft's files.

    They leave out the name of the adapter, which is last for the factors of an embedding. DoRA's vector has no
    `.weight` either.
    """
    name = name.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector")
    return name.replace(".default.", ".").removesuffix(".default")


def _refuse_unusable(base: Path, settings: JobSettings) -> None:
    """Raise ModelUnusable if the files of the base show that it cannot be trained and merged."""
    if settings.model.trust_remote_code and msgspec.json.decode(read_file((base / CONFIG).resolve())).get("auto_map"):
        raise ModelUnusable(
            f"the model at {base} comes with its own code (auto_map in {CONFIG}), and its training could never "
            "become a version that plain transformers loads. Set [model] trust_remote_code = false in "
            "keepstep.toml: transformers then uses its code of the architecture, if it has any."
        )
    refuse_problem(base)


def _adapter_config(model: Any, location: str, commit: str) -> bytes:
    """Return the config as peft writes it, but with sorted sets: the same settings give the same bytes.

    `commit`: that of a base on the hub, so that peft loads the same base.
    """
    base = {"base_model_name_or_path": location, "revision": commit or None}
    config = {**model.peft_config["default"].to_dict(), "inference_mode": True, **base}
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.dumps(ordered, indent=2, sort_keys=True).encode() + b"\n"


def _with_all_weights(base: Any, directory: Path) -> TrainedModel:
    base.requires_grad_(True)
    state = base.state_dict()
    # Tied weights are one parameter with several names. It is listed, trained and saved under the first one.
    parameters = dict(base.named_parameters())
    buffers = {name: buffer for name, buffer in base.named_buffers() if name in state}
    for name, buffer in buffers.items():
        if buffer.dtype not in KINDS:
            raise ModelUnusable(f"the buffer {name} holds {buffer.dtype}, which a checkpoint cannot store.")
    if base._weight_conversions:  # how from_pretrained converted the tensors; empty for most models
        names = _names_in_files(base, [*parameters, *buffers], directory)
        parameters = {names[name]: parameter for name, parameter in parameters.items()}
        buffers = {names[name]: buffer for name, buffer in buffers.items()}
    return TrainedModel(
        model=base,
        device=torch.device("cpu"),
        parameters=parameters,
        configs=_edit_configs(base, directory),
        weights_file="model.safetensors",
        buffers=buffers,
    )


def _edit_configs(base: Any, directory: Path) -> dict[str, bytes]:
    """Return the configs of a full checkpoint: those of the base, edited for float32 weights of this class."""
    config = read_model_file(directory, CONFIG)
    if json.loads(config).get("model_type") != base.config.model_type:  # a part of a larger model was loaded
        config = base.config.to_json_string(use_diff=True).encode()
    architecture = type(base).__name__
    configs = {CONFIG: edit_config(config, dtype="float32", architecture=architecture, untied=_is_untied(base))}
    if (directory / GENERATION_CONFIG).exists():
        configs[GENERATION_CONFIG] = read_model_file(directory, GENERATION_CONFIG)
    return configs


def _names_in_files(base: Any, names: list[str], directory: Path) -> dict[str, str]:
    """Return the name of each weight in the files of the base, for a model whose weights transformers renames.

    Every version of transformers loads a checkpoint with these names. Raises ModelUnusable if a weight is not one
    tensor.
    """
    layout = read_layout(directory)
    try:
        return {name: layout.tensor(name) for name in names}
    except MergeRefused as error:
        raise ModelUnusable(
            f"{type(base).__name__} cannot be trained whole: {error}, and a checkpoint could not be written in "
            'the layout of the files. Set [method] kind = "lora" in keepstep.toml.'
        ) from error


def _is_untied(base: Any) -> bool:
    """True if head and embedding are two weights. If the config ties them, transformers 4 would load one for both."""
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    return head is not None and embedding is not None and head.weight is not embedding.weight
