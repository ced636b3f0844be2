"""A cache of encoded files. An entry's name is derived from everything that its content depends on.

    <home>/cache/tokens/<data SHA-256>-<key>/    ids.i32 learned.u8 ends.i64 lines.i64 manifest.json, and held-out.… for
    the rows that are evaluated, if there are any

An entry is written next to its final place and committed as a checkpoint is (`gpu.artifacts.commit`). If the process is
killed, the entry is written again, and what it left is leftover files. Nothing refers to an entry and nothing is lost
with it. An entry that does not match its manifest to the byte is deleted and made again. Every byte is verified each
time a file is prepared: that costs less than hashing the file itself, which also happens each time, and an undetected
bit flip would go into the weights.

Only one file is trained at a time, so making an entry deletes all others.
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
from gpu.data.encode.encoder import MASK_VERSION
from gpu.data.examine.report import Report
from gpu.data.plan.cache_names import KEY_CHARACTERS, cache_directories
from gpu.data.plan.store import DTYPES, HELD_OUT, Tokens, TokenWriter
from gpu.errors import StorageFailed
from gpu.model.limits import UNLIMITED, ModelLimits
from journal.durable import claim_directory, make_directory, read_file, remove_tree
from journal.failpoints import failpoint

PARTS = ".parts"
"""Suffix of a directory after STAGING and its name, while rows are written into it."""

LIBRARIES = ("transformers", "tokenizers", "jinja2", "msgspec")
"""Libraries that decide the tokens of a row, in addition to the code of `gpu/data`."""

OnChunk = Callable[[bytes], None]


class TokensManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    name: str
    data_sha256: JobId
    tokenizer_sha256: str
    report: Report
    """The report of the examination."""
    files: dict[str, FileEntry]
    sha256: str = ""
    """SHA-256 of this manifest without this field; nothing else would detect a changed count."""

    def encode(self) -> bytes:
        """Return the bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def with_checksum(self) -> TokensManifest:
        """Return the manifest with its own SHA-256."""
        return replace(self, sha256=self._own_sha256())

    def is_intact(self) -> bool:
        """True if the manifest matches its own SHA-256."""
        return self.sha256 == self._own_sha256()

    def _own_sha256(self) -> str:
        return hashlib.sha256(msgspec.json.encode(replace(self, sha256=""), order="sorted")).hexdigest()

    @property
    def rows_sha256(self) -> str:
        """SHA-256 of the pieces that the batches are made of."""
        lines = "".join(f"{self.files[name].sha256}  {name}\n" for name in DTYPES)
        return hashlib.sha256(lines.encode()).hexdigest()


class CachedTokens(Struct, frozen=True):
    """A verified entry of the cache."""

    manifest: TokensManifest
    tokens: Tokens
    held_out: Tokens | None
    """The rows that are evaluated; None if there are none."""

    @classmethod
    def at(cls, directory: Path, manifest: TokensManifest) -> CachedTokens:
        """Open the entry in `directory`. Raises OSError, ValueError."""
        evaluated = f"{HELD_OUT}ids.i32" in manifest.files
        return cls(manifest, Tokens(directory), Tokens(directory, HELD_OUT) if evaluated else None)


class TokenCache:
    """A directory of encoded files.

    New entries are made in `own`. Entries in `others` are found too, and never changed.
    """

    def __init__(self, own: Path, *others: Path) -> None:
        self._own = own
        self._others = others

    def find(self, name: str, on_chunk: OnChunk = lambda _: None) -> CachedTokens | None:
        """Return the entry with this name; None if it is missing or damaged. `on_chunk` receives each verified
        chunk."""
        for place in (self._own, *self._others):
            if (manifest := _intact_manifest(place / name, on_chunk)) is not None:
                with suppress(OSError, ValueError):  # its owner has just deleted it
                    return CachedTokens.at(place / name, manifest)
        return None

    def make(
        self,
        name: str,
        data_sha256: JobId,
        tokenizer_sha256: str,
        fill: Callable[[TokenWriter, TokenWriter], Report],
        on_chunk: OnChunk = lambda _: None,
    ) -> CachedTokens:
        """Make an entry of what `fill` writes (to the first writer trained rows, to the second evaluated rows), and
        delete all others. Raises StorageFailed, and what `fill` raises."""
        parts = self._own / f"{STAGING}{name}{PARTS}"
        try:
            claim_directory(self._own)
            for path in cache_directories(self._own):
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
            committed = self._commit(parts, names, manifest, on_chunk)
        finally:
            for path in (parts, staging_of(self._own / name)):
                with suppress(OSError):  # it does not exist, or the next `make` or start of the daemon deletes it
                    remove_tree(path)
        failpoint("tokens_kept")
        return CachedTokens.at(self._own / name, committed)

    def _commit(self, parts: Path, names: Sequence[str], manifest: TokensManifest, on_chunk: OnChunk) -> TokensManifest:
        committed = manifest

        def add_manifest(files: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            nonlocal committed
            committed = replace(manifest, files=dict(files)).with_checksum()
            return MANIFEST, committed.encode()

        def move(name: str) -> Content:
            def to(path: Path) -> None:
                (parts / name).rename(path)

            return to

        contents = {name: move(name) for name in names}
        publish(self._own / manifest.name, contents, add_manifest, on_chunk, passed=lambda _: None)
        return committed


def token_cache(home: Path, scratch: Path | None = None) -> TokenCache:
    """Return the cache of the home; with `scratch`, a cache in there that also finds the home's entries."""
    own = home / "cache" / "tokens"
    return TokenCache(own) if scratch is None else TokenCache(scratch / ".tokens", own)


def cache_name(
    data_sha256: JobId, tokenizer_sha256: str, settings: JobSettings, limits: ModelLimits = UNLIMITED
) -> str:
    """Return the name of an entry: it is derived from everything that the pieces depend on."""
    data = replace(
        settings.data, packing=False, validation=None
    )  # these change the plan only; `sources` identifies the validation set
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
    """Return the hash of every module of `gpu/data`: any change in how rows are read and encoded makes new entries."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _intact_manifest(directory: Path, on_chunk: OnChunk) -> TokensManifest | None:
    """Return the manifest of an entry that matches it to the byte; None if there is none."""
    try:
        manifest = _decoder.decode(read_file(directory / MANIFEST))
        names = {path.name for path in directory.iterdir()} - {MANIFEST}
        if manifest.name != directory.name or not manifest.is_intact() or names != manifest.files.keys():
            return None
        if any((directory / name).stat().st_size != entry.size_bytes for name, entry in manifest.files.items()):
            return None  # the sizes are checked before any byte is read
        if any(describe(directory / name, on_chunk) != entry for name, entry in manifest.files.items()):
            return None
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return manifest


_decoder = msgspec.json.Decoder(TokensManifest)
