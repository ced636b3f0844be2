"""What a call to the disk is made to fail with."""

from __future__ import annotations

import errno
import os

from tests.harness.fake_disk import Killed, Process, Shortened


class Fault:
    """What happens to a process at one of its calls, or from that one on."""

    def __init__(self, kind: str, at: int, *, for_ever: bool = False, only: str = "") -> None:
        self.kind, self.at, self.for_ever, self.only = kind, at, for_ever, only
        self.seen = 0
        self.struck = 0
        self.lifted = False

    def __str__(self) -> str:
        where = f"{self.only or 'call'} {self.at}"
        return f"{self.kind} at {where}{' and for ever' if self.for_ever else ''}"

    def strike(self, process: Process, name: str, path: str) -> None:
        if self.lifted or (self.only and name != self.only):
            return
        self.seen += 1
        if self.seen < self.at or (self.seen > self.at and not self.for_ever):
            return
        if self.kind == "short":
            if name == "write":
                self.struck += 1
                raise Shortened
            return
        self.struck += 1
        if self.kind == "kill":
            process.die()
            raise Killed
        code = getattr(errno, self.kind)
        raise OSError(code, os.strerror(code), path)
