"""The commands that take a model out of the home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.arguments import completion
from cli.commands.common import HomeOption, JsonOption
from cli.home.paths import find_home
from events.values import Dtype
from gpu.ipc.protocol import Quantization

if TYPE_CHECKING:
    from cli.commands.exports.model import ModelToExport

Format = Literal["safetensors", "gguf"]

DEFAULT_QUANTIZATION: Quantization = "q8_0"
"""Half the size of f16, and the answers are nearly always the same."""

ToOption = Annotated[Path, typer.Option("--to", help="The new directory, outside the home.")]
DtypeOption = Annotated[Dtype | None, typer.Option("--dtype", help="Of safetensors. Default: as the base.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="safetensors: for transformers and vLLM. gguf: for llama.cpp and Ollama.")
]
QuantizeOption = Annotated[
    Quantization | None, typer.Option("--quantize", help=f"Of gguf. Default: {DEFAULT_QUANTIZATION}.")
]
SystemOption = Annotated[str, typer.Option("--system", help="Of gguf: the system prompt of the Modelfile.")]


def add_to(versions: typer.Typer, checkpoints: typer.Typer) -> None:
    """Add the commands to `keepstep versions` and `keepstep checkpoints`."""
    versions.command("export")(export_version)
    versions.command("push")(push)
    checkpoints.command("export")(export_checkpoint)


def export_version(
    version: Annotated[str, typer.Argument(help="A version, such as v001 or 1.", autocompletion=completion.version)],
    to: ToOption,
    format_: FormatOption = "safetensors",
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    system: SystemOption = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write a version to a directory, for transformers or llama.cpp.

    A GGUF file is proved first: llama.cpp must answer as transformers does.
    """
    from cli.commands.exports.model import version_to_export

    _refuse_mixed_options(format_, dtype, quantize, system)
    found = find_home(home)
    _export(version_to_export(found, version), to, format_, dtype, quantize, system, json=json)


def export_checkpoint(
    to: ToOption,
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="Its name or step. Default: the head.", autocompletion=completion.checkpoint),
    ] = None,
    format_: FormatOption = "safetensors",
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    system: SystemOption = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Merge a checkpoint into its base, for transformers or llama.cpp."""
    from cli.commands.exports.model import checkpoint_to_export

    _refuse_mixed_options(format_, dtype, quantize, system)
    found = find_home(home)
    _export(checkpoint_to_export(found, checkpoint), to, format_, dtype, quantize, system, json=json)


def push(
    version: Annotated[str, typer.Argument(help="A version, such as v001 or 1.", autocompletion=completion.version)],
    repo: Annotated[str, typer.Argument(help="The repository: NAME, or OWNER/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Anyone may read it. Default: private.")] = False,
    with_names: Annotated[bool, typer.Option("--with-names", help="Also send the names of the data files.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Upload a version to the Hugging Face hub, with a model card.

    Run it again to continue an upload that was interrupted.
    """
    from cli.commands.exports.push import push_version

    push_version(find_home(home), version, repo, public=public, with_names=with_names, yes=yes, json=json)


def _refuse_mixed_options(format_: Format, dtype: Dtype | None, quantize: Quantization | None, system: str) -> None:
    """Raise typer.BadParameter for an option of the other format."""
    if format_ == "gguf" and dtype is not None:
        raise typer.BadParameter("--dtype is for safetensors; with --format gguf use --quantize")
    if format_ == "safetensors" and quantize is not None:
        raise typer.BadParameter("--quantize needs --format gguf")
    if format_ == "safetensors" and system:
        raise typer.BadParameter("--system needs --format gguf: only a Modelfile has a system prompt")


def _export(
    model: ModelToExport,
    to: Path,
    format_: Format,
    dtype: Dtype | None,
    quantize: Quantization | None,
    system: str,
    *,
    json: bool,
) -> None:
    if format_ == "gguf":
        from cli.commands.exports.gguf import export_gguf

        export_gguf(model, to, quantize or DEFAULT_QUANTIZATION, system, json=json)
    else:
        from cli.commands.exports.model import export_model

        export_model(model, to, dtype, json=json)
