"""Several encoder processes give the bytes of one, in order, and end with their parent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from events.messages import Prepare, Prepared
from gpu.data.plan.chunk import Chunk, Chunks
from gpu.data.processes import encoder_pool as encoders_module
from gpu.data.processes.encoder_pool import CHUNKS_IN_FLIGHT, EncoderPool, core_count
from gpu.data.read.record import Record
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import EncoderLost, ModelUnusable, RowRejected, YieldRequested
from tests.gpu.data.processes.test_encoder_process import order
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import make_rows, make_tokenizer
from tests.waiting import eventually, is_alive

SHA256 = tokenizer_sha256(make_tokenizer())
ROWS = make_rows(3000)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Use this many encoder processes, whatever the machine and the file."""

    def with_encoders(count: int) -> None:
        monkeypatch.setattr("gpu.data.plan.prepare.PARALLEL_FROM_BYTES", 0 if count else 1 << 60)
        monkeypatch.setattr("gpu.session.core_count", lambda: count)
        monkeypatch.setattr("gpu.data.plan.prepare.Chunks", lambda path, how: Chunks(path, how, 10_000))

    return with_encoders


def kept(home: Home) -> dict[str, bytes]:
    """Return every file of the cache, and delete the cache."""
    (directory,) = (home.path / "cache" / "tokens").iterdir()
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    return found


def prepared(home: Home, data: bytes = ROWS, **channel: Any) -> Any:
    how = settings(LORA, threads=0)
    home.new_session(**channel).prepare(Prepare(attempt=1, job=home.add(data), settings=how))
    return home.channel.of(Prepared)[0].plan


def test_the_same_bytes_come_out_of_any_number_of_encoders(home: Home, large: Callable[[int], None]) -> None:
    found = []
    for count in (0, 1, 2, 3):
        large(count)
        found.append((prepared(home), kept(home)))
    assert found[0][0].rows == 3000
    assert all(each == found[0] for each in found)


def test_the_first_bad_row_of_the_file_is_the_one_that_is_named(home: Home, large: Callable[[int], None]) -> None:
    """Another process may find another bad row sooner."""
    large(2)
    with pytest.raises(RowRejected) as refused:
        prepared(home, make_rows(700) + b"{oops\n" + make_rows(900) + b"[]\n")
    assert refused.value.line == 701
    assert not _children()


def test_a_preparation_that_is_to_stop_leaves_no_encoder(home: Home, large: Callable[[int], None]) -> None:
    large(2)
    with pytest.raises(YieldRequested):
        prepared(home, yield_after=0)
    assert not _children()
    assert not list(home.path.glob("cache/tokens/*"))


def test_no_more_is_on_its_way_than_keeps_them_busy(home: Home) -> None:
    """The bound does not depend on the size of the file."""
    given = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal given
        for number in range(40):
            given += 1
            yield Chunk([Record(number + 1, make_rows(1, number))])

    with EncoderPool(order(home), 2, SHA256) as encoders:
        for taken, _ in enumerate(encoders.encode(chunks())):
            assert given <= taken + 1 + CHUNKS_IN_FLIGHT * 2
    assert given == 40


def test_an_encoder_that_is_killed_is_named_and_the_others_end(home: Home) -> None:
    with EncoderPool(order(home), 2, SHA256) as encoders:
        answers = encoders.encode(Chunk([Record(number, make_rows(1))]) for number in range(1, 100))
        next(answers)
        os.kill(_children()[0].pid, signal.SIGKILL)
        with pytest.raises(EncoderLost, match=r"killed by signal 9 at line \d+.*memory"):
            list(answers)
    assert not _children()


def test_encoders_with_another_tokenizer_are_not_listened_to(home: Home) -> None:
    with pytest.raises(ModelUnusable, match="on disk changed"), EncoderPool(order(home), 2, "another"):
        pass
    with pytest.raises(ModelUnusable, match="there is no model"), EncoderPool(order(home, "./nowhere"), 2, SHA256):
        pass
    assert not _children()


def test_encoders_end_when_their_parent_is_killed(home: Home) -> None:
    """The end of the pipe alone ends them."""
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        with EncoderPool(order(home), 2, SHA256):
            os.write(writing, " ".join(str(child.pid) for child in _children()).encode())
            time.sleep(600)
    pids = [int(pid) for pid in os.read(reading, 100).split()]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    for pid in pids:
        eventually(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    os.close(reading)
    os.close(writing)


def test_one_core_is_no_reason_for_another_process(home: Home) -> None:
    how = settings(LORA, threads=1)
    assert encoders_module.preparation_context(home.path, how, None, SHA256, None, 8).encoders is None
    many = settings(LORA, threads=0)
    assert encoders_module.preparation_context(home.path, many, None, SHA256, None, 8).encoders is not None
    assert core_count() >= 1


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "gpu.data.processes.encoder_process" in child.cmdline()]
