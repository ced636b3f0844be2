"""What is usual for the worker, kept for the next daemon: `run/usual.json`, a cache.

It is written rarely, whole or not at all, and without a sync. Read back, it is used only if it is exactly what was
written, by this version, on this machine, for this journal; whatever else it is, it is as if it were not there, and a
daemon learns anew. Whether it fits the model and the settings of the next job, and the device that the worker finds, is
asked in `core/deadlines.py`, as it is of what was learned a minute ago.
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
from projections.checksum import UNREADABLE, has_checksum, sealed

KEPT_EVERY_S = 60.0
"""While there is something new: a daemon that is killed loses at most this much of what it has learned, and writing the
few kilobytes costs less than a step's events."""

log = logging.getLogger("keepstep.daemon")


class Known(Struct, frozen=True, kw_only=True):
    """What is in the file."""

    keepstep: str
    """The version: another one may do more or less between two signs of progress."""
    host: str
    boot: str
    journal: str
    settings: JobSettings
    environment: dict[str, str]
    gaps: dict[Phase, tuple[float, ...]]
    """As `core.deadlines.Watched` has them. Seconds."""


class LatencyStats:
    """Reads and writes it, and never raises: nothing hangs on a cache."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._me: Identity | None = None
        self._journal = ""
        self._gaps: Map[tuple[float, ...]] = Map()
        """Those that are on the disk, or that nobody could write."""
        self._kept_at = 0.0

    def recall(self, me: Identity, journal: str) -> Watched:
        """What an earlier daemon of this machine learned from the home with this journal, if that is certain."""
        self._me, self._journal = me, journal
        name = self._home.relative(self._home.usual)
        try:
            data = read_file(self._home.usual, storage=self._home.storage)
            known = _decoder.decode(data) if has_checksum(data) else None
        except FileNotFoundError:
            return Watched()
        except UNREADABLE as error:
            log.warning("%s is not used (%s): what is usual is learned anew", name, error)
            return Watched()
        doubt = _doubt(known, me.host, journal)
        if known is None or doubt:
            log.warning("%s is not used (%s): what is usual is learned anew", name, doubt)
            return Watched()
        gaps: dict[str, tuple[float, ...]] = dict(known.gaps.items())
        if known.boot != me.boot_id:
            gaps.pop("load", None)  # what is loaded behind a boot comes from a cold disk
        log.info("what is usual is known from %s: %s", name, _in_words(gaps))
        self._gaps = Map(gaps)
        return Watched(settings=known.settings, environment=known.environment, gaps=self._gaps)

    def keep(self, watched: Watched, *, at_once: bool = False) -> None:
        """Write it down, if there is something new in it and it is time to, or `at_once`."""
        now = self._home.clock.monotonic()
        new = watched.gaps is not self._gaps and len(watched.gaps)
        if not new or self._me is None or watched.settings is None:
            return
        if not at_once and now - self._kept_at < KEPT_EVERY_S:
            return
        self._gaps, self._kept_at = watched.gaps, now
        known = Known(
            keepstep=VERSION,
            host=self._me.host,
            boot=self._me.boot_id,
            journal=self._journal,
            settings=watched.settings,
            environment=watched.environment,
            gaps=dict(watched.gaps.items()),  # type: ignore[arg-type]  # its keys are phases
        )
        try:
            data = sealed(msgspec.json.encode(known))
            write_atomically(self._home.usual, data, sync=False, storage=self._home.storage)
        except OSError as error:
            log.info("%s is not written: %s", self._home.relative(self._home.usual), error)


def _doubt(known: Known | None, host: str, journal: str) -> str | None:
    """Why it is not to be believed; None: it is."""
    if known is None:
        return "it is not what was written"
    if known.keepstep != VERSION:
        return f"it is of keepstep {known.keepstep}"
    if known.host != host:
        return f"it is of another machine, {known.host}"
    if known.journal != journal:
        return "it is of another home"
    for gaps in known.gaps.values():
        if len(gaps) > GAPS_KEPT or not all(isfinite(gap) and gap >= 0.0 for gap in gaps):
            return "it says what cannot be"
    return None


def _in_words(gaps: dict[str, tuple[float, ...]]) -> str:
    known = ((phase, usual_s(each)) for phase, each in sorted(gaps.items()))
    return ", ".join(f"{phase} {usual:.3g} s" for phase, usual in known if usual is not None) or "too little yet"


_decoder: msgspec.json.Decoder[Known] = msgspec.json.Decoder(Known)
