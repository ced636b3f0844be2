"""A pool of encoder processes that encode one file in parallel, with the same bytes as one process.

Each is a child process (`gpu.data.processes.encoder_process`), served by a thread of this one that waits for it most of
the time. Chunks are sent in order and results are taken in order. No more chunks are in flight than keep every process
busy, so the memory is bounded whatever the size of the file.
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
from gpu.data.plan.cache import TokenCache
from gpu.data.plan.chunk import Chunk, EncodeChunks, EncodedChunk
from gpu.data.plan.prepare import PreparationContext
from gpu.data.processes.encoder_process import EncoderOrder, Ready, receive, send
from gpu.errors import EncoderLost, ModelUnusable
from gpu.ipc.protocol import encode_request
from gpu.model.base import pin_revision
from gpu.model.tokenizer import load_limits

CHUNKS_IN_FLIGHT = 2
"""Chunks in flight for each process: the one that it encodes, and the next."""


class EncoderPool:
    """Encoder processes that start on entering and end on leaving."""

    def __init__(self, order: EncoderOrder, count: int, tokenizer_sha256: str) -> None:
        """`tokenizer_sha256`: the fingerprint that their tokenizer must have."""
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
                # -P: the home contains a directory `journal`, and Python must not import from the working directory
                command = [sys.executable, "-P", "-m", "gpu.data.processes.encoder_process", self._order]
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._children.append(child)
            for child in self._children:
                self._await_ready(child)
                self._free.put(child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()  # nobody needs its result; a thread that waits for it sees its end
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # unwritten data
                    _open(pipe).close()

    def encode(self, chunks: Iterable[Chunk]) -> Iterator[EncodedChunk]:
        """Yield each encoded chunk, in order. Raises EncoderLost, and what `chunks` raises."""
        in_flight: deque[Future[EncodedChunk]] = deque()
        for chunk in chunks:
            in_flight.append(self._threads.submit(self._encode_chunk, chunk))
            if len(in_flight) > CHUNKS_IN_FLIGHT * self._count:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()

    def _encode_chunk(self, chunk: Chunk) -> EncodedChunk:
        child = self._free.get()
        try:
            send(_open(child.stdin), chunk)
            answer = receive(_open(child.stdout), EncodedChunk)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise _lost(child, f"line {chunk.first}") from error
        finally:
            self._free.put(child)
        if answer is None:
            raise _lost(child, f"line {chunk.first}")
        return answer

    def _await_ready(self, child: subprocess.Popen[bytes]) -> None:
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
                "the tokenizer on disk changed while keepstep prepared a file with it. keepstep prepares the file "
                "again; do not change the model's directory meanwhile."
            )


def preparation_context(
    home: Path,
    settings: JobSettings,
    tokenizer: Any,
    tokenizer_sha256: str,
    cache: TokenCache,
    cores: int,
    *,
    records: bool = True,
) -> PreparationContext:
    """Return the context in which files are prepared, large ones by as many encoder processes as cores may be used.

    `records`: whether report, skipped rows and row hashes are written into the home. Raises ModelUnusable.
    """
    count = settings.training.threads or cores
    limits = load_limits(settings.model, home)

    @contextmanager
    def start(format_name: str | None) -> Iterator[EncodeChunks]:
        named = replace(settings, model=pin_revision(settings.model, home))
        order = EncoderOrder(home=str(home), settings=named, format_name=format_name, limits=limits)
        with EncoderPool(order, count, tokenizer_sha256) as encoders:
            yield encoders.encode

    encoders = start if count > 1 else None
    return PreparationContext(home, tokenizer, tokenizer_sha256, cache, limits, encoders, records)


def core_count() -> int:
    """Return how many cores this process may use; more threads would only wait for each other."""
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
        f"a process that encodes rows {how} at {at}. `keepstep logs` shows its last lines. Signal 9 mostly means "
        "that memory ran out (kernel log). keepstep prepares the file again from its beginning."
    )
