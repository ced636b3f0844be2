"""What was encoded is kept, and found again by everything that it follows from.

    <home>/cache/tokens/<data SHA-256>-<key>/    ids.i32 learned.u8 ends.i64 lines.i64 manifest.json, and held-out.…
                                                 of the rows that are evaluated, if there are any

It is written beside its final place and committed as a checkpoint is (`gpu.artifacts.commit`): killed midway, it is
begun anew, and what was there of it is debris. Nothing names it and nothing is lost with it: what does not fit its
manifest, to the byte, is thrown away and made again. Every byte is looked at each time that a file is prepared: that
costs less than the look at the file itself, which is done each time as well, and an unseen flipped bit would go into
the weights.

Only one file is learned at a time, so whoever keeps another gives up all others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.settings import JobSettings
from events.values import JobId
from gpu.artifacts.commit import STAGING, Content, publish, staging_of
from gpu.artifacts.manifest import MANIFEST, FileEntry, describe
from gpu.data.encode.rows import MASK_VERSION
from gpu.data.examine.report import Report
from gpu.data.plan.cache_names import KEY_CHARACTERS, caches
from gpu.data.plan.store import DTYPES, HELD_OUT, Tokens, TokenWriter
from gpu.errors import StorageFailed
from gpu.model.limits import UNLIMITED, ModelLimits
from journal.durable import claim_directory, make_directory, read_file, remove_tree
from journal.failpoints import failpoint

PARTS = ".parts"
"""What a directory is called, behind STAGING and its name, while rows are still being written into it."""

LIBRARIES = ("transformers", "tokenizers", "jinja2", "msgspec")
"""What, beside our own code, decides the tokens of a row."""

Watch = Callable[[bytes], None]


class TokensManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    name: str
    data_sha256: JobId
    tokenizer_sha256: str
    report: Report
    """What was found when the file was gone through."""
    files: dict[str, FileEntry]
    sha256: str = ""
    """Of this manifest without it: nothing else would know if a count in it were another."""

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def sealed(self) -> TokensManifest:
        """The same, whole."""
        return replace(self, sha256=self._own_sha256())

    def is_whole(self) -> bool:
        """Whether it is as it was written."""
        return self.sha256 == self._own_sha256()

    def _own_sha256(self) -> str:
        return hashlib.sha256(msgspec.json.encode(replace(self, sha256=""), order="sorted")).hexdigest()

    @property
    def rows_sha256(self) -> str:
        """Of all that the pieces are: what batches are made of."""
        lines = "".join(f"{self.files[name].sha256}  {name}\n" for name in DTYPES)
        return hashlib.sha256(lines.encode()).hexdigest()


class Kept(Struct, frozen=True):
    """A store that was looked at."""

    manifest: TokensManifest
    tokens: Tokens
    held_out: Tokens | None
    """The rows that are evaluated."""

    @classmethod
    def at(cls, directory: Path, manifest: TokensManifest) -> Kept:
        """Raises OSError, ValueError."""
        evaluated = f"{HELD_OUT}ids.i32" in manifest.files
        return cls(manifest, Tokens(directory), Tokens(directory, HELD_OUT) if evaluated else None)


class TokenCache:
    """Where encoded files are kept: what is made stands in `own`; what stands in `others` is found too, and left as it
    is."""

    def __init__(self, own: Path, *others: Path) -> None:
        self._own = own
        self._others = others

    def find(self, name: str, watch: Watch = lambda _: None) -> Kept | None:
        """What is kept under this name; `watch` sees each chunk of it. What is damaged is as if it were not there."""
        for place in (self._own, *self._others):
            if (manifest := _whole(place / name, watch)) is not None:
                with suppress(OSError, ValueError):  # given up by whoever it belongs to, just now
                    return Kept.at(place / name, manifest)
        return None

    def make(
        self,
        name: str,
        data_sha256: JobId,
        tokenizer_sha256: str,
        fill: Callable[[TokenWriter, TokenWriter], Report],
        watch: Watch = lambda _: None,
    ) -> Kept:
        """Keep what `fill` writes (to the one what is learned, to the other what is evaluated), and nothing else any
        more. Raises StorageFailed, and what `fill` raises."""
        parts = self._own / f"{STAGING}{name}{PARTS}"
        try:
            claim_directory(self._own)
            for path in caches(self._own):
                remove_tree(path)
            make_directory(parts)
        except OSError as error:
            raise StorageFailed(parts, error) from error
        try:
            with TokenWriter(parts) as trained, TokenWriter(parts, HELD_OUT) as evaluated:
                report = fill(trained, evaluated)
            failpoint("tokens_written")
            manifest = TokensManifest(
                name=name,
                data_sha256=data_sha256,
                tokenizer_sha256=tokenizer_sha256,
                report=report,
                files={},
            )
            names = (*DTYPES, *(f"{HELD_OUT}{name}" for name in DTYPES)) if evaluated.pieces else tuple(DTYPES)
            whole = self._commit(parts, names, manifest, watch)
        finally:
            for path in (parts, staging_of(self._own / name)):
                with suppress(OSError):  # it is not there, or it is deleted by whoever keeps the next, or starts next
                    remove_tree(path)
        failpoint("tokens_kept")
        return Kept.at(self._own / name, whole)

    def _commit(self, parts: Path, names: Sequence[str], manifest: TokensManifest, watch: Watch) -> TokensManifest:
        whole = manifest

        def seal(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            nonlocal whole
            whole = replace(manifest, files=dict(files)).sealed()
            return MANIFEST, whole.encode()

        def moved(name: str) -> Content:
            def to(path: Path) -> None:
                (parts / name).rename(path)

            return to

        contents = {name: moved(name) for name in names}
        publish(self._own / manifest.name, contents, seal, watch, passed=lambda _: None)
        return whole


def token_cache(home: Path, scratch: Path | None = None) -> TokenCache:
    """The home's own; with `scratch`, one in there that also finds what the home has."""
    own = home / "cache" / "tokens"
    return TokenCache(own) if scratch is None else TokenCache(scratch / ".tokens", own)


def cache_name(
    data_sha256: JobId, tokenizer_sha256: str, settings: JobSettings, limits: ModelLimits = UNLIMITED
) -> str:
    """Under what the pieces of a file are kept: everything that they follow from."""
    data = replace(settings.data, packing=False, validation=None)  # the plan's; and what it holds is in `sources`
    inputs = {
        "tokenizer": tokenizer_sha256,
        "data": msgspec.to_builtins(data),
        "limits": msgspec.to_builtins(limits),
        "rows": settings.checks.rows,
        "sources": msgspec.to_builtins(settings.sources),
        "evaluated": settings.evaluation.rows,
        "mask": MASK_VERSION,
        "code": code_sha256(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    key = hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:KEY_CHARACTERS]
    return f"{data_sha256}-{key}"


@cache
def code_sha256() -> str:
    """Hash of every module of `gpu/data`: whatever is changed in how rows are read and encoded, they are encoded
    anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _whole(directory: Path, watch: Watch) -> TokensManifest | None:
    """The manifest of a cache that fits it to the byte; None if there is none."""
    try:
        manifest = _decoder.decode(read_file(directory / MANIFEST))
        names = {path.name for path in directory.iterdir()} - {MANIFEST}
        if manifest.name != directory.name or not manifest.is_whole() or names != manifest.files.keys():
            return None
        if any((directory / name).stat().st_size != entry.size_bytes for name, entry in manifest.files.items()):
            return None  # found out before any byte is read
        if any(describe(directory / name, watch) != entry for name, entry in manifest.files.items()):
            return None
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return manifest


_decoder = msgspec.json.Decoder(TokensManifest)
