"""What was learned, as an ordinary model: the origin and the sum of all that was learned since, rounded once.

The content of a directory that plain transformers loads; `gpu.artifacts.commit.publish` puts it there. The same for a
version, for the export of one, and for that of a checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from events.settings import FullSettings
from events.values import VersionId
from gpu.artifacts.commit import Content
from gpu.artifacts.manifest import MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILES, Manifest, names_below, verify
from gpu.artifacts.version_manifest import (
    SEAL,
    TRAINED,
    VersionManifest,
    read_version_manifest,
    trained_beside,
    version_directory,
)
from gpu.errors import MergeRefused
from gpu.ipc.protocol import DTYPES, Dtype
from gpu.model.base import INDEX, base_directory, base_files, base_sha256, weights_files
from gpu.model.config import edited
from gpu.model.files import CONFIG, GENERATION_CONFIG, SMALL_BYTES_MAX, read_model_file, tokenizer_files
from gpu.model.layout import Layout, layout_of
from gpu.model.tokenizer import kept_sha256
from gpu.versions.logit_check import Reference
from gpu.versions.merge import Adapters, Masters, Tally, Trained, WeightsFile, same, write_merged
from journal.durable import read_file

NOT_OF_A_MODEL = frozenset({*WEIGHTS_FILES, OPTIMIZER_FILE, MANIFEST, "trainer_state.json", "adapter_config.json"})
"""What a checkpoint has beside its tokenizer."""

NOT_OF_A_TOKENIZER = frozenset({CONFIG, GENERATION_CONFIG, INDEX, "README.md"})
"""What a checkpoint or a version may have besides, and its tokenizer does not consist of."""

ADAPTER_FILES = frozenset({WEIGHTS_FILES[0], "adapter_config.json"})


@dataclass(frozen=True)
class Sources:
    """What a model is made of."""

    origin: Path
    origin_sha256: str
    parent: Path | None
    """The version that the newest was learned beside; None: the origin."""
    trained: tuple[Path, ...]
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

    def trained_files(self, directory: Path) -> list[str]:
        """What a version keeps of one of `trained`: enough to merge it again, and, `full`, to go on from it."""
        names = names_below(directory)
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
        sha256, parent, next_to = manifest.lineage.base_sha256, None, origin
    else:
        parent = version_directory(home, base)
        sealed, next_to = read_version_manifest(parent), trained_beside(home, base)
        if base_sha256(next_to) != manifest.lineage.base_sha256:
            raise MergeRefused(
                f"{base} is not what {manifest.checkpoint} was trained beside any more: its config or its weights were "
                "changed. Put it back as it was"
            )
        sha256 = sealed.origin_sha256
        origin = _origin(home, manifest, sha256)
        earlier = tuple(parent / TRAINED / name for name in sealed.trained)
    full = isinstance(manifest.lineage.settings.method, FullSettings)
    return Sources(
        origin=origin,
        origin_sha256=sha256,
        parent=parent,
        trained=(*(earlier[-1:] if full else earlier), checkpoint),
        small=checkpoint,
        manifest=manifest,
        reference=Reference(checkpoint) if full else Reference(next_to, checkpoint),
    )


def of_version(home: Path, version: VersionId) -> Sources:
    """A version, to be rounded in another way. Raises MergeRefused, ModelUnusable, OSError, ValueError."""
    directory = version_directory(home, version)
    sealed = read_version_manifest(directory)
    return Sources(
        origin=_origin(home, sealed.checkpoint, sealed.origin_sha256),
        origin_sha256=sealed.origin_sha256,
        parent=None,
        trained=tuple(directory / TRAINED / name for name in sealed.trained),
        small=directory,
        manifest=sealed.checkpoint,
        reference=Reference(directory),
    )


def _origin(home: Path, manifest: Manifest, sha256: str) -> Path:
    model = manifest.lineage.settings.model
    path = model.path
    origin = base_directory(path, home, revision=model.revision)
    if sha256 and sha256 != base_sha256(origin):  # "": of before it was written down
        raise MergeRefused(
            f"the base model at {path} is not the one that {manifest.checkpoint} was trained on: put that one back "
            f"(SHA-256 {sha256})"
        )
    return origin


@dataclass(frozen=True)
class MergedModel:
    """The files of a model, not yet written."""

    contents: Mapping[str, Content]
    dtypes: tuple[str, ...]
    stored_as: str
    """What most of its weights are rounded to."""
    tally: Tally
    """Of the weights that were written so far."""
    sources: Sequence[WeightsFile]
    """The files that are gone through; the model's own have the same names and tensors."""
    trained: Trained
    layout: Layout
    """Of the origin."""

    @property
    def files(self) -> list[str]:
        """The names of its files of weights."""
        return [file.path.name for file in self.sources]

    def tensor(self, weight: str) -> str:
        """The tensor of the model that holds a weight. Raises MergeRefused."""
        if any(weight in file.tensors for file in self.sources):
            return weight
        return self.layout.tensor(weight)


@contextmanager
def ordinary(
    sources: Sources, dtype: Dtype | None, beat: Callable[[], None] = lambda: None, *, share: bool = False
) -> Iterator[MergedModel]:
    """The model, as long as the files are open that it is made from. `dtype` None: each weight as the origin has it.

    `share`: a file of weights that is just that of the parent is the same file on disk. `beat` is called for each block
    that is written. Raises MergeRefused if what was learned does not fit; OSError, ValueError.
    """
    with ExitStack() as stack:

        def opened(path: Path) -> WeightsFile:
            return stack.enter_context(closing(WeightsFile(path)))

        files = [opened(sources.origin / name) for name in weights_files(sources.origin)]
        at_first = {name: file for file in files for name in file.tensors}
        layout = layout_of(sources.origin)
        trained: Trained
        small: dict[str, Content] = {}
        if sources.full:
            *before, masters = (opened(directory / WEIGHTS_FILES[1]) for directory in sources.trained)
            trained = Masters(
                at_first,
                dict.fromkeys(before[-1].tensors, before[-1]) if before else None,
                layout.tensor,
                frozenset(name for name, _, _ in sources.manifest.buffers),
            )
            files = [masters]
        else:
            trained = Adapters(sources.trained, layout.place)
            if INDEX in base_files(sources.origin):
                small[INDEX] = read_model_file(sources.origin, INDEX)
        trained.refuse_mismatch(files)

        def stored_as(name: str) -> str:
            """The kind of number that a tensor is rounded to: of a buffer that the origin lacks, its own."""
            if dtype:
                return DTYPES[dtype]
            origin = name if name in at_first else layout.stored.get(name, name)
            return at_first[origin].tensors[origin].dtype if origin in at_first else files[0].tensors[name].dtype

        dtypes = [stored_as(name) for file in files for name in file.tensors]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        tally = Tally()

        def weights(file: WeightsFile) -> Content:
            if share and sources.parent is not None and not any(map(trained.trains, file.tensors)):
                return linked(sources.parent / file.path.name)
            return partial(write_merged, file, trained=trained, stored_as=stored_as, tally=tally, beat=beat)

        yield MergedModel(
            contents={
                **small,
                **_small_files(sources, most, untied=_untied(layout, trained, files)),
                **{file.path.name: weights(file) for file in files},
            },
            dtypes=tuple(sorted(set(dtypes))),
            stored_as=most,
            tally=tally,
            sources=files,
            trained=trained,
            layout=layout,
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
    trained = sources.trained[-1:] if sources.full else sources.trained
    return {
        f"{TRAINED}/{directory.name}/{name}": linked(directory / name)
        for directory in trained
        for name in sources.trained_files(directory)
    }


def sealed_as(sources: Sources, made: MergedModel) -> VersionManifest:
    """What the model says of itself, but for its files; of a version there is more to say."""
    return VersionManifest(
        origin_sha256=sources.origin_sha256,
        checkpoint=sources.manifest,
        applied=made.tally.applied,
        in_place=made.tally.in_place,
        files={},
    )


def _untied(layout: Layout, trained: Trained, files: Sequence[WeightsFile]) -> bool:
    """True if the config calls two weights one, and the model stores each of them as itself: transformers 4 would
    then load the first one for both."""
    there = {name: file for file in files for name in file.tensors}
    for pair in layout.copies:
        one, other = (name if name in there else layout.stored.get(name, name) for name in pair)
        if one not in there or other not in there:
            continue  # trained as one weight
        if trained.trains(one) or trained.trains(other) or not same(there[one], one, there[other], other):
            return True
    return False


def _small_files(sources: Sources, most: str, *, untied: bool) -> dict[str, Content]:
    """Config, generation config and code of the origin; the tokenizer and chat template that it was trained with."""
    origin = sources.origin
    config = read_model_file(origin, CONFIG)
    if json.loads(config).get("quantization_config"):
        raise MergeRefused("the base is quantised, and nothing is merged into rounded weights: use its 16-bit original")
    files: dict[str, Content] = {
        CONFIG: edited(config, dtype=next(name for name, stored in DTYPES.items() if stored == most), untied=untied)
    }
    names = [GENERATION_CONFIG, *(path.name for path in origin.glob("*.py"))]
    files.update({name: read_model_file(origin, name) for name in names if (origin / name).exists()})
    return {**files, **_tokenizer_files(sources)}


def _tokenizer_files(sources: Sources) -> dict[str, bytes]:
    """The origin's own, byte for byte, if they are the tokenizer that was trained with; else what was kept of that.

    Checkpoints of earlier keepsteps keep the tokenizer as transformers 5 writes it, which nothing else loads.
    """
    small = sources.small
    names = read_version_manifest(small).files if (small / SEAL).exists() else sources.manifest.files
    of_tokenizer = sorted(filter(_is_of_tokenizer, names))
    kept = {name: read_file(small / name, most_bytes=SMALL_BYTES_MAX) for name in of_tokenizer}
    own = tokenizer_files(sources.origin, kept)
    if own == kept:
        return own
    settings, trained_with = sources.manifest.lineage.settings.model, sources.manifest.lineage.tokenizer_sha256
    found = kept_sha256(sources.origin, trust_remote_code=settings.trust_remote_code)
    return own if found is not None and found in {trained_with, kept_sha256(small)} else kept


def _is_of_tokenizer(name: str) -> bool:
    """Whether a file of a checkpoint or a version belongs to its tokenizer."""
    return not (name in NOT_OF_A_MODEL or name in NOT_OF_A_TOKENIZER or name.startswith(f"{TRAINED}/")) and (
        Path(name).suffix not in {".safetensors", ".py"}
    )
