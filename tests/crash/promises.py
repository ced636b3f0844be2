"""What was promised, and whether a home that a crash left keeps it.

A promise is a line that somebody could have read: of the daemon, of a command, or of the user about what was put into
the inbox. `PROMISES` says which event each line stands for. Next to that, what holds of every image: the journal opens
undamaged and says a beginning of what it said in the end; what the state names is on disk, whole; nothing of the
user's is gone.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.state import State
from events import kinds
from events.codec import Record
from events.errors import EventError
from events.event import Event
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.manifest import MANIFEST
from gpu.errors import CheckpointBroken
from journal import JournalError, Verdict
from tests.crash.contents import Tree

CLOCK = r"\d\d:\d\d:\d\d  "
Fits = Callable[[Any, re.Match[str]], bool]


def _named(event: Any, line: re.Match[str]) -> bool:
    return bool(event.name == line[1])


def _numbered(event: Any, line: re.Match[str]) -> bool:
    return bool(event.attempt == int(line[1]))


def _any(event: Any, line: re.Match[str]) -> bool:
    return True


PROMISES: tuple[tuple[str, type[Event], Fits], ...] = (
    # of the user
    (r"^made$", kinds.HomeCreated, _any),
    # of commands
    (r"^(\S+) is queued \(\d+ waiting\)$", kinds.FileEnqueued, _named),
    (r"^(\S+) (?:was accepted before|is identical to) .*$", kinds.FileDuplicate, _named),
    (r"^(?:pausing at the next step|paused; the next daemon starts paused)$", kinds.PauseRequested, _any),
    (r"^(?:resumed|no longer paused; .*)$", kinds.Resumed, _any),
    # of the daemon
    (CLOCK + r"(\S+) is in the queue$", kinds.FileEnqueued, _named),
    (CLOCK + r"(\S+) (?:was accepted before|is identical to) .*; see rejected/$", kinds.FileDuplicate, _named),
    (CLOCK + r"\S+: attempt (\d+); reading the file and loading the model$", kinds.AttemptStarted, _numbered),
    (CLOCK + r"\S+: \d+ rows.* steps$", kinds.JobPrepared, _any),
    (CLOCK + r"\S+: training (?:from|continues) .*$", kinds.TrainingStarted, _any),
    (CLOCK + r"step (\d+)/\S+  loss .*$", kinds.StepReached, lambda event, line: event.step == int(line[1])),
    (CLOCK + r"committed (\S+) .*$", kinds.CheckpointCommitted, lambda event, line: event.checkpoint == line[1]),
    (CLOCK + r"\S+: trained$", kinds.JobTrained, _any),
    (CLOCK + r"(\S+): rejected\. .*$", kinds.JobRejected, _named),
    (CLOCK + r"attempt (\d+) was interrupted: .*$", kinds.AttemptInterrupted, _numbered),
    (CLOCK + r"deleted leftover (\S+)$", kinds.LeftoverDeleted, lambda event, line: event.path == line[1]),
    (CLOCK + r"pausing at the next step$", kinds.PauseRequested, _any),
    (CLOCK + r"resumed$", kinds.Resumed, _any),
)
BEGIN_AND_END = "home|model|method|device|queue|times|version|checkpoint|next|failed"
"""Rows of the banner and of the summary of `keepstep run`."""

SILENT = re.compile(
    r"^(?: .*|no daemon runs; .*|put \S+ \S+|keepstep is paused; .*|"
    rf"(?:{BEGIN_AND_END}) {{2,}}.*|trained in this run.*|)$"
)
"""Lines that promise nothing, or that repeat what another line promised."""


class Said(NamedTuple):
    """What had been said by some moment."""

    records: int = 0
    """So many of the records are promised."""
    by: str = "nobody"
    """The line that promises the last of them."""
    put: tuple[str, ...] = ()
    """SHA-256 of each file that the user put into the inbox."""


class Listener:
    """Turns lines, as they are written, into what is promised from then on."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._lines: dict[str, str] = {}
        self._received: Counter[tuple[str, ...]] = Counter()
        self.said = Said()

    def receive(self, path: str, data: bytes) -> bool:
        """Whether something new is promised. Raises ValueError for a line that no one has thought of."""
        *lines, self._lines[path] = (self._lines.get(path, "") + data.decode()).split("\n")
        before = self.said
        for line in lines:
            self._line(path.rpartition("-")[2], line)
        return self.said != before

    def _line(self, speaker: str, line: str) -> None:
        if line.startswith("put "):
            self.said = self.said._replace(put=(*self.said.put, line.split()[2]))
        for pattern, kind, fits in PROMISES:
            found = re.match(pattern, line)
            if found:
                key = (speaker, kind.__name__, *found.groups())
                self._received[key] += 1
                times = self._received[key]
                meant = [n for n, r in enumerate(self._records, 1) if type(r.event) is kind and fits(r.event, found)]
                if len(meant) < times:
                    raise ValueError(f"{line!r} was said {times} times and journaled {len(meant)} times")
                if meant[times - 1] > self.said.records:
                    self.said = self.said._replace(records=meant[times - 1], by=line)
                return
        if not SILENT.match(line):
            raise ValueError(f"a line that stands for nothing: {line!r}")


class Opened(NamedTuple):
    """What opening the journal of an image gave."""

    problem: str
    records: int = 0
    state: State = State()


class Checker:
    """Checks images of one recording. What depends on a part of an image is found out once for each such part."""

    def __init__(self, records: list[Record], scratch: Path, *, whole_checkpoints: bool) -> None:
        self.records, self.scratch, self.whole_checkpoints = records, scratch, whole_checkpoints
        self._lines = {(r.seq, r.crc) for r in records}
        self._configs: set[int] = set()
        self._opened: dict[object, Opened] = {}
        self._verified: dict[object, str] = {}

    def problems(self, tree: Tree, said: Said) -> list[str]:
        """Why the image breaks a promise; empty if it keeps all."""
        opened = self._open(tree)
        if opened.problem:
            if said.records == 0 and "home/keepstep.toml" not in tree:
                return []  # not yet a home, and nobody was told that it is
            return [opened.problem]
        found = []
        if opened.records < said.records:
            found.append(f"record {said.records} was promised ({said.by!r}) and only {opened.records} are there")
        if self.whole_checkpoints:
            found += self._checkpoints(tree, opened.state)
        found += self._files(tree, opened, said)
        return found

    def _open(self, tree: Tree) -> Opened:
        part = {p: blob for p, blob in tree.items() if p.startswith(("home/journal", "home/status", "home/keep"))}
        key = frozenset((p, id(blob)) for p, blob in part.items())
        if key not in self._opened:
            self._opened[key] = self._find_out(part)
        return self._opened[key]

    def _find_out(self, part: Tree) -> Opened:
        if not part.get("home/keepstep.toml"):
            return Opened("there is no keepstep.toml")
        home = Home(materialise(part, self.scratch / "opened") / "home")
        try:
            self._load_config(home, part["home/keepstep.toml"])
            opened, verdict = self._read(home)
            again = self._read(home)[0] if verdict is Verdict.TORN else opened  # clean: it changed nothing
        except (JournalError, UserError, EventError, OSError) as error:
            return Opened(f"{type(error).__name__}: {error}")
        return opened if again == opened else Opened(f"opened again it is another: {opened} and then {again}")

    def _load_config(self, home: Home, blob: object) -> None:
        if id(blob) not in self._configs:
            load_config(home.config)
            self._configs.add(id(blob))

    def _read(self, home: Home) -> tuple[Opened, Verdict]:
        with closing(EventStore.open(home)) as store:
            state, verdict, position = store.state, store.journal.verdict, store.journal.position
        count = position.seq
        if verdict not in {Verdict.CLEAN, Verdict.TORN}:
            return Opened(f"the verdict is {verdict}"), verdict
        if not count or (position.seq, position.crc) not in self._lines:  # the CRC of each covers the one before
            return Opened(f"the {count} records are not a beginning of those that were written"), verdict
        records = self.records[:count]
        if records[-1].more:
            return Opened(f"record {count} is not the last of its transaction"), verdict
        held = [r.event for r in records if isinstance(r.event, kinds.PauseRequested | kinds.Resumed)]
        paused = bool(held) and isinstance(held[-1], kinds.PauseRequested)
        if paused != (state.daemon.status in {"pausing", "paused", "off_paused"}):
            return Opened(f"paused is {paused}, and the state says {state.daemon.status}"), verdict
        return Opened("", count, state), verdict

    def _checkpoints(self, tree: Tree, state: State) -> list[str]:
        found = []
        for checkpoint in state.head.checkpoints:
            place = f"home/checkpoints/{checkpoint.id}"
            part = {p: blob for p, blob in tree.items() if p.startswith(place + "/")}
            manifest = part.get(f"{place}/{MANIFEST}")
            if tree.get(place, place) is not None:
                found.append(f"{checkpoint.id} is committed and not there")
                continue
            key = frozenset((p, id(blob)) for p, blob in part.items())
            if key not in self._verified:
                self._verified[key] = _verified(materialise(part, self.scratch / "checkpoint") / place)
            if self._verified[key]:
                found.append(self._verified[key])
            elif manifest is None or manifest.sha256 != checkpoint.manifest_sha256:
                found.append(f"{checkpoint.id} is whole and not what was committed")
        return found

    def _files(self, tree: Tree, opened: Opened, said: Said) -> list[str]:
        kept = {
            p: b.sha256 for p, b in tree.items() if b and p.startswith(("home/inbox", "home/data", "home/rejected"))
        }
        copies = Counter(kept.values())
        found = []
        for sha256, count in Counter(said.put).items():
            if copies[sha256] < count:
                found.append(f"{count} files {sha256[:12]} were put into the inbox and {copies[sha256]} are left")
        for path, sha256 in kept.items():
            name = path.removeprefix("home/data/")
            if name != path and "/" not in name and name != f"{sha256}.jsonl":
                found.append(f"{path} has the SHA-256 {sha256[:12]}")
        for record in self.records[: opened.records]:
            event = record.event
            if isinstance(event, kinds.FileEnqueued) and not copies[event.job]:
                found.append(f"{event.name} is journaled and its bytes are nowhere")
            elif isinstance(event, kinds.RejectedFileMoved):
                if kept.get(f"home/{event.path}") != event.job:
                    found.append(f"{event.path} does not hold what was rejected")
                if not tree.get(f"home/{event.path}.report.json"):
                    found.append(f"{event.path} has no report")
        for job in (*opened.state.training.in_progress, *opened.state.queue):
            arriving = [s for p, s in kept.items() if p.startswith("home/data/.arriving/")]
            if kept.get(f"home/data/{job.id}.jsonl") != job.id and job.id not in arriving:
                found.append(f"{job.name} waits to be trained and is not in data/")
        return found


def _verified(directory: Path) -> str:
    try:
        CheckpointDirectory(directory).verify()
    except (CheckpointBroken, OSError) as error:
        return str(error)
    return ""


def materialise(tree: Tree, place: Path) -> Path:
    """Make `tree` real at `place`, and nothing else there."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "home").mkdir(parents=True)
    for path, blob in tree.items():
        if blob is None:
            (place / path).mkdir(parents=True, exist_ok=True)
        else:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(blob.data)
    return place
