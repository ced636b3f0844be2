"""The process, driven over a real socket."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.messages import (
    AnyFact,
    CheckpointBad,
    CheckpointWritten,
    Committed,
    Failed,
    Heartbeat,
    Hello,
    Loaded,
    Prepare,
    Prepared,
    Rejected,
    Shutdown,
    Step,
    Train,
    Yield,
    Yielded,
)
from events.settings import ModelSettings
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.errors import CheckpointForeign, DataChanged, ModelUnusable, StorageFailed
from gpu.ipc import connection
from gpu.worker import classify_failure
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import make_rows
from tests.waiting import eventually

WAIT_S = 120


class Daemon:
    """The other end of one worker process."""

    def __init__(self, home: Home, **environment: str) -> None:
        path = home.path / "worker.sock"
        path.unlink(missing_ok=True)
        listener = connection.listen(path)
        self.log = home.path / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gpu.worker", "--home", str(home.path), "--socket", str(path)],
                cwd="/",
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        listener.settimeout(WAIT_S)
        self.connection, _ = listener.accept()
        listener.close()
        self.connection.settimeout(WAIT_S)
        self.send = connection.Sender(self.connection).send
        self._reader = connection.fact_reader()

    def facts(self) -> Iterator[AnyFact]:
        """What the worker says, heartbeats left out, to its end."""
        while data := self.connection.recv(65536):
            yield from (fact for fact in self._reader.feed(data) if not isinstance(fact, Heartbeat))

    def end(self) -> int:
        return self.process.wait(WAIT_S)


@pytest.fixture
def one(home: Home) -> Iterator[Daemon]:
    daemon = Daemon(home)
    yield daemon
    daemon.process.kill()
    daemon.process.wait()
    daemon.connection.close()


def test_one_worker_does_job_after_job_through_every_kind_of_mishap(home: Home, one: Daemon) -> None:
    """In one process, for one import of torch."""
    job, how = home.add(make_rows(6)), settings(LORA, every_steps=1)
    bad = home.add(b'{"prompt": "p", "completion": "c"}\n{oops\n')
    facts = one.facts()
    hello = next(facts)
    assert hello == Hello(attempt=0, pid=one.process.pid)

    # A job, to its end.
    one.send(Prepare(attempt=1, job=job, settings=how))
    prepared = next(facts)
    assert isinstance(prepared, Prepared)
    one.send(Train(attempt=1, global_step=0, step=0, until=4, checkpoint=None, carry_optimizer=True))
    assert isinstance(next(facts), Loaded)
    steps, last = 0, ""
    for fact in facts:
        assert fact.attempt == 1
        steps += isinstance(fact, Step)
        if isinstance(fact, CheckpointWritten):
            last = fact.checkpoint
            one.send(Committed(attempt=1, checkpoint=last))
            if fact.reason == "end":
                break
    assert (steps, last) == (prepared.plan.steps_total, "step-00000004-attempt-0001")

    # A file that cannot be trained on.
    one.send(Prepare(attempt=2, job=bad, settings=how))
    rejected = next(facts)
    assert isinstance(rejected, Rejected)
    assert (rejected.attempt, rejected.problem, rejected.line) == (2, "broken_json", 2)

    # A model that is not there.
    nowhere = settings(LORA).__class__(model=ModelSettings(path="./nowhere"))
    one.send(Prepare(attempt=3, job=job, settings=nowhere))
    failed = next(facts)
    assert isinstance(failed, Failed)
    assert (failed.failure, "there is no model at" in failed.message) == ("model", True)

    # A data file that is gone.
    one.send(Prepare(attempt=4, job="0" * 64, settings=how))
    failed = next(facts)
    assert isinstance(failed, Failed)
    assert (failed.failure, "cannot be read" in failed.message) == ("data", True)

    # A damaged checkpoint; the attempt may continue from another.
    weights = home.directory(last) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x99")
    one.send(Prepare(attempt=5, job=job, settings=how))
    assert isinstance(next(facts), Prepared)
    one.send(Train(attempt=5, global_step=4, step=0, until=4, checkpoint=last, carry_optimizer=True))
    broken = next(facts)
    assert isinstance(broken, CheckpointBad)
    assert broken.checkpoint == last
    one.send(Train(attempt=5, global_step=0, step=0, until=1, checkpoint=None, carry_optimizer=True))
    for fact in facts:
        if isinstance(fact, CheckpointWritten):
            one.send(Committed(attempt=5, checkpoint=fact.checkpoint))
            break

    # Asked to yield while idle, it reports that; ordered to shut down, it ends.
    one.send(Yield(attempt=5))
    assert next(facts) == Yielded(attempt=5)
    one.send(Shutdown(attempt=5))
    assert list(facts) == []
    assert one.end() == 0


@pytest.mark.usefixtures("warm")
def test_it_yields_with_everything_committed_ignores_signals_and_ends_with_its_daemon(home: Home, one: Daemon) -> None:
    facts = one.facts()
    next(facts)
    one.send(Prepare(attempt=1, job=home.add(make_rows(6)), settings=settings(LORA, epochs=500)))
    plan = next(facts)
    assert isinstance(plan, Prepared)
    order = Train(attempt=1, global_step=0, step=0, until=plan.plan.steps_total, checkpoint=None, carry_optimizer=True)
    one.send(order)
    said: list[AnyFact] = []
    for fact in facts:
        said.append(fact)
        if isinstance(fact, Step) and fact.step == 2:
            os.kill(one.process.pid, signal.SIGTERM)
            os.kill(one.process.pid, signal.SIGINT)
            one.send(Yield(attempt=1))
        if isinstance(fact, CheckpointWritten):
            one.send(Committed(attempt=1, checkpoint=fact.checkpoint))
        if isinstance(fact, Yielded):
            break
    last_step = [fact for fact in said if isinstance(fact, Step)][-1].step
    written = [fact for fact in said if isinstance(fact, CheckpointWritten)][-1]
    assert (written.step, written.reason) == (last_step, "yield")

    one.send(order)
    assert isinstance(next(facts), CheckpointBad | Loaded)
    one.connection.shutdown(socket.SHUT_RDWR)
    began = time.monotonic()
    assert one.end() == 0
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("point", ["before_manifest", "renamed"])
def test_killed_inside_a_save_nothing_unfinished_has_a_final_name(home: Home, point: str) -> None:
    daemon = Daemon(home, KEEPSTEP_FAILPOINT=point)
    facts = daemon.facts()
    next(facts)
    daemon.send(Prepare(attempt=1, job=home.add(make_rows(2)), settings=settings(LORA, epochs=1)))
    next(facts)
    daemon.send(Train(attempt=1, global_step=0, step=0, until=1, checkpoint=None, carry_optimizer=True))
    assert not any(isinstance(fact, CheckpointWritten) for fact in facts)
    assert daemon.end() == -signal.SIGKILL
    daemon.connection.close()
    final = [path for path in (home.path / "checkpoints").iterdir() if not path.name.startswith(".staging-")]
    assert len(final) == (1 if point == "renamed" else 0)
    for directory in final:
        CheckpointDirectory(directory).verify()


@pytest.mark.usefixtures("warm")
def test_a_worker_without_a_daemon_says_so_and_ends(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "gpu.worker", "--home", str(tmp_path), "--socket", str(tmp_path / "none.sock")],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "there is no daemon at" in ended.stderr


def wrapped(error: OSError) -> Exception:
    """As a library does it."""
    outer = RuntimeError("it did not work")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "failure", "orderly"),
    [
        (ModelUnusable("no model"), "model", True),
        (CheckpointForeign("step", ["r"]), "checkpoint", True),
        (DataChanged("other bytes"), "data", True),
        (StorageFailed(Path("there"), OSError(errno.EIO, "Input/output error")), "storage", True),
        (StorageFailed(Path("there"), OSError(errno.ENOSPC, "No space left on device")), "disk_full", True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full", True),
        (wrapped(OSError(errno.ENOSPC, "No space left on device")), "disk_full", True),
        (OSError(5, "Input/output error"), "storage", False),
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", False),
        (ValueError("a bug"), "code", False),
    ],
)
def test_every_failure_has_the_name_of_whose_fault_it_is(error: Exception, failure: str, orderly: bool) -> None:
    """After a failure that may have damaged its memory, the process ends."""
    assert classify_failure(error) == (failure, orderly)


def test_what_the_daemon_imports_does_not_load_torch() -> None:
    program = (
        "import sys, gpu, gpu.ipc.connection, gpu.artifacts.manifest, gpu.artifacts.tensors, "
        "gpu.artifacts.commit, journal.failpoints, gpu.errors, "
        "gpu.data.plan.batches, gpu.training.learning_rate, gpu.ipc.worker_channel, gpu.worker; "
        "sys.exit(bool({'torch', 'transformers', 'peft', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.usefixtures("warm")
def test_a_worker_says_where_each_of_its_threads_stands(one: Daemon) -> None:
    """When it is asked by a signal: by a handler in C, so also where Python is stuck."""
    next(one.facts())
    one.process.send_signal(signal.SIGUSR1)
    eventually(lambda: one.log.read_text(encoding="utf-8").count("most recent call first") >= 2)
    assert "worker_channel.py" in one.log.read_text(encoding="utf-8")
    assert one.process.poll() is None
