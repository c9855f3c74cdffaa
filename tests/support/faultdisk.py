"""A disk in memory that lies on schedule: it keeps unsynced writes apart and loses, keeps or tears them by
seed.

Implements ports.Disk. What is synced is safe for ever. Of the rest, `after_power_loss` decides per write and
per 512-byte sector, and per directory operation, so that writes may also reach the disk out of order; a
failed sync loses its writes for good although reads go on showing them, as Linux does. `after_kill` keeps the
page cache. Directory entries need fsync_dir; fsync of a file does not make its name durable. A rename into another
folder comes to pass in both or in neither, as in file systems with a journal. Thread-safe;
nothing sleeps unless `before_sync` does.
"""

from __future__ import annotations

import enum
import errno
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dqlite_py.ports import WriteGroup

SECTOR_BYTES = 512


class PowerLoss(Exception):
    """The power is gone: this and every later call fails. Not an OSError: nothing can handle it."""


class Loss(enum.Enum):
    """What a power loss does to the unsynced writes and names."""

    DROP = "drop everything unsynced"
    KEEP = "keep everything unsynced"
    NAMES_ONLY = "keep names, drop contents"
    CONTENTS_ONLY = "keep contents, drop names"
    TEAR = "decide by seed, per sector and per name"


@dataclass(eq=False)
class _File:
    data: bytearray = field(default_factory=bytearray)  # what reads show
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data) or (size, None)


@dataclass(eq=False)
class _Change:
    """Of names in one folder. `other`: the change of another folder that comes to pass together with it."""

    remove: str
    add: str
    what: _File | _Names | None
    other: tuple[_Names, _Change] | None = None


@dataclass(eq=False)
class _Names:
    """A folder."""

    now: dict[str, _File | _Names] = field(default_factory=dict)
    durable: dict[str, _File | _Names] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)


def _apply(data: bytearray, offset: int, piece: bytes | None) -> None:
    if piece is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
        return
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


class FaultDisk:
    """One machine's disk. Faults are armed through the public attributes; calls are numbered from 1."""

    def __init__(self, *folders: str) -> None:
        self._lock = threading.RLock()
        self._folders: dict[str, _Names] = {"/": _Names()}
        self._open: dict[int, _File] = {}
        self._locks: dict[int, _File] = {}
        self._next_fd = 1000
        self.call_count = 0
        self.change_count = 0  # calls that write, sync or change names
        self.sync_count = 0
        self.power_fails_at: int | None = None  # number of the change during which the power goes
        self.fails_at: int | None = None  # number of the call that fails
        self.fails_with = errno.EIO
        self.fails_on_sync = False
        self.short_writes: random.Random | None = None
        self.capacity_bytes: int | None = None
        self.before_sync: Callable[[], None] | None = None
        self.is_off = False
        for folder in folders:
            self.mkdir(folder)
            parent, name = os.path.split(folder)
            self._folders[parent].durable[name] = self._folders[parent].now[name]
            self._folders[parent].pending.clear()
        self.call_count = self.change_count = 0

    # -- what happens to the machine

    def after_power_loss(self, loss: Loss, seed: int = 0) -> FaultDisk:
        """Return the disk as the next start of the machine would find it; this one does not change."""
        rng = random.Random(seed)
        files: dict[_File, _File] = {}
        found = FaultDisk()
        self._survive("/", self._folders["/"], found, files, loss, rng, {})
        return found

    def _survive(
        self, path: str, names: _Names, found: FaultDisk, files: dict[_File, _File], loss: Loss, rng: random.Random,
        decided: dict[_Change, bool],
    ) -> None:  # fmt: skip
        kept = dict(names.durable)
        for change in names.pending:
            if change not in decided:
                decided[change] = loss in (Loss.KEEP, Loss.NAMES_ONLY) or (
                    loss is Loss.TEAR and rng.random() < 0.5
                )
                if change.other is not None:
                    decided[change.other[1]] = decided[change]
            if decided[change]:
                _rename(kept, change)
        copy = found._folders[path] = _Names()
        for name, what in kept.items():
            if isinstance(what, _Names):
                below = os.path.join(path, name)
                self._survive(below, what, found, files, loss, rng, decided)
                copy.now[name] = found._folders[below]
            else:
                copy.now[name] = files.setdefault(what, _File())
                if not files[what].data:
                    files[what].data = _surviving_bytes(what, loss, rng)
                    files[what].durable = bytearray(files[what].data)
        copy.durable = dict(copy.now)

    def after_kill(self) -> None:
        """End the process: descriptors and locks go, the page cache stays; armed faults are cleared."""
        self.is_off = False
        self._open.clear()
        self._locks.clear()
        self.power_fails_at = self.fails_at = None
        self.fails_on_sync = False

    # -- ports.Disk

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        with self._lock:
            names, name = self._parent(path)
            what = names.now.get(name)
            self._enter(changes=what is None and create)
            if what is None:
                if not create:
                    raise _error(errno.ENOENT, path)
                what = names.now[name] = _File()
                names.pending.append(_Change("", name, what))
                self._power()
            elif exclusive:
                raise _error(errno.EEXIST, path)
            if isinstance(what, _Names):
                raise _error(errno.EISDIR, path)
            self._next_fd += 1
            self._open[self._next_fd] = what
            return self._next_fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._locks.pop(fd, None)
            if self._open.pop(fd, None) is None:
                raise _error(errno.EBADF, str(fd))

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._lock:
            self._enter()
            return bytes(self._file(fd).data[offset : offset + size])

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        with self._lock:
            file = self._file(fd)
            self._enter(changes=True)
            piece = bytes(data)
            if self.short_writes is not None and len(piece) > 1:
                piece = piece[: self.short_writes.randint(1, len(piece))]
            growth = offset + len(piece) - len(file.data)
            if self.capacity_bytes is not None and growth > 0:
                room = max(0, self.capacity_bytes - self.used_bytes())
                piece = piece[: max(0, len(piece) - max(0, growth - room))]
                if not piece:
                    raise _error(errno.ENOSPC, "write")
            _apply(file.data, offset, piece)
            file.pending.append((offset, piece))
            self._power()
            return len(piece)

    def write_group(self, fd: int, group: WriteGroup) -> None:
        group.write_in_steps(self, fd)

    def ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            file = self._file(fd)
            self._enter(changes=True)
            _apply(file.data, size, None)
            file.pending.append((size, None))
            self._power()

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        if self.before_sync is not None:
            self.before_sync()
        with self._lock:
            file = self._file(fd)
            try:
                self._enter(changes=True)
                if self.fails_on_sync:
                    raise _error(errno.EIO, "fsync")
            except OSError:
                file.pending.clear()  # the kernel marks the pages clean: no later sync will write them
                raise
            self._power()
            for offset, piece in file.pending:
                _apply(file.durable, offset, piece)
            file.pending.clear()
            self.sync_count += 1

    def fsync_dir(self, path: str) -> None:
        with self._lock:
            names = self._folder(path)
            self._enter(changes=True)
            self._power()
            for change in names.pending:
                if change.other is not None:
                    others, same = change.other
                    _rename(others.durable, same)
                    others.pending.remove(same)
            names.durable = dict(names.now)
            names.pending.clear()

    def size(self, fd: int) -> int:
        with self._lock:
            self._enter()
            return len(self._file(fd).data)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            names, old_name = self._parent(old)
            others, new_name = self._parent(new)
            if old_name not in names.now:
                raise _error(errno.ENOENT, old)
            self._enter(changes=True)
            what = names.now.pop(old_name)
            others.now[new_name] = what
            if names is others:
                names.pending.append(_Change(old_name, new_name, what))
            else:
                gone, come = _Change(old_name, "", None), _Change("", new_name, what)
                gone.other, come.other = (others, come), (names, gone)
                names.pending.append(gone)
                others.pending.append(come)
            if isinstance(what, _Names):
                for path in [path for path in self._folders if f"{path}/".startswith(f"{old}/")]:
                    self._folders[new + path[len(old) :]] = self._folders.pop(path)
            self._power()

    def unlink(self, path: str) -> None:
        with self._lock:
            names, name = self._parent(path)
            if name not in names.now:
                raise _error(errno.ENOENT, path)
            self._enter(changes=True)
            del names.now[name]
            names.pending.append(_Change(name, "", None))
            self._power()

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            self._enter()
            return sorted(self._folder(path).now)

    def mkdir(self, path: str) -> None:
        with self._lock:
            if path in self._folders:
                return
            parent, name = os.path.split(path)
            if parent not in self._folders:
                self.mkdir(parent)
            self._enter(changes=True)
            folder = self._folders[path] = self._folders[parent].now[name] = _Names()
            self._folders[parent].pending.append(_Change("", name, folder))
            self._power()

    def exists(self, path: str) -> bool:
        with self._lock:
            self._enter()
            parent, name = os.path.split(path)
            return parent in self._folders and name in self._folders[parent].now

    def free_bytes(self, path: str) -> int:
        self._folder(path)
        return 2**40 if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    def lock(self, fd: int) -> bool:
        with self._lock:
            file = self._file(fd)
            if any(held is file and other != fd for other, held in self._locks.items()):
                return False
            self._locks[fd] = file
            return True

    # -- for tests

    def used_bytes(self) -> int:
        files = {
            id(what): what
            for names in self._folders.values()
            for what in names.now.values()
            if isinstance(what, _File)
        }
        return sum(len(file.data) for file in files.values())

    def contents(self, path: str) -> bytes:
        return bytes(self._named(path).data)

    def put(self, path: str, data: bytes) -> None:
        """Place a file, durably."""
        names, name = self._parent(path)
        names.now[name] = names.durable[name] = _File(bytearray(data), bytearray(data))

    def remove(self, path: str) -> None:
        """Take a file away, durably."""
        names, name = self._parent(path)
        del names.now[name]
        names.durable.pop(name, None)

    def tree(self) -> dict[str, bytes]:
        """All files and their bytes."""
        return {
            os.path.join(path, name): bytes(what.data)
            for path, names in self._folders.items()
            for name, what in names.now.items()
            if isinstance(what, _File)
        }

    @property
    def open_count(self) -> int:
        return len(self._open)

    def _enter(self, *, changes: bool = False) -> None:
        """Count a call, and let it fail before it does anything."""
        if self.is_off:
            raise PowerLoss
        self.call_count += 1
        self.change_count += changes
        if self.call_count == self.fails_at:
            raise _error(self.fails_with, "call")

    def _power(self) -> None:
        """The power goes during this change: it is unsynced, and a sync has synced nothing."""
        if self.change_count == self.power_fails_at:
            self.is_off = True
            raise PowerLoss

    def _file(self, fd: int) -> _File:
        if self.is_off:
            raise PowerLoss
        if fd not in self._open:
            raise _error(errno.EBADF, str(fd))
        return self._open[fd]

    def _named(self, path: str) -> _File:
        names, name = self._parent(path)
        what = names.now[name]
        assert isinstance(what, _File)
        return what

    def _folder(self, path: str) -> _Names:
        if path not in self._folders:
            raise _error(errno.ENOENT, path)
        return self._folders[path]

    def _parent(self, path: str) -> tuple[_Names, str]:
        parent, name = os.path.split(path)
        return self._folder(parent), name


def _rename(names: dict[str, _File | _Names], change: _Change) -> None:
    if change.remove:
        names.pop(change.remove, None)
    if change.add and change.what is not None:
        names[change.add] = change.what


def _surviving_bytes(file: _File, loss: Loss, rng: random.Random) -> bytearray:
    data = bytearray(file.durable)
    if loss in (Loss.DROP, Loss.NAMES_ONLY):
        return data
    for offset, piece in file.pending:
        if loss is not Loss.TEAR:
            _apply(data, offset, piece)
            continue
        fate = rng.randrange(3)  # dropped, kept, torn
        if fate == 1 or (fate == 2 and piece is None):
            _apply(data, offset, piece)
        elif fate == 2 and piece is not None:
            _tear(data, offset, piece, rng)
    return data


def _tear(data: bytearray, offset: int, piece: bytes, rng: random.Random) -> None:
    """Let each sector of a write reach the disk or not."""
    start = offset
    end = offset + len(piece)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if rng.random() < 0.5:
            _apply(data, start, piece[start - offset : stop - offset])
        start = stop


def _error(number: int, what: str) -> OSError:
    return OSError(number, os.strerror(number), what)
