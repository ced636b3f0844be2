"""`keepstep estimate`: steps, time and memory of training on a file, by part, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.common import format_size
from cli.commands.data import cost
from cli.commands.data.check import Place, Wanted, as_json, examine, settings_for
from cli.errors import UserError
from cli.output.terminal import ATTENTION, BAD, Row, print_json, print_report
from cli.text import shown_text

if TYPE_CHECKING:
    from events.settings import JobSettings
    from gpu.model.training_memory import MemoryEstimate

PARTS: Mapping[str, tuple[str, str]] = {
    "weights_bytes": ("weights", "frozen, {dtype}"),
    "trained_bytes": ("trained", "{method}, float32"),
    "gradients_bytes": ("gradients", "float32"),
    "optimizer_bytes": ("moments", "AdamW, float32"),
    "activations_bytes": ("activations", "{layers}"),
    "logits_bytes": ("logits", ""),
    "checkpoint_bytes": ("checkpoint", "a copy while it is saved"),
    "libraries_bytes": ("libraries", "torch, transformers"),
}
"""The name of each part of the memory, and what it consists of."""


def show_estimates(files: Sequence[Path], model: str | None, home: Path | None, *, json: bool) -> bool:
    """`keepstep estimate`: True if the daemon would train on all files. Raises UserError."""
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; nothing was estimated")
    place = settings_for(model, home)
    found = examine(files, place, Wanted(model, home, json=json))
    if json:
        print_json([{key: one[key] for key in ("file", "verdict", "training")} for one in as_json(found)])
        return found.is_good
    for path, report, needs in zip(files, found.checked.reports, found.costs, strict=True):
        name = shown_text(path.name)
        if needs is None:
            reason = f"{report.verdict}; nothing of it is trained. `keepstep data check` says why"
            print_report([Row("file", f"{name}: {reason}", BAD)])
        else:
            rows = f"{report.trained + report.replayed:,} rows, {needs.tokens:,} tokens in all epochs"
            print_report([Row("file", f"{name}: {rows}"), *estimate_rows(needs, place, found.machine)])
        print()
    if len(good := [each for each in found.costs if each is not None]) > 1:
        print_report([cost.total_row(good)])
    return found.is_good


def estimate_rows(needs: cost.Cost, place: Place, machine: cost.Machine) -> list[Row]:
    """The estimate of a file as lines of a report."""
    rows = [Row("device", cost.machine_text(machine)), Row("steps", cost.steps_text(needs))]
    rows.append(Row("time", cost.time_text(needs)))
    if needs.memory is None:
        return [*rows, Row("memory", "unknown: the files of this model are not here, or do not say its sizes")]
    fits = needs.memory.total_bytes <= machine.usable_bytes
    verdict = "" if fits else f", more than the {format_size(int(machine.usable_bytes))} that training may use"
    total = f"{format_size(needs.memory.total_bytes)} at the largest step{verdict}"
    rows.append(Row("memory", total, "" if fits else ATTENTION))
    return [*rows, *_part_rows(needs.memory, place.settings, checkpoints=needs.gradient_checkpointing)]


def _part_rows(memory: MemoryEstimate, settings: JobSettings, *, checkpoints: bool) -> list[Row]:
    recomputed = "; gradient checkpointing is on: a third more time"
    words = {
        "dtype": "4 bits" if settings.method.__struct_config__.tag == "qlora" else settings.model.dtype,
        "method": str(settings.method.__struct_config__.tag),
        "layers": f"micro-batches of {settings.training.batch_size}{recomputed if checkpoints else ''}",
    }
    rows = []
    for field, (name, form) in PARTS.items():
        if size_bytes := getattr(memory, field):
            note = form.format(**words)
            rows.append(Row(f"  {name}", f"{format_size(size_bytes):>8}" + (f"  {note}" if note else "")))
    return rows
