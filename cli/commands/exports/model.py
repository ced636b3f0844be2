"""`keepstep versions export` and `checkpoints export`: write a model for transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from cli.commands.checkpoints import find_checkpoint
from cli.commands.common import format_size, read_state
from cli.commands.models.head import problem_of_version
from cli.commands.versions import find_version
from cli.errors import UserError
from cli.home.paths import Home, new_directory
from cli.output.terminal import print_json, say
from events.values import Dtype, VersionId
from gpu.ipc.protocol import ExportRequest


class ModelToExport(NamedTuple):
    """A version, or a checkpoint with the version that it was trained on."""

    home: Home
    name: str
    checkpoint: Path | None
    """The directory of the checkpoint; None: the version."""
    version: VersionId | None
    """None: the origin."""

    def request(self, target: Path, dtype: Dtype | None = None) -> ExportRequest:
        """The request for this model. Raises UserError."""
        from cli.config.schema import load_config

        return ExportRequest(
            home=str(self.home.root),
            checkpoint=str(self.checkpoint) if self.checkpoint is not None else None,
            version=self.version,
            target=str(target),
            dtype=dtype,
            model=load_config(self.home.config, storage=self.home.storage).job.model,
        )


def version_to_export(home: Home, name: str) -> ModelToExport:
    """The version of this name. Raises UserError if there is none, or if its files are damaged."""
    version = find_version(read_state(home), name)
    problem = problem_of_version(home, version)
    if problem is not None:
        raise UserError(f"{version.id} is damaged: {problem}; nothing was exported", "restore its files from a copy")
    return ModelToExport(home, version.id, None, version.id)


def checkpoint_to_export(home: Home, wanted: str | None) -> ModelToExport:
    """The checkpoint of this name; None: that of the head. Raises UserError."""
    state = read_state(home)
    checkpoint = find_checkpoint(state, wanted)
    return ModelToExport(home, checkpoint.id, home.checkpoints / checkpoint.id, state.head.base)


def export_model(model: ModelToExport, to: Path, dtype: Dtype | None, *, json: bool) -> None:
    """Write the model to a new directory. Raises UserError."""
    import msgspec

    from cli.home.subprocesses import ask, refused
    from gpu.artifacts.commit import staging_of
    from gpu.ipc.protocol import Exported, Refusal

    target = new_directory(model.home, to)
    if not json:
        source = "base and checkpoint" if model.checkpoint is not None else model.version
        say(f"merging {model.name}, then comparing its logits with those of {source}", flush=True)
    try:
        said = ask(
            "gpu.versions.export",
            model.request(target, dtype),
            otherwise="fix the installation of torch, then try again",
        )
    finally:
        shutil.rmtree(staging_of(target), ignore_errors=True)  # left by a child that was killed
    answer = msgspec.json.decode(said, type=Exported | Refusal)
    if isinstance(answer, Refusal):
        raise refused(f"{model.name} was not exported", answer, "nothing was changed")
    if json:
        print_json(msgspec.to_builtins(answer))
        return
    say(f"{answer.target}  ({format_size(answer.size_bytes)}, {', '.join(answer.dtypes)})")
    if answer.applied is not None:
        rest = "" if answer.applied > 0.9 else "; rounding dropped the rest: `--dtype float32` keeps all of it"
        say(f"  its weights hold {answer.applied:.1%} of the training{rest}")
    say(f"  its logits differ by {answer.difference:.2%} (rounding allows {answer.tolerance:.1%})")
