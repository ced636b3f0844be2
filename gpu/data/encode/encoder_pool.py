"""Several encoders at work on one file (`gpu.data.encode.encoder`): the same bytes as from one, sooner.

Each is a child process of its own, asked by a thread of this one, which waits for it most of the time. Chunks are given
out in order and their answers taken in order, and no more of them are on their way than keep every encoder busy, so
that the memory is bounded whatever the size of the file.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec.structs import replace

from events.settings import JobSettings
from gpu.data.encode.encoder import EncoderOrder, Ready, receive, send
from gpu.data.plan.cache import TokenCache
from gpu.data.plan.chunk import Chunk, Looked, LookThrough
from gpu.data.plan.prepare import Preparation
from gpu.errors import EncoderLost, ModelUnusable
from gpu.ipc.protocol import encode_request
from gpu.model.base import pin_revision
from gpu.model.tokenizer import load_limits

AHEAD = 2
"""Chunks on their way for each encoder: the one that it is at, and the next."""


class EncoderPool:
    """A number of encoders, started on entering and gone on leaving."""

    def __init__(self, order: EncoderOrder, count: int, tokenizer_sha256: str) -> None:
        """`tokenizer_sha256`: of the tokenizer that they must have."""
        self._order = encode_request(order)
        self._count = count
        self._sha256 = tokenizer_sha256
        self._children: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(count, "encoders")

    def __enter__(self) -> EncoderPool:
        """Raises EncoderLost, ModelUnusable, OSError."""
        try:
            for _ in range(self._count):
                # -P: the home has a directory named `journal`, and Python must not import from where it stands
                command = [sys.executable, "-P", "-m", "gpu.data.encode.encoder", self._order]
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._children.append(child)
            for child in self._children:
                self._greet(child)
                self._free.put(child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()  # what it is at is wanted no more; a thread that waits for it sees its end
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # what could not be written any more
                    _open(pipe).close()

    def encode(self, chunks: Iterable[Chunk]) -> Iterator[Looked]:
        """What comes of each chunk, in their order. Raises EncoderLost, and what `chunks` raises."""
        on_their_way: deque[Future[Looked]] = deque()
        for chunk in chunks:
            on_their_way.append(self._threads.submit(self._ask, chunk))
            if len(on_their_way) > AHEAD * self._count:
                yield on_their_way.popleft().result()
        while on_their_way:
            yield on_their_way.popleft().result()

    def _ask(self, chunk: Chunk) -> Looked:
        child = self._free.get()
        try:
            send(_open(child.stdin), chunk)
            answer = receive(_open(child.stdout), Looked)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise _lost(child, f"line {chunk.first}") from error
        finally:
            self._free.put(child)
        if answer is None:
            raise _lost(child, f"line {chunk.first}")
        return answer

    def _greet(self, child: subprocess.Popen[bytes]) -> None:
        try:
            ready = receive(_open(child.stdout), Ready)
        except (OSError, msgspec.MsgspecError) as error:
            raise _lost(child, "its start") from error
        if ready is None:
            raise _lost(child, "its start")
        if ready.problem:
            raise ModelUnusable(ready.problem)
        if ready.tokenizer_sha256 != self._sha256:
            raise ModelUnusable(
                "the tokenizer was changed on disk while a file was prepared with it. The file is prepared anew; leave "
                "the model's directory alone meanwhile."
            )


def preparation(
    home: Path,
    settings: JobSettings,
    tokenizer: Any,
    tokenizer_sha256: str,
    cache: TokenCache,
    cores: int,
    *,
    records: bool = True,
) -> Preparation:
    """What a file is prepared with, large ones by as many encoders as there are cores to use. `records`: whether what
    is found is written down in the home. Raises ModelUnusable."""
    count = settings.training.threads or cores
    limits = load_limits(settings.model, home)

    @contextmanager
    def start(form: str | None) -> Iterator[LookThrough]:
        named = replace(settings, model=pin_revision(settings.model, home))
        order = EncoderOrder(home=str(home), settings=named, form=form, limits=limits)
        with EncoderPool(order, count, tokenizer_sha256) as encoders:
            yield encoders.encode

    encoders = start if count > 1 else None
    return Preparation(home, tokenizer, tokenizer_sha256, cache, limits, encoders, records)


def core_count() -> int:
    """The cores that this process may use: more threads than that only wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _lost(child: subprocess.Popen[bytes], at: str) -> EncoderLost:
    with suppress(subprocess.TimeoutExpired):
        child.wait(1.0)
    code = child.returncode
    how = "stopped answering" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended ({code})"
    return EncoderLost(
        f"a process that encodes rows {how} at {at}. Its last words are in `keepstep logs`; killed by signal 9, it is "
        "mostly memory that ran out (kernel log). The file is prepared again from its beginning."
    )
