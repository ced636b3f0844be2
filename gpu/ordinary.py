"""What was learned, as an ordinary model: the origin and the sum of all that was learned since, rounded once.

The content of a directory that plain transformers loads; `gpu.commit.publish` puts it there. The same for a version,
for the export of one, and for that of a checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from events.settings import FullSettings
from events.values import VersionId
from gpu.answers import Reference
from gpu.base import CONFIG, INDEX, base_directory, base_files, base_sha256, weights_files
from gpu.commit import Content
from gpu.errors import MergeRefused
from gpu.exchange import DTYPES, Dtype
from gpu.manifest import MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILES, Manifest, verify
from gpu.merge import Adapters, Learned, Masters, Tally, WeightsFile, write_merged
from gpu.sealed import LEARNED, Sealed, read_sealed, trained_beside, version_directory
from journal.durable import read_file

TOKENIZER_BYTES_MAX = 1 << 30
"""The largest vocabularies take some 50 MB."""

NOT_OF_A_MODEL = frozenset({*WEIGHTS_FILES, OPTIMIZER_FILE, MANIFEST, "trainer_state.json", "adapter_config.json"})
"""What a checkpoint has beside its tokenizer."""

ADAPTER_FILES = frozenset({WEIGHTS_FILES[0], "adapter_config.json"})


@dataclass(frozen=True)
class Sources:
    """What a model is made of."""

    origin: Path
    origin_sha256: str
    parent: Path | None
    """The version that the newest was learned beside; None: the origin."""
    learned: tuple[Path, ...]
    """Directories of checkpoints, or of what a version keeps of them; the oldest first."""
    small: Path
    """Where tokenizer and chat template are."""
    manifest: Manifest
    """Of the newest."""
    reference: Reference

    @property
    def full(self) -> bool:
        """Whether all weights were trained: then the newest of what was learned is the truth by itself."""
        return isinstance(self.manifest.lineage.settings.method, FullSettings)

    def learned_files(self, directory: Path) -> list[str]:
        """What a version keeps of one of `learned`: enough to merge it again, and, `full`, to go on from it."""
        names = sorted(path.name for path in directory.iterdir())
        if self.full:
            return [name for name in names if name not in {OPTIMIZER_FILE, MANIFEST, "trainer_state.json"}]
        return [name for name in names if name in ADAPTER_FILES]


def of_checkpoint(home: Path, checkpoint: Path, base: VersionId | None) -> Sources:
    """A checkpoint that was trained beside `base` (None: the origin). Every byte of it is read.

    Raises CheckpointBroken, MergeRefused, ModelUnusable, OSError, ValueError.
    """
    manifest = verify(checkpoint)
    earlier: tuple[Path, ...] = ()
    if base is None:
        origin = _origin(home, manifest, manifest.lineage.base_sha256)
        sha256, parent, beside = manifest.lineage.base_sha256, None, origin
    else:
        parent = version_directory(home, base)
        sealed, beside = read_sealed(parent), trained_beside(home, base)
        if base_sha256(beside) != manifest.lineage.base_sha256:
            raise MergeRefused(
                f"{base} is not what {manifest.checkpoint} was trained beside any more: its config or its weights were "
                "changed. Put it back as it was"
            )
        sha256 = sealed.origin_sha256
        origin = _origin(home, manifest, sha256)
        earlier = tuple(parent / LEARNED / name for name in sealed.learned)
    full = isinstance(manifest.lineage.settings.method, FullSettings)
    return Sources(
        origin=origin,
        origin_sha256=sha256,
        parent=parent,
        learned=(*(earlier[-1:] if full else earlier), checkpoint),
        small=checkpoint,
        manifest=manifest,
        reference=Reference(checkpoint) if full else Reference(beside, checkpoint),
    )


def of_version(home: Path, version: VersionId) -> Sources:
    """A version, to be rounded in another way. Raises MergeRefused, ModelUnusable, OSError, ValueError."""
    directory = version_directory(home, version)
    sealed = read_sealed(directory)
    return Sources(
        origin=_origin(home, sealed.checkpoint, sealed.origin_sha256),
        origin_sha256=sealed.origin_sha256,
        parent=None,
        learned=tuple(directory / LEARNED / name for name in sealed.learned),
        small=directory,
        manifest=sealed.checkpoint,
        reference=Reference(directory),
    )


def _origin(home: Path, manifest: Manifest, sha256: str) -> Path:
    path = manifest.lineage.settings.model.path
    origin = base_directory(path, home)
    if sha256 and sha256 != base_sha256(origin):  # "": of before it was written down
        raise MergeRefused(
            f"the base model at {path} is not the one that {manifest.checkpoint} was trained on: put that one back "
            f"(SHA-256 {sha256})"
        )
    return origin


@dataclass(frozen=True)
class OrdinaryModel:
    """The files of a model, not yet written."""

    contents: Mapping[str, Content]
    dtypes: tuple[str, ...]
    stored_as: str
    """What most of its weights are rounded to."""
    tally: Tally
    """Of the weights that were written so far."""


@contextmanager
def ordinary(
    sources: Sources, dtype: Dtype | None, beat: Callable[[], None] = lambda: None, *, share: bool = False
) -> Iterator[OrdinaryModel]:
    """The model, as long as the files are open that it is made from. `dtype` None: each weight as the origin has it.

    `share`: a file of weights that is just that of the parent is the same file on disk. `beat` is called for each block
    that is written. Raises MergeRefused if what was learned does not fit; OSError, ValueError.
    """
    with ExitStack() as stack:

        def opened(path: Path) -> WeightsFile:
            return stack.enter_context(closing(WeightsFile(path)))

        files = [opened(sources.origin / name) for name in weights_files(sources.origin)]
        at_first = {name: file for file in files for name in file.tensors}
        learned: Learned
        small: dict[str, Content] = {}
        if sources.full:
            *before, masters = (opened(directory / WEIGHTS_FILES[1]) for directory in sources.learned)
            learned = Masters(at_first, dict.fromkeys(before[-1].tensors, before[-1]) if before else None)
            files = [masters]
        else:
            learned = Adapters(sources.learned)
            if INDEX in base_files(sources.origin):
                small[INDEX] = read_file((sources.origin / INDEX).resolve())
        learned.refuse_misfit(files)

        def stored_as(name: str) -> str:
            return DTYPES[dtype] if dtype else at_first[name].tensors[name].dtype

        dtypes = [stored_as(name) for file in files for name in file.tensors]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        tally = Tally()

        def weights(file: WeightsFile) -> Content:
            if share and sources.parent is not None and not any(map(learned.learns, file.tensors)):
                return linked(sources.parent / file.path.name)
            return partial(write_merged, file, learned=learned, stored_as=stored_as, tally=tally, beat=beat)

        yield OrdinaryModel(
            contents={
                **small,
                **_small_files(sources, most),
                **{file.path.name: weights(file) for file in files},
            },
            dtypes=tuple(sorted(set(dtypes))),
            stored_as=most,
            tally=tally,
        )


def linked(source: Path) -> Content:
    """The content of `source`: the same file under one more name; where the file system has no such thing, a copy."""

    def put(path: Path) -> None:
        with suppress(OSError):
            os.link(source, path)
            return
        shutil.copyfile(source, path)

    return put


def kept(sources: Sources) -> dict[str, Content]:
    """What a version keeps of what was learned, so that it can be merged again, into other weights too."""
    learned = sources.learned[-1:] if sources.full else sources.learned
    return {
        f"{LEARNED}/{directory.name}/{name}": linked(directory / name)
        for directory in learned
        for name in sources.learned_files(directory)
    }


def sealed_as(sources: Sources, made: OrdinaryModel) -> Sealed:
    """What the model says of itself, but for its files; of a version there is more to say."""
    return Sealed(
        origin_sha256=sources.origin_sha256,
        checkpoint=sources.manifest,
        applied=made.tally.applied,
        in_place=made.tally.in_place,
        files={},
    )


def _small_files(sources: Sources, most: str) -> dict[str, Content]:
    """Config, generation config and code of the origin; the tokenizer and chat template that it was trained with."""
    origin = sources.origin
    config = msgspec.json.decode(read_file((origin / CONFIG).resolve()))
    if config.get("quantization_config"):
        raise MergeRefused("the base is quantised, and nothing is merged into rounded weights: use its 16-bit original")
    config.pop("torch_dtype", None)
    config["dtype"] = next(name for name, stored in DTYPES.items() if stored == most)
    files: dict[str, Content] = {CONFIG: msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"}
    names = ["generation_config.json", *(path.name for path in origin.glob("*.py"))]
    files.update({name: read_file((origin / name).resolve()) for name in names if (origin / name).exists()})
    tokenizer = sources.manifest.files.keys() - NOT_OF_A_MODEL - {CONFIG, "generation_config.json"}
    files.update({name: read_file(sources.small / name, most_bytes=TOKENIZER_BYTES_MAX) for name in sorted(tokenizer)})
    return files
