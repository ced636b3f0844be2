"""The paths in a home, with the storage and the clock that its processes use."""

from __future__ import annotations

import os
from pathlib import Path

from cli.errors import UserError
from cli.home.trust import refuse_foreign, refuse_open_to_all
from cli.machine.clock import REAL_CLOCK, Clock
from journal.storage import REAL, Storage, set_file_mask

CONFIG = "keepstep.toml"

QUESTIONS = "evaluation"
"""The directory with the user's questions; keepstep does not make it (`gpu.evaluation.question_files`)."""

CONFIG_MODE = 0o600
"""Private to the owner, also in a home that is shared with a group: `[hooks] notify` contains passwords."""


class Home:
    """The paths of a home. Creates nothing."""

    def __init__(self, root: Path, *, storage: Storage = REAL, clock: Clock = REAL_CLOCK) -> None:
        self.root = root
        self.storage = storage
        self.clock = clock
        self.config = root / CONFIG
        self.inbox = root / "inbox"
        self.journal = root / "journal"
        self.data = root / "data"
        self.rejected = root / "rejected"
        self.reports = root / "reports"
        self.validation = root / "validation"
        self.questions = root / QUESTIONS
        self.evaluations = root / "evaluations"
        self.checkpoints = root / "checkpoints"
        self.quarantine = root / "quarantine"
        self.versions = root / "versions"
        self.backups = root / "backups"
        self.evaluations = root / "evaluations"
        self.models = root / "models"
        self.metrics = root / "metrics"
        self.tokens = root / "cache" / "tokens"
        self.rehearsal = root / "cache" / "rehearsal"
        self.logs = root / "logs"
        self.run = root / "run"
        self.status = root / "status" / "status.json"
        self.snapshot = root / "status" / "snapshot.json"
        self.machine = root / "status" / "machine.json"
        self.machine_samples = root / "status" / "machine-samples.jsonl"
        self.skipped_files = root / "status" / "inbox.json"
        self.hooks = root / "status" / "hooks.json"
        self.report_progress = root / "status" / "report"
        self.backup_lock = root / "run" / "backup.lock"
        self.daemon_lock = root / "run" / "daemon.lock"
        self.usual = root / "run" / "usual.json"
        self.stop_file = root / ".stop"
        self.arriving_is_durable = False
        """True once this process has synced the name of `data/.arriving`."""

    def directories(self) -> list[Path]:
        """Every directory of a home that keepstep makes."""
        return [
            self.inbox,
            self.inbox / "high",
            self.inbox / "low",
            self.data,
            self.rejected,
            self.reports,
            self.checkpoints,
            self.quarantine,
            self.versions,
            self.backups,
            self.evaluations,
            self.status.parent,
            self.logs,
            self.run,
        ]

    def data_file(self, job: str) -> Path:
        """The path of the data of a job."""
        return self.data / f"{job}.jsonl"

    def relative(self, path: Path) -> str:
        """`path` as the journal has it: relative to the home."""
        return path.relative_to(self.root).as_posix()


def new_directory(home: Home, to: Path) -> Path:
    """The path of a new directory outside of the home. Raises UserError if it exists or is in the home."""
    target = to.expanduser().absolute()
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; nothing was written", "name a directory that does not exist")
    target = target.resolve()  # shown without the `..` of the argument
    if target.is_relative_to(home.root.resolve()):
        raise UserError(
            f"{target} is in the home, where keepstep deletes unknown files", "choose a directory outside of it"
        )
    return target


def find_home(given: Path | None, *, reads_only: bool = False, closes_it: bool = False) -> Home:
    """Find the home: `--home`, then KEEPSTEP_HOME, then the current directory and those above it, as git does.

    `reads_only`: the command writes and runs nothing of the home, so any user may own it. `closes_it`: the command
    restricts its modes, so it may be writable by all. Raises UserError; ForeignHome if its owner is not trusted.
    """
    home = _found(given)
    if not reads_only:
        refuse_foreign(home.root, home.config)
        if not closes_it:
            refuse_open_to_all(home.root, home.config)
    set_file_mask(home.root)
    return home


def _found(given: Path | None) -> Home:
    named = given or (Path(value) if (value := os.environ.get("KEEPSTEP_HOME")) else None)
    if named is not None:
        root = named.expanduser().absolute()
        if not (root / CONFIG).is_file():
            raise UserError(f"{root} is not a keepstep home: it has no {CONFIG}", "make one with `keepstep init`")
        return Home(root)
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / CONFIG).is_file():
            return Home(directory)
    raise UserError(
        f"no keepstep home here: neither {here} nor any directory above it has a {CONFIG}",
        "go to your home, name it with --home or KEEPSTEP_HOME, or make one with `keepstep init`",
    )
