"""A snapshot being received: DIR/incoming/<id>/, its files, and how much of them is durable.

Files arrive in order, each from its beginning, and are called 0.db, 1.db, ... until they are proved to be
what the manifest says. PROGRESS (sealed) holds [id, sealed manifest, [[bytes, crc32c], ...], file, offset]:
everything before that position is durable, so a restarted receiver continues there if its source still
offers the same id. Nothing here is part of the node's state: any doubt is settled by starting over.

Blocking file work, called by node.snapshot_fetch on worker threads, one call at a time enforced by a lock
(a cancelled caller's last write may still be under way when `suspend` comes).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from dqlite_py.errors import CorruptState, Error, MalformedMessage, SnapshotDamaged
from dqlite_py.limits import SNAPSHOT_CHUNK_BYTES, SNAPSHOT_FLUSH_BYTES, SNAPSHOT_SYNC_BYTES
from dqlite_py.logs import event
from dqlite_py.nativelib import crc32c
from dqlite_py.node.snapshot_wire import ChunkRequest, Offer, begin_reply_from_wire
from dqlite_py.ports import Disk
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.pin import read_applied_index
from dqlite_py.storage.sealedfile import read_sealed, remove_folder, seal, unseal, write_all, write_temporary
from dqlite_py.storage.state_files import database_file
from dqlite_py.storage.state_folder import PROGRESS_NAME

PROGRESS_MAGIC: Final = b"dqlpyPRG"
PROGRESS_VERSION: Final = 1
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_log = logging.getLogger(__name__)


class IncomingSnapshot:
    """One partial snapshot. Make it with `begin`."""

    def __init__(self, disk: Disk, folder: str, offer: Offer) -> None:
        self._disk = disk
        self._folder = folder
        self._offer = offer
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._file = 0
        self._offset = 0
        self._unsynced_bytes = 0
        self._unrecorded_bytes = 0

    @classmethod
    def begin(cls, disk: Disk, incoming_path: str, offer: Offer) -> IncomingSnapshot:
        """Continue the partial snapshot of exactly this offer, or start over; others are removed."""
        disk.mkdir(incoming_path)
        disk.fsync_dir(os.path.dirname(incoming_path))
        for name in disk.listdir(incoming_path):
            if name != offer.id.hex():
                remove_folder(disk, os.path.join(incoming_path, name))
        self = cls(disk, os.path.join(incoming_path, offer.id.hex()), offer)
        if not self._resume():
            if disk.exists(self._folder):
                remove_folder(disk, self._folder)
            disk.mkdir(self._folder)
            self._record()
            disk.fsync_dir(incoming_path)
        return self

    @property
    def offer(self) -> Offer:
        return self._offer

    @property
    def done_bytes(self) -> int:
        return sum(file.size_bytes for file in self._offer.files[: self._file]) + self._offset

    def missing(self) -> Iterator[ChunkRequest]:
        """The chunks still to be asked for, in the order in which `append` needs them."""
        start = self._offset
        for number in range(self._file, len(self._offer.files)):
            size_bytes = self._offer.files[number].size_bytes
            for offset in range(start, size_bytes, SNAPSHOT_CHUNK_BYTES):
                size = min(SNAPSHOT_CHUNK_BYTES, size_bytes - offset)
                yield ChunkRequest(self._offer.id, number, offset, size)
            start = 0

    def append(self, data: bytes) -> None:
        """Write the next chunk; make what is there durable now and then, and note it less often."""
        with self._lock:
            if self._fd is None:
                self._fd = self._disk.open(self._path(self._file), create=True)
            write_all(self._disk, self._fd, data, self._offset)
            self._offset += len(data)
            self._unsynced_bytes += len(data)
            self._unrecorded_bytes += len(data)
            if self._offset >= self._offer.files[self._file].size_bytes:
                self._sync()
                self._close()
                self._file, self._offset = self._file + 1, 0
                self._record()
            elif self._unrecorded_bytes >= SNAPSHOT_SYNC_BYTES:
                self._sync()
                self._record()
            elif self._unsynced_bytes >= SNAPSHOT_FLUSH_BYTES:
                self._sync()

    def suspend(self) -> None:
        """Keep what is there for a later `begin`. Failing to is no error: less is resumed then."""
        with self._lock:
            try:
                if self._fd is not None:
                    self._sync()
                    self._record()
            except OSError as error:
                event(
                    _log,
                    logging.WARNING,
                    "a partial snapshot will resume earlier",
                    folder=self._folder,
                    reason=error,
                )
            finally:
                self._close()

    def discard(self) -> None:
        """Remove it."""
        with self._lock:
            self._close()
            if self._disk.exists(self._folder):
                remove_folder(self._disk, self._folder)

    def verify(self, advanced: Callable[[int], None]) -> None:
        """Prove every file and its content to be what was offered; raises SnapshotDamaged."""
        with self._lock:
            for number in range(len(self._offer.files)):
                try:
                    self._verify(number, advanced)
                except CorruptState as error:
                    raise self._damaged(number, "a readable database", error.message) from error

    def move_to(self, generation_path: str) -> None:
        """Put the verified files where `StateFolder.activate` wants them."""
        with self._lock:
            for number, database in enumerate(self._offer.manifest.databases):
                target = os.path.join(generation_path, database_file(database.name))
                self._disk.rename(self._path(number), target)
            self._disk.fsync_dir(generation_path)
            remove_folder(self._disk, self._folder)

    # -- position

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number}.db")

    def _sync(self) -> None:
        assert self._fd is not None
        self._disk.fdatasync(self._fd)
        self._unsynced_bytes = 0

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)

    def _record(self) -> None:
        """Write PROGRESS. The data before the position is durable BEFORE this."""
        body = [*_identity(self._offer), self._file, self._offset]
        path = os.path.join(self._folder, PROGRESS_NAME)
        temporary = write_temporary(self._disk, path, seal(PROGRESS_MAGIC, PROGRESS_VERSION, body))
        self._disk.fsync_dir(self._folder)
        self._disk.rename(temporary, path)
        self._unrecorded_bytes = 0

    def _resume(self) -> bool:
        """Take the recorded position if it belongs to this offer and the files bear it out."""
        record = _read_progress(self._disk, self._folder)
        if record is None or record[0] != self._offer:
            return False
        _, number, offset = record
        sizes = [file.size_bytes for file in self._offer.files]
        if number > len(sizes) or (offset > 0 and (number == len(sizes) or offset >= sizes[number])):
            return False
        for position, size in [*enumerate(sizes[:number]), (number, offset)]:
            path = self._path(position)
            if size == 0:
                continue
            if not self._disk.exists(path):
                return False
            fd = self._disk.open(path)
            try:
                if self._disk.size(fd) < size:
                    return False
            finally:
                self._disk.close(fd)
        self._file, self._offset = number, offset
        return True

    # -- proof

    def _verify(self, number: int, advanced: Callable[[int], None]) -> None:
        path = self._path(number)
        file, database = self._offer.files[number], self._offer.manifest.databases[number]
        fd = self._disk.open(path)
        try:
            size = self._disk.size(fd)
            if size != file.size_bytes:
                raise self._damaged(number, f"{file.size_bytes} bytes", f"{size} bytes")
            checksum, offset = 0, 0
            while offset < size:
                part = self._disk.pread(fd, SNAPSHOT_CHUNK_BYTES, offset)
                if not part:
                    raise self._damaged(number, f"{size} bytes", f"an end at {offset}")
                if offset == 0 and not part.startswith(_SQLITE_MAGIC):
                    raise self._damaged(number, "an SQLite header", repr(part[:16]))
                checksum = crc32c(part, checksum)
                offset += len(part)
                advanced(len(part))
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)
        # The checksum BEFORE SQLite or the page hash looks at the bytes.
        if checksum != file.crc32c:
            raise self._damaged(number, f"checksum {file.crc32c:#x}", f"{checksum:#x}")
        expected = (database.state_hash, database.page_count, database.applied_index)
        found = (*scan_file(path), read_applied_index(path))
        if found != expected:
            raise self._damaged(number, f"(state hash, pages, applied index) {expected}", f"{found}")

    def _damaged(self, number: int, expected: str, found: str) -> SnapshotDamaged:
        name = self._offer.manifest.databases[number].name
        return SnapshotDamaged(
            f"the received database {name} has {found} instead of {expected}",
            file=self._path(number),
            expected=expected,
            found=found,
        )


def resumable_id(disk: Disk, incoming_path: str) -> bytes | None:
    """The id of the newest partial snapshot that could be continued."""
    if not disk.exists(incoming_path):
        return None
    records = [
        _read_progress(disk, os.path.join(incoming_path, name)) for name in disk.listdir(incoming_path)
    ]
    offers = [record[0] for record in records if record is not None]
    newest = max(offers, key=lambda offer: offer.manifest.index, default=None)
    return None if newest is None else newest.id


def _identity(offer: Offer) -> list[object]:
    return [offer.id, offer.manifest.to_bytes(), [[file.size_bytes, file.crc32c] for file in offer.files]]


def _read_progress(disk: Disk, folder: str) -> tuple[Offer, int, int] | None:
    """The offer and the durable position, or None when there is no sound record."""
    path = os.path.join(folder, PROGRESS_NAME)
    if not disk.exists(path):
        return None
    try:
        body = unseal(PROGRESS_MAGIC, PROGRESS_VERSION, read_sealed(disk, path), path)
        if not (isinstance(body, list) and len(body) == 5):
            raise MalformedMessage(f"{path} has the wrong fields", what=path)
        identifier, manifest, files, number, offset = body
        offer = begin_reply_from_wire(
            {"state": "ready", "id": identifier, "manifest": manifest, "files": files}
        )
        if type(number) is not int or type(offset) is not int or min(number, offset) < 0:
            raise MalformedMessage(f"{path} has no position", what=path)
    except Error as error:
        event(_log, logging.WARNING, "a partial snapshot is started over", folder=folder, reason=error)
        return None
    assert not isinstance(offer, Error)
    return (offer, number, offset) if isinstance(offer, Offer) else None
