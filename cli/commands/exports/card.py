"""The model card of a version that is pushed: https://huggingface.co/docs/hub/model-cards.

It says what the weights were trained on, and nothing of this machine: no path, no host name, no name of a data file
unless it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cli.commands.common import replay
from cli.home.paths import Home
from events import kinds
from events.settings import ModelSettings
from gpu.artifacts.version_manifest import VersionManifest

if TYPE_CHECKING:
    from core.values import Version
    from projections.lineage import Part
    from projections.metrics import EvaluationPoint

SHOWN_CHARACTERS = 12
"""Characters of a hash that identify a file."""

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")

LICENCE = re.compile(r"[\w.+-]{1,64}", re.ASCII)
"""A licence's identifier on the hub: https://huggingface.co/docs/hub/repositories-licenses."""


class Licence(NamedTuple):
    """What the base says of its licence; "" where it says nothing."""

    identifier: str = ""
    name: str = ""
    link: str = ""


def hub_id_of(model: ModelSettings) -> str:
    """The base as a hub id; "" if it is a directory of this machine, whose path is not published.

    Only a model of the hub is pinned to a commit: docs/decisions/0013.
    """
    return model.path if model.revision else ""


def licence_of_base(home: Home, model: ModelSettings) -> Licence:
    """The licence that the card of the base names, if the base has one."""
    from gpu.errors import WorkerError
    from gpu.model.base import base_directory

    with suppress(WorkerError, OSError, ValueError):
        directory = base_directory(model.path, home.root, revision=model.revision, weights=False)
        return read_licence(directory / "README.md")
    return Licence()


def read_licence(path: Path) -> Licence:
    """The licence in the metadata of a model card. Raises OSError, ValueError."""
    from huggingface_hub.repocard import metadata_load

    if not path.is_file():
        return Licence()
    said = metadata_load(path) or {}
    texts = [said.get(key) for key in ("license", "license_name", "license_link")]
    identifier, name, link = (text if isinstance(text, str) and len(text) < 300 else "" for text in texts)
    return Licence(identifier, name, link) if LICENCE.fullmatch(identifier) else Licence()


def evaluations_of(home: Home, version: str) -> list[EvaluationPoint]:
    """The evaluations on the way to a version. Raises journal.errors.JournalError."""
    from projections.metrics import Metrics

    metrics = Metrics()
    for before, record, _ in replay(home):
        metrics.observe(record)
        if isinstance(record.event, kinds.VersionPublished) and record.event.version == version:
            return metrics.chart(last=before.head.global_step).evaluations
    return []


def make_card(
    home: Home,
    version: Version,
    manifest: VersionManifest,
    parts: Sequence[Part],
    evaluations: Sequence[EvaluationPoint],
    *,
    with_names: bool,
) -> str:
    """The card as Markdown."""
    from cli.version import VERSION

    settings = manifest.checkpoint.lineage.settings
    licence = licence_of_base(home, settings.model)
    base = hub_id_of(settings.model)
    shown = f"`{base}`" if base else "a local model"
    at = f" at commit `{settings.model.revision}`" if base and settings.model.revision else ""
    title = f"# {version.id}" + (f": {_line(version.description)}" if version.description else "")
    lines = [
        *_metadata(base, licence),
        title,
        "",
        f"Trained with keepstep {VERSION} from {shown}{at} up to step {version.global_step}.",
        "",
        *_lineage(manifest, parts, with_names=with_names),
        *_evaluation(evaluations),
        *_settings(manifest),
        *_licence(licence),
    ]
    return "\n".join(lines)


def _metadata(base: str, licence: Licence) -> Iterator[str]:
    values = {
        "license": licence.identifier,
        "license_name": licence.name,
        "license_link": licence.link,
        "base_model": base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    yield "---"
    yield from (f"{key}: {json.dumps(value)}" for key, value in values.items() if value)
    yield "tags: [keepstep]"
    yield "---"
    yield ""


def _lineage(manifest: VersionManifest, parts: Sequence[Part], *, with_names: bool) -> Iterator[str]:
    yield from ("## Lineage", "")
    sha256 = manifest.origin_sha256 or manifest.checkpoint.lineage.base_sha256
    yield f"- first model: SHA-256 `{sha256[:SHOWN_CHARACTERS]}`"
    yield f"- made from: {manifest.parent or 'the first model'} and the steps since"
    if manifest.applied is not None:
        rest = "" if manifest.applied > 0.9995 else "; rounding dropped the rest"
        yield f"- the weights hold {manifest.applied:.1%} of the training{rest}"
    yield ""
    names = "| data file " if with_names else ""
    yield f"{names}| SHA-256 | rows | steps |"
    yield f"{'| --- ' if with_names else ''}| --- | --- | --- |"
    for part in parts:
        name = f"| {_line(part.name)} " if with_names else ""
        steps = f"{part.global_from + 1}-{part.global_to}"
        yield f"{name}| `{part.job[:SHOWN_CHARACTERS]}` | {part.plan.rows} | {steps} |"
    yield ""


def _evaluation(evaluations: Sequence[EvaluationPoint]) -> Iterator[str]:
    yield from ("## Evaluation", "")
    measured = [each for each in evaluations if each.loss is not None]
    if not measured:
        yield from ("It was not evaluated on held-out rows.", "")
        return
    yield "Mean loss on rows that were never trained on, nats per token:"
    yield from ("", "| step | loss |", "| --- | --- |")
    yield from (f"| {each.global_step} | {each.loss:.4f} |" for each in measured)
    yield ""


def _settings(manifest: VersionManifest) -> Iterator[str]:
    settings, environment = manifest.checkpoint.lineage.settings, manifest.checkpoint.environment
    method = msgspec.to_builtins(settings.method)
    training = msgspec.to_builtins(settings.training)
    yield from ("## Settings of the last file", "")
    yield f"- method: {method.pop('kind')} ({', '.join(f'{key} = {value}' for key, value in method.items())})"
    keys = ("epochs", "batch_size", "gradient_accumulation", "learning_rate", "schedule", "precision", "seed")
    yield f"- training: {', '.join(f'{key} = {training[key]}' for key in keys if key in training)}"
    libraries = [f"{name} {environment[name]}" for name in LIBRARIES if name in environment]
    yield f"- libraries: {', '.join(libraries)}"
    yield ""


def _licence(licence: Licence) -> Iterator[str]:
    yield from ("## Licence", "")
    if licence.identifier:
        yield f"That of the base model: {licence.name or licence.identifier}."
    else:
        yield "The base model names no licence. Read its terms before you use or publish this one."
    yield ""


def _line(text: str) -> str:
    """A text in one line, without what would break a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
