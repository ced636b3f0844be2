"""Small real disks, to be filled, frozen and broken: ext4 on a loop device, with faults of the kernel itself.

    small_disk    an ext4 of some megabytes. `fill` and `fill_inodes` leave no room; `freeze` makes every write wait
    thin_disk     the same, on a pool that has less room than the disk says: `exhaust` is a full pool
    mortal_disk   the same; `stop_writing` makes the device refuse every write, `lose_the_end` makes the region in
                  which all files lie unreadable and unwritable while the rest of the disk continues

What happens then, as measured (Linux 6.18; test_real_disks.py holds it):

| fault | write | fsync | afterwards | reads | free space shown |
| --- | --- | --- | --- | --- | --- |
| small_disk.fill | ENOSPC | – | heals when there is room | well | none |
| small_disk.fill_inodes | well; ENOSPC for a new name | well | heals | well | a lot, and no inodes |
| thin_disk.exhaust | **well** | ENOSPC, *well* the second time: the data is gone | heals | what is lost | **a lot** |
| mortal_disk.stop_writing | well, later EROFS | EIO, later EROFS | read-only until remounted | well | a lot |
| mortal_disk.lose_the_end | well | EIO, *well* the second time | the file system lives on | EIO | a lot |

The devices are files in memory. Everything is given back at the end of a `with`, also while processes hang on a disk
(the mount is then taken out of the tree, and goes with the last of them); what a killed run left is cleared by
the next one. Only root may mount: `why_not` says why there is no disk to be had.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

from tests.crash.devices import (
    BLOCK,
    F_SEAL_GROW,
    F_SEAL_WRITE,
    FIFREEZE,
    FITHAW,
    SIZE_BYTES,
    add_seals,
    allocate,
    attach,
    closed,
    copy,
    extents,
    libc,
    make_ext4,
    memory,
    path_of,
    punch,
    settle,
    thaw,
)

PREFIX = "keepstep-disk-"


class Disk:
    """A mounted disk. `root` is its top directory, `backing` the file in which its blocks are."""

    def __init__(self, root: Path, backing: int, options: str) -> None:
        self.root = root
        self.backing = backing
        self._options = options
        self._frozen = False

    # -- room -------------------------------------------------------------------------------------------------------

    @property
    def filler(self) -> Path:
        """The file that takes all room."""
        return self.root / "filler"

    def fill(self) -> None:
        """Leave no block. Whatever a running program writes meanwhile makes it fail too, sooner or later."""
        fd = os.open(self.filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                allocate(fd, os.fstat(fd).st_size, os.statvfs(self.root).f_bfree * os.statvfs(self.root).f_frsize)
            for size in (1 << 16, BLOCK, 1):
                with contextlib.suppress(OSError):
                    while os.write(fd, b"\0" * size) == size:
                        pass
            with contextlib.suppress(OSError):  # blocks that were promised only: now they are had, or known to lack
                os.fsync(fd)
        finally:
            os.close(fd)

    def fill_inodes(self) -> None:
        """Leave no inode, and much room."""
        many = self.root / "many"
        many.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            for number in range(1 << 20):
                (many / str(number)).touch()

    def free(self) -> None:
        """Give everything back that `fill` and `fill_inodes` took."""
        self.filler.unlink(missing_ok=True)
        shutil.rmtree(self.root / "many", ignore_errors=True)

    def df(self) -> str:
        """The room that is left, for the message of a test that failed."""
        found = os.statvfs(self.root)
        return (
            f"{self.root}: {found.f_bfree * found.f_frsize >> 10} of {found.f_blocks * found.f_frsize >> 10} KiB free, "
            f"{found.f_ffree} of {found.f_files} inodes free"
        )

    # -- standstill -------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Every write waits, uninterruptibly, until `thaw`: a disk that hangs."""
        self._ioctl(FIFREEZE)
        self._frozen = True

    def thaw(self) -> None:
        """Let them continue."""
        if self._frozen:
            self._ioctl(FITHAW)
            self._frozen = False

    def _ioctl(self, request: int) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, request, 0)
        finally:
            os.close(fd)

    # -- in and out of the tree -------------------------------------------------------------------------------------

    def mount(self) -> None:
        """Attach and mount. The loop device goes by itself when it is unmounted."""
        device, fd = attach(self.backing)
        try:
            subprocess.run(
                ["mount", "-t", "ext4", "-o", self._options, device, self.root], check=True, capture_output=True
            )
        finally:
            os.close(fd)

    def unmount(self, *, patience_s: float = 5.0) -> None:
        """Unmount. Raises OSError if something still uses the disk."""
        deadline = time.monotonic() + patience_s
        while libc.umount2(os.fsencode(self.root), 0) != 0:
            number = ctypes.get_errno()
            if number != errno.EBUSY or time.monotonic() > deadline:
                raise OSError(number, os.strerror(number), str(self.root))
            time.sleep(0.05)

    def drop_caches(self) -> None:
        """Forget what was read and is on disk: the next read asks the device."""
        for path in self.root.rglob("*"):
            if path.is_file():
                with contextlib.suppress(OSError), path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def check(self) -> None:
        """fsck, as after any crash: the journal is replayed. Unmounted only."""
        with path_of(self.backing) as (path, fds):
            done = subprocess.run(
                ["fsck.ext4", "-f", "-y", path], pass_fds=fds, capture_output=True, text=True, check=False
            )
        assert done.returncode in (0, 1), f"fsck: {done.stdout}{done.stderr}"


class ThinDisk(Disk):
    """On a pool with too little room. What makes the file system itself is there; what files need is not."""

    def __init__(self, root: Path, backing: int, options: str, pool: Path) -> None:
        super().__init__(root, backing, options)
        self._pool = pool

    def exhaust(self) -> None:
        """Leave no room in the pool."""
        with contextlib.suppress(OSError), (self._pool / "filler").open("wb", buffering=0) as file:
            while file.write(b"f" * BLOCK) == BLOCK:
                pass

    def extend(self) -> None:
        """Make room in the pool."""
        (self._pool / "filler").unlink(missing_ok=True)


class MortalDisk(Disk):
    """One that can break, and be brought to another device then."""

    def __init__(self, root: Path, backing: int, options: str, end_at: int) -> None:
        super().__init__(root, backing, options)
        self._end_at = end_at
        self._lost = b""

    def stop_writing(self) -> None:
        """From now on, the device refuses every write."""
        add_seals(self.backing, F_SEAL_WRITE)

    def become_read_only(self) -> None:
        """From now on, the file system refuses every change: what it does when it could not write its own journal."""
        self.stop_writing()
        for number in range(100):
            try:
                (self.root / f"last-{number}").touch()
                os.sync()
            except OSError as error:
                if error.errno == errno.EROFS:
                    return
                raise
        raise AssertionError("the file system does not notice that its device is dead")

    def lose_the_end(self) -> None:
        """From now on, the blocks in which files lie can be neither read nor written; what is cached is still seen."""
        self.freeze()  # nothing may be synced between the copy and the loss
        try:
            self._lost = os.pread(self.backing, SIZE_BYTES - self._end_at, self._end_at)
            add_seals(self.backing, F_SEAL_GROW)
            os.ftruncate(self.backing, self._end_at)
        finally:
            self.thaw()

    def lose_file(self, path: Path) -> None:
        """From now on, this file cannot be read; everything else can. Its bytes are moved to the disk's end first."""
        self._end_at = self._move_to_the_end(path)
        self.lose_the_end()
        self.drop_caches()

    def replace_device(self) -> None:
        """What ddrescue does: every byte that was ever written, onto a new device; then fsck and mount."""
        self.unmount()
        healthy = memory(SIZE_BYTES)
        copy(self.backing, healthy, min(SIZE_BYTES, os.fstat(self.backing).st_size))
        if self._lost:
            os.pwrite(healthy, self._lost, self._end_at)
            self._lost = b""
        os.dup2(healthy, self.backing, inheritable=False)
        os.close(healthy)
        self.check()
        self.mount()

    def _move_to_the_end(self, path: Path) -> int:
        """Where `path` lies afterwards, in bytes from the beginning of the device: after every other file."""
        data = path.read_bytes()
        os.sync()  # what is still to be given its place has it before
        need = -(-len(data) // BLOCK) * BLOCK
        self.fill()
        with self.filler.open("r+b") as file:
            logical, physical, length = max(extents(file.fileno()), key=lambda extent: extent[1])
            hole = 4 * need + (2 << 20)  # the file system keeps some blocks free, and puts data there first
            assert length >= hole, f"the last stretch of the disk has {length} bytes, not {hole}"
            punch(file.fileno(), logical + length - hole, hole)
        os.sync()
        places: list[Path] = []
        start = -1
        while start < physical + length - hole:
            place = path.with_name(f".{path.name}.{len(places)}")
            places.append(place)
            with place.open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
                start = min(extent[1] for extent in extents(file.fileno()))
        places.pop().rename(path)
        for place in places:
            place.unlink()
        self.fill()
        self._keep_filled(lambda physical: physical >= start, ".end")
        return start

    def _keep_filled(self, where: Callable[[int], bool], name: str) -> None:
        """Give back what the filler took, but for the places that are to stay occupied."""
        with self.filler.open("r+b") as file:
            for logical, physical, length in extents(file.fileno()):
                for offset in range(0, length, BLOCK):
                    if not where(physical + offset):
                        punch(file.fileno(), logical + offset, BLOCK)
        self.filler.rename(self.root / name)
        os.sync()


# -- making them ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(*, inodes: int = 0) -> Iterator[Disk]:
    """A healthy disk; with `inodes`, so many and no more."""
    clear_stale()
    with _directory() as root, closed(memory(SIZE_BYTES)) as backing:
        make_ext4(backing, inodes=inodes)
        with _mounted(Disk(root, backing, "noatime")) as disk:
            yield disk


@contextlib.contextmanager
def thin_disk(*, pool_bytes: int = 20 << 20) -> Iterator[ThinDisk]:
    """A disk of SIZE_BYTES on a pool of `pool_bytes`."""
    clear_stale()
    with _directory() as pool, _directory() as root:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pool_bytes}", "tmpfs", pool], check=True)
        try:
            with closed(os.open(pool / "image", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)) as backing:
                os.ftruncate(backing, SIZE_BYTES)
                make_ext4(backing)
                settle(backing, pool / "image")
                with _mounted(ThinDisk(root, backing, "noatime", pool)) as disk:
                    try:
                        yield disk
                    finally:
                        disk.extend()  # so that what is still to be written can be
        finally:
            libc.umount2(os.fsencode(pool), 2)  # MNT_DETACH


@contextlib.contextmanager
def mortal_disk() -> Iterator[MortalDisk]:
    """A disk whose files all lie in the last three quarters of it, and whose own tables lie before."""
    clear_stale()
    with _directory() as root, closed(memory(SIZE_BYTES)) as backing:
        make_ext4(backing)
        end_at = SIZE_BYTES // 4
        with _mounted(MortalDisk(root, backing, "noatime", end_at)) as disk:
            disk.fill()
            disk._keep_filled(lambda physical: physical < end_at, ".low")
            yield disk


def clear_stale() -> None:
    """Take away what runs that were killed left mounted."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        path = Path(line.split()[1].encode().decode("unicode_escape"))
        found = re.fullmatch(rf"{PREFIX}(\d+)-.*", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(OSError):
                thaw(path)
            libc.umount2(os.fsencode(path), 2)
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        found = re.fullmatch(rf"{PREFIX}(\d+)-.*", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(OSError):
                path.rmdir()


@cache
def why_not() -> str:
    """Why no disk can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "only root may mount a loop device"
    for tool in ("mkfs.ext4", "fsck.ext4", "dumpe2fs", "mount"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    try:
        with small_disk() as disk:
            (disk.root / "probe").write_bytes(b"probe")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"a loop device cannot be mounted here: {error} {said.decode(errors='replace')}".strip()
    return ""


D = TypeVar("D", bound=Disk)


@contextlib.contextmanager
def _mounted(disk: D) -> Iterator[D]:
    disk.mount()
    try:
        yield disk
    finally:
        with contextlib.suppress(OSError):
            disk.thaw()
        try:
            disk.unmount()
        except OSError:  # somebody hangs on it: out of the tree, and gone with the last of them
            libc.umount2(os.fsencode(disk.root), 2)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()  # never more than that: were it still mounted, a recursive removal would go through
