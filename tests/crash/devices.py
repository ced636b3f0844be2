"""What `disks` asks of the kernel: files in memory, loop devices over them, ext4 on those, and holes in all of it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096
SIZE_BYTES = 32 << 20
"""Room for a home with its reserve of 1 MiB and some small checkpoints; filled in a fraction of a second."""

# <linux/loop.h>, <linux/fs.h>, <linux/fcntl.h>, <linux/fiemap.h>
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4
FIFREEZE, FITHAW, FS_IOC_FIEMAP = 0xC0045877, 0xC0045878, 0xC020660B
F_ADD_SEALS, F_SEAL_GROW, F_SEAL_WRITE = 1033, 4, 8
PUNCH_HOLE_KEEP_SIZE = 3

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def closed(fd: int) -> Iterator[int]:
    """A descriptor that ends with the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def memory(size_bytes: int) -> int:
    """A file in memory."""
    fd = os.memfd_create("keepstep-disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    return fd


def make_ext4(backing: int, *, inodes: int = 0) -> None:
    """An empty file system of one group; with `inodes`, so many and no more."""
    count = ["-N", str(inodes)] if inodes else []
    with path_of(backing) as (path, fds):
        subprocess.run(
            # no blocks kept for root, who runs these tests: full is full. One group, so that the tables come first
            ["mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-m", "0", "-E", "nodiscard,lazy_itable_init=0", *count, path],
            pass_fds=fds,
            check=True,
            capture_output=True,
        )


def settle(backing: int, image: Path) -> None:
    """Give every block that the file system keeps for itself real room."""
    shown = subprocess.run(["dumpe2fs", image], check=True, capture_output=True, text=True).stdout
    free: set[int] = set()
    for found in re.finditer(r"^  Free blocks: (.+)$", shown, re.MULTILINE):
        for replay_range in found[1].split(", "):
            first, _, last = replay_range.partition("-")
            free.update(range(int(first), int(last or first) + 1))
    for block in range(SIZE_BYTES // BLOCK):
        if block not in free:
            os.pwrite(backing, os.pread(backing, BLOCK, block * BLOCK), block * BLOCK)


@contextlib.contextmanager
def path_of(fd: int) -> Iterator[tuple[str, tuple[int]]]:
    """What a program is to be told of the file, and what it is to inherit."""
    yield f"/proc/self/fd/{fd}", (fd,)


def attach(backing: int) -> tuple[str, int]:
    """A loop device over `backing`: its path, and a descriptor that keeps it until it is mounted."""
    with closed(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)) as control:
        for _ in range(20):
            device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            info = struct.pack("=5Q4I160x2Q", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, 0, 0)
            try:
                fcntl.ioctl(fd, LOOP_CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64))
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # somebody else took it first
                    raise
            else:
                # A request that begins where there is room and ends where there is none is written in part, and the
                # loop driver (6.18) takes that for success. No request is longer than a block: then it is all or none.
                queue = Path("/sys/block") / Path(device).name / "queue"
                (queue / "max_sectors_kb").write_text(str(BLOCK >> 10), encoding="ascii")
                return device, fd
    raise OSError(errno.EBUSY, "no loop device is free")


def extents(fd: int) -> list[tuple[int, int, int]]:
    """(logical, physical, length) of each stretch of a file, in bytes."""
    count = 512
    request = bytearray(struct.pack("=QQIIII", 0, (1 << 64) - 1, 1, 0, count, 0) + bytes(56 * count))
    fcntl.ioctl(fd, FS_IOC_FIEMAP, request)
    (mapped,) = struct.unpack_from("=I", request, 20)
    return [struct.unpack_from("=QQQ", request, 32 + 56 * number) for number in range(mapped)]


def allocate(fd: int, offset: int, length: int) -> None:
    """posix_fallocate; half of it, and half again, where there is not so much."""
    while length >= BLOCK:
        try:
            os.posix_fallocate(fd, offset, length)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            length //= 2
        else:
            offset += length


def punch(fd: int, offset: int, length: int) -> None:
    """Give the blocks back: where they were there is a hole."""
    if libc.fallocate64(fd, PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "a hole cannot be punched")


def add_seals(fd: int, seals: int) -> None:
    """From now on a file in memory refuses that."""
    fcntl.fcntl(fd, F_ADD_SEALS, seals)


def copy(source: int, target: int, length: int) -> None:
    """The bytes of one file into another."""
    for offset in range(0, length, 1 << 20):
        os.pwrite(target, os.pread(source, min(1 << 20, length - offset), offset), offset)


def thaw(path: Path) -> None:
    """Of a file system that was frozen by a process that is gone."""
    with closed(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        fcntl.ioctl(fd, FITHAW, 0)
