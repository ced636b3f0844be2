"""The files of a merged model: the origin plus the sum of everything trained since, rounded once.

Plain transformers loads the result. Versions, exports of versions and exports of checkpoints are all made here.
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

from events.settings import FullSettings, ModelSettings
from events.values import Dtype, VersionId
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.commit import Content
from gpu.artifacts.manifest import MANIFEST, OPTIMIZER_FILE, WEIGHTS_FILES, Manifest, names_below
from gpu.artifacts.version_manifest import (
    TRAINED,
    VERSION_MANIFEST,
    VersionManifest,
    read_version_manifest,
    training_base,
    version_directory,
)
from gpu.errors import MergeRefused, ModelUnusable
from gpu.ipc.protocol import DTYPES
from gpu.model.base import INDEX, base_directory, base_files, base_sha256, weights_files
from gpu.model.config import edit_config
from gpu.model.files import CONFIG, GENERATION_CONFIG, SMALL_BYTES_MAX, read_model_file, tokenizer_files
from gpu.model.layout import Layout, read_layout
from gpu.model.tokenizer import saved_tokenizer_sha256
from gpu.versions.logit_check import Reference
from gpu.versions.merge import (
    AdapterWeights,
    FullWeights,
    MergeStats,
    TrainedWeights,
    WeightsFile,
    tensors_equal,
    write_merged,
)
from journal.durable import read_file

NOT_OF_A_MODEL = frozenset({*WEIGHTS_FILES, OPTIMIZER_FILE, MANIFEST, "trainer_state.json", "adapter_config.json"})
"""Files of a checkpoint that do not belong to its tokenizer."""

NOT_OF_A_TOKENIZER = frozenset({CONFIG, GENERATION_CONFIG, INDEX, "README.md"})
"""Other files of checkpoints and versions that do not belong to the tokenizer."""

ADAPTER_FILES = frozenset({WEIGHTS_FILES[0], "adapter_config.json"})


@dataclass(frozen=True)
class Sources:
    """Everything that a merged model is made from."""

    origin: Path
    origin_sha256: str
    parent: Path | None
    """The version that the newest checkpoint was trained on; None: the origin."""
    trained: tuple[Path, ...]
    """Directories of checkpoints, or of the trained weights that a version keeps; the oldest first."""
    tokenizer: Path
    """The directory with tokenizer and chat template."""
    manifest: Manifest
    """The manifest of the newest checkpoint."""
    reference: Reference

    @property
    def full(self) -> bool:
        """True if all weights were trained: then the newest checkpoint alone decides the model."""
        return isinstance(self.manifest.lineage.settings.method, FullSettings)

    def trained_files(self, directory: Path) -> list[str]:
        """Return the files that a version keeps of one of `trained`: enough to merge again and, `full`, to train on."""
        names = names_below(directory)
        if self.full:
            return [name for name in names if name not in {OPTIMIZER_FILE, MANIFEST, "trainer_state.json"}]
        return [name for name in names if name in ADAPTER_FILES]


def checkpoint_sources(
    home: Path, checkpoint: Path, base: VersionId | None, moved_to: ModelSettings | None = None
) -> Sources:
    """Return the sources for a checkpoint that was trained on `base` (None: the origin). Verifies every byte of it.

    `moved_to`: where the origin is, if it is not where the checkpoint says. Raises CheckpointBroken, MergeRefused,
    ModelUnusable, OSError, ValueError.
    """
    manifest = CheckpointDirectory(checkpoint).verify()
    earlier: tuple[Path, ...] = ()
    if base is None:
        origin = _origin(home, manifest, manifest.lineage.base_sha256, moved_to)
        sha256, parent, base_weights = manifest.lineage.base_sha256, None, origin
    else:
        parent = version_directory(home, base)
        version, base_weights = read_version_manifest(parent), training_base(home, base)
        if base_sha256(base_weights) != manifest.lineage.base_sha256:
            raise MergeRefused(
                f"{base} has changed since {manifest.checkpoint} was trained on it: its config or its weights differ. "
                "Restore its files"
            )
        sha256 = version.origin_sha256
        origin = _origin(home, manifest, sha256, moved_to)
        earlier = tuple(parent / TRAINED / name for name in version.trained)
    full = isinstance(manifest.lineage.settings.method, FullSettings)
    return Sources(
        origin=origin,
        origin_sha256=sha256,
        parent=parent,
        trained=(*(earlier[-1:] if full else earlier), checkpoint),
        tokenizer=checkpoint,
        manifest=manifest,
        reference=Reference(checkpoint) if full else Reference(base_weights, checkpoint),
    )


def version_sources(home: Path, version: VersionId, moved_to: ModelSettings | None = None) -> Sources:
    """Return the sources for a version, to round it to another dtype. `moved_to`: as for a checkpoint.

    Raises MergeRefused, ModelUnusable, OSError, ValueError.
    """
    directory = version_directory(home, version)
    version_manifest = read_version_manifest(directory)
    manifest, origin_sha256 = version_manifest.checkpoint, version_manifest.origin_sha256
    return Sources(
        origin=_origin(home, manifest, origin_sha256, moved_to),
        origin_sha256=origin_sha256,
        parent=None,
        trained=tuple(directory / TRAINED / name for name in version_manifest.trained),
        tokenizer=directory,
        manifest=manifest,
        reference=Reference(directory),
    )


def _origin(home: Path, manifest: Manifest, sha256: str, moved_to: ModelSettings | None) -> Path:
    model = manifest.lineage.settings.model
    if moved_to is not None and moved_to.path != model.path:
        with suppress(ModelUnusable, OSError):
            origin = base_directory(moved_to.path, home, revision=moved_to.revision)
            if sha256 and sha256 == base_sha256(origin):
                return origin
    origin = base_directory(model.path, home, revision=model.revision)
    if sha256 and sha256 != base_sha256(origin):  # "": an earlier keepstep did not record it
        raise MergeRefused(
            f"the base model at {model.path} is not the one that {manifest.checkpoint} was trained on. Restore that "
            f"one (SHA-256 {sha256})"
        )
    return origin


@dataclass(frozen=True)
class MergedModel:
    """The files of a model that are not written yet."""

    contents: Mapping[str, Content]
    dtypes: tuple[str, ...]
    stored_as: str
    """The dtype that most of its weights are rounded to."""
    tally: MergeStats
    """Statistics of the weights that were written so far."""
    sources: Sequence[WeightsFile]
    """The input files; the files of the model have the same names and tensors."""
    trained: TrainedWeights
    layout: Layout
    """The layout of the origin."""

    @property
    def files(self) -> list[str]:
        """The names of the model's files of weights."""
        return [file.path.name for file in self.sources]

    def tensor(self, weight: str) -> str:
        """Return the tensor of the model that holds a weight. Raises MergeRefused."""
        if any(weight in file.tensors for file in self.sources):
            return weight
        return self.layout.tensor(weight)


@contextmanager
def open_merged_model(
    sources: Sources, dtype: Dtype | None, beat: Callable[[], None] = lambda: None, *, share: bool = False
) -> Iterator[MergedModel]:
    """Open the input files and yield the merged model. `dtype` None: each weight keeps the dtype of the origin.

    `share`: a file of weights without a trained weight becomes a hard link to that of the parent. `beat` is called for
    each block that is written. Raises MergeRefused if the trained weights do not fit; OSError, ValueError.
    """
    with ExitStack() as stack:

        def opened(path: Path) -> WeightsFile:
            return stack.enter_context(closing(WeightsFile(path)))

        files = [opened(sources.origin / name) for name in weights_files(sources.origin)]
        by_tensor = {name: file for file in files for name in file.tensors}
        layout = read_layout(sources.origin)
        trained: TrainedWeights
        index: dict[str, Content] = {}
        if sources.full:
            *before, newest = (opened(directory / WEIGHTS_FILES[1]) for directory in sources.trained)
            trained = FullWeights(
                by_tensor,
                dict.fromkeys(before[-1].tensors, before[-1]) if before else None,
                layout.tensor,
                frozenset(name for name, _, _ in sources.manifest.buffers),
            )
            files = [newest]
        else:
            trained = AdapterWeights(sources.trained, layout.locate)
            if INDEX in base_files(sources.origin):
                index[INDEX] = read_model_file(sources.origin, INDEX)
        trained.refuse_mismatch(files)

        def stored_as(name: str) -> str:
            """Return the dtype that a tensor is rounded to; a buffer that the origin lacks keeps its own."""
            if dtype:
                return DTYPES[dtype]
            origin = name if name in by_tensor else layout.stored.get(name, name)
            return by_tensor[origin].tensors[origin].dtype if origin in by_tensor else files[0].tensors[name].dtype

        dtypes = [stored_as(name) for file in files for name in file.tensors]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        tally = MergeStats()

        def weights(file: WeightsFile) -> Content:
            if share and sources.parent is not None and not any(map(trained.trains, file.tensors)):
                return link_or_copy(sources.parent / file.path.name)
            return partial(write_merged, file, trained=trained, stored_as=stored_as, tally=tally, beat=beat)

        yield MergedModel(
            contents={
                **index,
                **_small_files(sources, most, untied=_is_untied(layout, trained, files)),
                **{file.path.name: weights(file) for file in files},
            },
            dtypes=tuple(sorted(set(dtypes))),
            stored_as=most,
            tally=tally,
            sources=files,
            trained=trained,
            layout=layout,
        )


def link_or_copy(source: Path) -> Content:
    """Return a function that hard-links `source`, or copies it where the file system has no hard links."""

    def put(path: Path) -> None:
        with suppress(OSError):
            os.link(source, path)
            return
        shutil.copyfile(source, path)

    return put


def trained_contents(sources: Sources) -> dict[str, Content]:
    """Return the trained weights that a version keeps, so that they can be merged again, into other weights too."""
    trained = sources.trained[-1:] if sources.full else sources.trained
    return {
        f"{TRAINED}/{directory.name}/{name}": link_or_copy(directory / name)
        for directory in trained
        for name in sources.trained_files(directory)
    }


def make_manifest(sources: Sources, merged: MergedModel) -> VersionManifest:
    """Return the manifest of the model, without its files and without the fields that only a version has."""
    return VersionManifest(
        origin_sha256=sources.origin_sha256,
        checkpoint=sources.manifest,
        applied=merged.tally.applied,
        in_place=merged.tally.in_place,
        files={},
    )


def _is_untied(layout: Layout, trained: TrainedWeights, files: Sequence[WeightsFile]) -> bool:
    """True if the config ties two weights, and the model stores them with different numbers.

    transformers 4 would then load the first one for both.
    """
    by_tensor = {name: file for file in files for name in file.tensors}
    for pair in layout.copies:
        one, other = (name if name in by_tensor else layout.stored.get(name, name) for name in pair)
        if one not in by_tensor or other not in by_tensor:
            continue  # trained as one weight
        if (
            trained.trains(one)
            or trained.trains(other)
            or not tensors_equal(by_tensor[one], one, by_tensor[other], other)
        ):
            return True
    return False


def _small_files(sources: Sources, most: str, *, untied: bool) -> dict[str, Content]:
    """Return config, generation config and code of the origin, and the tokenizer that was trained with."""
    origin = sources.origin
    config = read_model_file(origin, CONFIG)
    if json.loads(config).get("quantization_config"):
        raise MergeRefused(
            "the base is quantized, and nothing is merged into quantized weights. Use its 16-bit original"
        )
    files: dict[str, Content] = {
        CONFIG: edit_config(
            config, dtype=next(name for name, stored in DTYPES.items() if stored == most), untied=untied
        )
    }
    names = [GENERATION_CONFIG, *(path.name for path in origin.glob("*.py"))]
    files.update({name: read_model_file(origin, name) for name in names if (origin / name).exists()})
    return {**files, **_tokenizer_files(sources)}


def _tokenizer_files(sources: Sources) -> dict[str, bytes]:
    """Return the tokenizer files of the origin if it was trained with them; else those of the checkpoint.

    Checkpoints of earlier keepsteps hold the tokenizer as transformers 5 writes it, which nothing else loads.
    """
    directory = sources.tokenizer
    names = (
        read_version_manifest(directory).files if (directory / VERSION_MANIFEST).exists() else sources.manifest.files
    )
    names_of_tokenizer = sorted(filter(_is_of_tokenizer, names))
    kept = {name: read_file(directory / name, bytes_max=SMALL_BYTES_MAX) for name in names_of_tokenizer}
    own = tokenizer_files(sources.origin, kept)
    if own == kept:
        return own
    settings, trained_with = sources.manifest.lineage.settings.model, sources.manifest.lineage.tokenizer_sha256
    found = saved_tokenizer_sha256(sources.origin, trust_remote_code=settings.trust_remote_code)
    return own if found is not None and found in {trained_with, saved_tokenizer_sha256(directory)} else kept


def _is_of_tokenizer(name: str) -> bool:
    """True if a file of a checkpoint or a version belongs to its tokenizer."""
    return not (name in NOT_OF_A_MODEL or name in NOT_OF_A_TOKENIZER or name.startswith(f"{TRAINED}/")) and (
        Path(name).suffix not in {".safetensors", ".py"}
    )
