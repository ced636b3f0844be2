"""Latencies of the worker, saved for the next daemon in `run/usual.json`. The file is a cache.

It is replaced rarely, as a whole, and without a sync. It is used only if its checksum is right and this version wrote
it on this machine for this journal; otherwise the daemon measures again. `core/deadlines.py` decides whether the
latencies fit the model, the settings and the device of the next job.
"""

from __future__ import annotations

import logging
from math import isfinite

import msgspec
from msgspec import Struct

from cli.home.identity import Identity
from cli.home.paths import Home
from cli.version import VERSION
from core.deadlines import GAPS_KEPT, Phase, Watched, usual_s
from core.structures.maps import Map
from events.settings import JobSettings
from journal.durable import read_file, write_atomically
from projections.checksum import UNREADABLE, has_checksum, with_checksum

SAVE_EVERY_S = 60.0
"""Time between two saves of new latencies. A killed daemon loses at most this much; writing a few kilobytes costs less
than the events of a step."""

log = logging.getLogger("keepstep.daemon")


class SavedLatencies(Struct, frozen=True, kw_only=True):
    """The content of the file."""

    keepstep: str
    """The version of keepstep. Another one may do more or less work between two signs of progress."""
    host: str
    boot: str
    journal: str
    settings: JobSettings
    environment: dict[str, str]
    gaps: dict[Phase, tuple[float, ...]]
    """Recent gaps between two signs of progress, by phase, as in `core.deadlines.Watched`. Seconds."""


class LatencyStats:
    """Loads and saves the latencies. Never raises: the daemon can work without a cache."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._identity: Identity | None = None
        self._journal = ""
        self._gaps: Map[tuple[float, ...]] = Map()
        """The latencies that were loaded or saved last, or that could not be saved."""
        self._saved_at = 0.0

    def load(self, identity: Identity, journal: str) -> Watched:
        """Load the latencies that an earlier daemon on this machine measured for this journal; none if in doubt."""
        self._identity, self._journal = identity, journal
        name = self._home.relative(self._home.usual)
        try:
            data = read_file(self._home.usual, storage=self._home.storage)
            known = _decoder.decode(data) if has_checksum(data) else None
        except FileNotFoundError:
            return Watched()
        except UNREADABLE as error:
            log.warning("%s is not used (%s); latencies are measured again", name, error)
            return Watched()
        mismatch = _mismatch(known, identity.host, journal)
        if known is None or mismatch:
            log.warning("%s is not used (%s); latencies are measured again", name, mismatch)
            return Watched()
        gaps: dict[str, tuple[float, ...]] = dict(known.gaps.items())
        if known.boot != identity.boot_id:
            gaps.pop("load", None)  # after a boot, the model is loaded from a cold disk
        log.info("latencies are loaded from %s: %s", name, _in_words(gaps))
        self._gaps = Map(gaps)
        return Watched(settings=known.settings, environment=known.environment, gaps=self._gaps)

    def save(self, watched: Watched, *, at_once: bool = False) -> None:
        """Save the latencies if they are new and the last save was long enough ago, or `at_once`."""
        now = self._home.clock.monotonic()
        new = watched.gaps is not self._gaps and len(watched.gaps)
        if not new or self._identity is None or watched.settings is None:
            return
        if not at_once and now - self._saved_at < SAVE_EVERY_S:
            return
        self._gaps, self._saved_at = watched.gaps, now
        known = SavedLatencies(
            keepstep=VERSION,
            host=self._identity.host,
            boot=self._identity.boot_id,
            journal=self._journal,
            settings=watched.settings,
            environment=watched.environment,
            gaps=dict(watched.gaps.items()),  # type: ignore[arg-type]  # its keys are phases
        )
        try:
            data = with_checksum(msgspec.json.encode(known))
            write_atomically(self._home.usual, data, sync=False, storage=self._home.storage)
        except OSError as error:
            log.info("%s cannot be written: %s", self._home.relative(self._home.usual), error)


def _mismatch(known: SavedLatencies | None, host: str, journal: str) -> str | None:
    """Why the file cannot be used; None: it can."""
    if known is None:
        return "its checksum is wrong"
    if known.keepstep != VERSION:
        return f"keepstep {known.keepstep} wrote it"
    if known.host != host:
        return f"another machine wrote it, {known.host}"
    if known.journal != journal:
        return "it belongs to another home"
    for gaps in known.gaps.values():
        if len(gaps) > GAPS_KEPT or not all(isfinite(gap) and gap >= 0.0 for gap in gaps):
            return "its numbers are out of range"
    return None


def _in_words(gaps: dict[str, tuple[float, ...]]) -> str:
    known = ((phase, usual_s(each)) for phase, each in sorted(gaps.items()))
    return (
        ", ".join(f"{phase} {usual:.3g} s" for phase, usual in known if usual is not None) or "too few measurements yet"
    )


_decoder: msgspec.json.Decoder[SavedLatencies] = msgspec.json.Decoder(SavedLatencies)
