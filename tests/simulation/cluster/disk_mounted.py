"""ports.Disk of one life on a simulated disk: descriptors, latencies, and Crashed once the life is over.

Descriptors are numbers of this life, no real ones. Which changes survive is decided in disk.py.
"""

from __future__ import annotations

import errno
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.ports import WriteGroup
from tests.simulation.cluster.disk_native import ffi, lib

if TYPE_CHECKING:
    from tests.simulation.cluster.disk import SimDisk

SD_CRASHED: Final = int(lib.SD_CRASHED)
NEVER_FULL_BYTES: Final = 2**40
FIRST_DESCRIPTOR: Final = 1000


class Crashed(BaseException):
    """The machine's life is over: nothing that its code does has an effect."""


@dataclass
class DiskFaults:
    """How long operations take, in simulated seconds; ranges are (low, high). May change at any time."""

    sync_s: tuple[float, float] = (0.0, 0.0)
    write_s: tuple[float, float] = (0.0, 0.0)
    read_s: tuple[float, float] = (0.0, 0.0)
    slow: float = 0.0  # share of the syncs that take up to slow_s longer
    slow_s: float = 0.0


class File:
    """An inode: `raw` is C's."""

    __slots__ = ("raw",)

    def __init__(self, machine: Any) -> None:
        self.raw: Any = lib.sd_file_new(machine)

    def free(self) -> None:
        lib.sd_file_free(self.raw)
        self.raw = ffi.NULL


class MountedDisk:
    """Implements ports.Disk. Made by SimDisk.mount."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._faults = disk.faults
        self._machine = disk.machine
        self._open: dict[int, File] = {}
        self._locks: dict[int, File] = {}
        self._next = FIRST_DESCRIPTOR
        self.is_over = False

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        self._alive()
        file = self._disk.file_at(path, create=create, exclusive=exclusive)
        self._next += 1
        self._open[self._next] = file
        return self._next

    def close(self, fd: int) -> None:
        self._alive()
        file = self._open.pop(fd, None)
        if file is None:
            raise os_error(errno.EBADF, str(fd))
        self._locks.pop(fd, None)
        lib.sd_file_close(file.raw)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self._faults.read_s[1]:
            self._wait(self._faults.read_s)
        return os.pread(self._raw(fd).fd, size, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if self._faults.write_s[1]:
            self._wait(self._faults.write_s)
        raw = self._raw(fd)
        if type(data) is bytes:
            done: int = lib.sd_write(raw, data, len(data), offset)
        else:
            # Released at once: a traceback that kept it would let CPython's collector clear the view under it.
            with ffi.from_buffer(data) as pointer:
                done = lib.sd_write(raw, pointer, len(pointer), offset)
        if done < 0:
            self._fail(done, "write")
        return done

    def write_group(self, fd: int, group: WriteGroup) -> None:
        group.write_in_steps(self, fd)

    def ftruncate(self, fd: int, size: int) -> None:
        if self._faults.write_s[1]:
            self._wait(self._faults.write_s)
        code: int = lib.sd_truncate(self._raw(fd), size)
        if code:
            self._fail(code, "truncate")

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        self._wait_for_sync()
        code: int = lib.sd_sync(self._raw(fd))
        if code:
            self._fail(code, "fsync")

    def fsync_dir(self, path: str) -> None:
        self._wait_for_sync()
        self._alive()
        self._disk.sync_folder(path)

    def size(self, fd: int) -> int:
        return int(self._raw(fd).size)

    def rename(self, old: str, new: str) -> None:
        self._alive()
        last = self._disk.step()
        replaced = os.path.getsize(new) if os.path.exists(new) and old != new else 0
        self._disk.names.rename(old, new)
        self._machine.used_bytes -= replaced
        if last:
            self._disk.crash()

    def unlink(self, path: str) -> None:
        self._alive()
        self._disk.unlink(path)

    def listdir(self, path: str) -> list[str]:
        self._alive()
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        """With its parents; an existing folder is no error. Each folder made is an operation."""
        self._alive()
        if os.path.isdir(path):
            return
        self.mkdir(os.path.dirname(path))
        last = self._disk.step()
        self._disk.names.mkdir(path)
        if last:
            self._disk.crash()

    def rmdir(self, path: str) -> None:
        """Not of ports.Disk: for code that calls os.rmdir."""
        self._alive()
        last = self._disk.step()
        self._disk.names.rmdir(path)
        if last:
            self._disk.crash()

    def exists(self, path: str) -> bool:
        self._alive()
        return os.path.exists(path)

    def free_bytes(self, path: str) -> int:
        self._alive()
        os.stat(path)
        if self._machine.is_full:
            return 0
        capacity = int(self._machine.capacity_bytes)
        return NEVER_FULL_BYTES if capacity < 0 else max(0, capacity - int(self._machine.used_bytes))

    def lock(self, fd: int) -> bool:
        """As flock: one holder per file, gone with its descriptor or its life."""
        self._raw(fd)
        file = self._open[fd]
        if any(held is file and other != fd for other, held in self._locks.items()):
            return False
        self._locks[fd] = file
        return True

    @property
    def open_count(self) -> int:
        """Descriptors that are open."""
        return len(self._open)

    def release(self) -> None:
        """Of a dead life: close everything."""
        for file in self._open.values():
            lib.sd_file_close(file.raw)
        self._open.clear()
        self._locks.clear()

    def _alive(self) -> None:
        if self.is_over:
            raise Crashed

    def _raw(self, fd: int) -> Any:
        if self.is_over:
            raise Crashed
        try:
            return self._open[fd].raw
        except KeyError:
            raise os_error(errno.EBADF, str(fd)) from None

    def _fail(self, code: int, what: str) -> None:
        if code == SD_CRASHED:
            raise Crashed
        raise os_error(-code, what)

    def _wait(self, bounds: tuple[float, float]) -> None:
        self._disk.sleep(between(self._disk.rng, bounds))

    def _wait_for_sync(self) -> None:
        faults = self._faults
        if self.is_over or not (faults.sync_s[1] or faults.slow):
            return
        rng = self._disk.rng
        seconds = between(rng, faults.sync_s)
        if faults.slow and rng.random() < faults.slow:
            seconds += rng.random() * faults.slow_s
        if seconds:
            self._disk.sleep(seconds)


def between(rng: random.Random, bounds: tuple[float, float]) -> float:
    """A random number of a range."""
    low, high = bounds
    return low + (high - low) * rng.random()


def os_error(number: int, what: str) -> OSError:
    """The OSError of its class for a number."""
    return OSError(number, os.strerror(number), what)
