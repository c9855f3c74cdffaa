"""Protocols for what the outside world gives: clock, randomness, disk. Fakes in tests implement these."""

from __future__ import annotations

import errno
import os
import time
from typing import Final, Protocol


class Clock(Protocol):
    def monotonic_ms(self) -> float: ...
    def wall_us(self) -> int: ...


# A lease must not outlive the time that this machine slept; where the clock for that is missing, see read-levels.md.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    def monotonic_ms(self) -> float:
        return time.clock_gettime(_CLOCK) * 1000.0

    def wall_us(self) -> int:
        return time.time_ns() // 1000


class WriteGroup(Protocol):
    """What the journal writes and syncs at once (raft/journal/group.py)."""

    def write(self, fd: int) -> None:
        """Write it to a descriptor of the operating system, whole, then fdatasync."""

    def write_in_steps(self, disk: Disk, fd: int) -> None:
        """Do the same with `disk.pwrite` and `disk.fdatasync`."""


class Disk(Protocol):
    """The system calls that durability hangs on. Paths are absolute str; all raise OSError."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, size: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int: ...
    def write_group(self, fd: int, group: WriteGroup) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def fsync(self, fd: int) -> None: ...
    def fsync_dir(self, path: str) -> None: ...
    def ftruncate(self, fd: int, size: int) -> None: ...
    def size(self, fd: int) -> int: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def listdir(self, path: str) -> list[str]: ...
    def mkdir(self, path: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def free_bytes(self, path: str) -> int: ...
    def lock(self, fd: int) -> bool: ...


def disk_error(number: int) -> OSError:
    """The OSError of its class for an errno."""
    return OSError(number, os.strerror(number))


class SystemDisk:
    """The real disk."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        return os.open(path, flags, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def write_group(self, fd: int, group: WriteGroup) -> None:
        """Write and fdatasync in one call. A subclass that changes `pwrite` or `fdatasync` changes this too."""
        group.write(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def lock(self, fd: int) -> bool:
        """Take an exclusive lock for the life of `fd`; False when another process holds it."""
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class ReadOnlyDisk(SystemDisk):
    """Looks and changes nothing: files are opened for reading only, every changing call raises OSError (EROFS)."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        if create or exclusive:
            raise disk_error(errno.EROFS)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        raise disk_error(errno.EROFS)

    def write_group(self, fd: int, group: WriteGroup) -> None:
        raise disk_error(errno.EROFS)

    def ftruncate(self, fd: int, size: int) -> None:
        raise disk_error(errno.EROFS)

    def rename(self, old: str, new: str) -> None:
        raise disk_error(errno.EROFS)

    def unlink(self, path: str) -> None:
        raise disk_error(errno.EROFS)

    def mkdir(self, path: str) -> None:
        raise disk_error(errno.EROFS)
