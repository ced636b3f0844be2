"""Every state that a crash may leave keeps what was promised; and a run that forgets to sync is found out."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import AnyCommand, Pause, Resume
from events import kinds
from tests.crash import strace_log
from tests.crash.contents import torn
from tests.crash.homes import state_of
from tests.crash.images import Recording, Report, check, environment, record, sample, scratch_directory
from tests.crash.promises import materialise
from tests.crash.recorded_disk import Disk
from tests.crash.scenario import FAKE, REAL, RUN_FAKE
from tests.crash.strace_log import Call

SEED = int(os.environ.get("SEED", "1"))
REASON = strace_log.why_not()
recorded = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def fake() -> Iterator[Recording]:
    """The scenario with the fake worker."""
    with scratch_directory() as scratch:
        yield record(Path(scratch), FAKE)


@pytest.fixture(scope="module")
def real() -> Iterator[Recording]:
    """The scenario with the real one."""
    with scratch_directory() as scratch:
        yield record(Path(scratch), REAL)


def said(report: Report) -> str:
    return "\n".join(map(str, report.failures))


@recorded
def test_the_scenario_holds_everything_that_a_life_is_made_of(fake: Recording) -> None:
    """Otherwise images of it would prove little."""
    happened = {type(record.event) for record in fake.records}
    assert happened >= {
        kinds.JobRejected, kinds.RejectedFileMoved, kinds.FileDuplicate, kinds.PauseRequested, kinds.Resumed,
        kinds.AttemptInterrupted, kinds.AttemptYielded, kinds.CheckpointPruned, kinds.JobTrained,
    }  # fmt: skip


@recorded
@pytest.mark.parametrize(("kind", "limit"), [("kill", 1), ("ext4", 8), ("hostile", 8)])
def test_every_image_keeps_what_was_promised(fake: Recording, kind: str, limit: int) -> None:
    """With the fake worker, and a few power cuts after each call."""
    report = check(fake, kinds=(kind,), limit=limit, seed=SEED)
    assert report.checked > 500
    assert not report.failures, said(report)


@recorded
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["kill", "ext4", "hostile"])
def test_every_image_of_real_training_keeps_what_was_promised(real: Recording, kind: str) -> None:
    """With the real worker, every subset where few changes are pending."""
    report = check(real, kinds=(kind,), limit=64, seed=SEED)
    assert report.checked > 1000
    assert not report.failures, said(report)


@recorded
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_daemon_comes_to_the_end_from_any_image(fake: Recording, tmp_path: Path) -> None:
    """Started on what a crash left, it trains on everything that is left."""
    for name, tree in sample(fake, 20, limit=8, seed=SEED):
        home = Home(materialise(tree, tmp_path / "image") / "home")
        _to_the_end(home, name)
        state = state_of(home)
        left = (
            *state.training.in_progress,
            *state.queue,
            *state.outcomes.failed.values(),
            *state.outcomes.rejections.values(),
        )
        assert not left, f"{name}: {left}"
        assert state.daemon.status == "off", name
        assert not [path for path in home.inbox.rglob("*") if path.is_file()], name


def _to_the_end(home: Home, name: str) -> None:
    """Run until idle. Whenever it is paused, by the scenario or because the fake worker waits for that, continue."""
    for _ in range(4):
        if state_of(home).daemon.status in {"paused", "pausing", "off_paused"}:
            _execute(home, Resume())
        log = home.root.parent / "said.txt"
        with log.open("wb") as output:
            command = [*RUN_FAKE, str(home.root), FAKE, "--until-idle"]
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment()
            )
        deadline = time.monotonic() + 60
        while daemon.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            state = state_of(home)
            waits = (
                state.training.current is not None
                and state.training.current.name == "first.jsonl"
                and state.attempts.reached.step == 5
            )
            if waits and state.daemon.status == "working":
                _execute(home, Pause())
        daemon.kill()
        assert daemon.wait() == 0, f"{name}: {log.read_text(encoding='utf-8')[-2000:]}"
        if state_of(home).daemon.status == "off":
            return


def _execute(home: Home, command: AnyCommand) -> None:
    with closing(EventStore.open(home)) as store:
        store.execute(command)


Forgotten = Callable[[Call, set[str]], bool]


def of_journal(call: Call, directories: set[str]) -> bool:
    return bool(re.fullmatch(r"home/journal/\d+\.jsonl", call.path))


def of_directories(call: Call, directories: set[str]) -> bool:
    return call.path in directories


def of_checkpoints(call: Call, directories: set[str]) -> bool:
    return call.path.startswith("home/checkpoints/") and call.path not in directories


def without(recording: Recording, forgotten: Forgotten) -> Recording:
    """The same calls, but for the syncs that were `forgotten`."""
    directories = {"home"} | {call.path for call in recording.calls if call.kind == "mkdir"}
    directories |= {call.target for call in recording.calls if call.kind == "rename" and call.path in directories}
    dropped = {
        number
        for number, call in enumerate(recording.calls)
        if call.kind == "sync" and forgotten(call, directories) and not call.path.startswith(("home/inbox", "desk"))
    }
    assert dropped
    before = list(itertools.accumulate((n in dropped for n in range(len(recording.calls))), initial=0))
    kept = [
        call._replace(began=call.began - before[call.began])
        for n, call in enumerate(recording.calls)
        if n not in dropped
    ]
    return recording._replace(calls=kept)


@recorded
@pytest.mark.parametrize(
    ("forgotten", "kind", "found"),
    [
        (of_journal, "ext4", "was promised"),
        (of_journal, "hostile", "was promised"),
        (of_directories, "ext4", "no keepstep.toml|does not hold what was rejected|is not in data/"),
        (of_directories, "hostile", "there is no journal|journal is damaged"),
    ],
)
def test_a_run_without_its_syncs_is_found_out(fake: Recording, forgotten: Forgotten, kind: str, found: str) -> None:
    """The check can fail: of the same calls without some syncs, there are images that break a promise."""
    report = check(without(fake, forgotten), kinds=(kind,), limit=6, seed=SEED, failures_max=100)
    assert re.search(found, said(report))


@recorded
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["ext4", "hostile"])
def test_real_checkpoints_without_their_syncs_are_found_out(real: Recording, kind: str) -> None:
    """Files of a checkpoint that were never synced: it is committed, and not whole."""
    report = check(without(real, of_checkpoints), kinds=(kind,), limit=16, seed=SEED, failures_max=100)
    assert "step-0" in said(report)


def _line(call: str) -> str:
    """A line of a log, its strings as strace is asked to write them."""
    return re.sub(r"«(.*?)»", lambda found: "".join(f"\\x{byte:02x}" for byte in found[1].encode()), f"7 {call}\n")


RENAME = _line('rename("«/h/a»", "«/h/b»"').rstrip("\n")


@pytest.mark.parametrize("cut", [[f"{RENAME} <unfinished ...>"], [f"{RENAME} <detached ...>"], [f"{RENAME}) = ?"]])
def test_a_recording_whose_kill_fell_within_a_change_is_not_believed(tmp_path: Path, cut: list[str]) -> None:
    """The rename may have come to pass or not; what follows would be replayed on the wrong disk."""
    log = tmp_path / "log"
    log.write_text("\n".join(cut) + "\n")
    with pytest.raises(strace_log.KilledInside, match="rename of a"):
        strace_log.read_log(log, Path("/h"))
    assert strace_log.read_log(log, Path("/elsewhere")) == []


def test_a_recording_whose_kill_fell_within_a_sync_is_believed(tmp_path: Path) -> None:
    """Whether it came to pass changes only what may be lost, and taking it for not done promises less."""
    log = tmp_path / "log"
    log.write_text(_line('rename("«/h/a»", "«/h/b»") = 0') + _line("fsync(3<«/h/b»> <detached ...>"))
    assert [call.kind for call in strace_log.read_log(log, Path("/h"))] == ["rename"]


def test_a_write_is_torn_at_its_sectors() -> None:
    """Old, new, zeros, each sector alone; nothing twice."""
    old, new = b"a" * 600, b"a" * 600 + b"b" * 600
    found = torn(old, new)
    assert found[0] == old
    assert found[-1] == new
    assert old + b"\0" * 600 in found
    assert b"a" * 600 + b"b" * 424 in found
    assert b"a" * 600 + b"\0" * 424 + b"b" * 176 in found
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("kind", "left"),
    [("ext4", [set(), {"a"}, {"a", "b"}]), ("hostile", [set(), {"a"}, {"b"}, {"a", "b"}])],
)
def test_names_are_lost_in_order_or_in_any(kind: str, left: list[set[str]]) -> None:
    """Two new files, nothing synced."""
    disk = Disk(kind)
    disk.apply(Call("mkdir", "home"))
    disk.apply(Call("create", "home/a"))
    disk.apply(Call("create", "home/b"))
    found = [{path.removeprefix("home/") for path in tree} for _, tree in disk.images(None, 64, "")]
    assert sorted(found, key=sorted) == sorted(left, key=sorted)
    disk.apply(Call("sync", "home", began=3))
    assert [set(tree) for _, tree in disk.images(None, 64, "")] == [{"home/a", "home/b"}]
