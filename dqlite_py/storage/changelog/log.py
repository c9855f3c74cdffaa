"""The change log of one database on this node: appended by its apply thread, read by any number of subscribers.

A record is written BEFORE the entry's SQLite transaction commits and shown to subscribers AFTER it: a crash in between
leaves a record beyond the database's applied index, which is cut at the next start. A log that does not reach the
applied index (power loss, a write that failed) says nothing of what lies between: it starts anew there. Never raises
for what the disk does: a log that cannot be written is empty.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from dqlite_py.errors import Error
from dqlite_py.limits import CHANGES_KEEP_BYTES, CHANGES_SEGMENT_BYTES_MIN
from dqlite_py.logs import event
from dqlite_py.ports import Disk
from dqlite_py.storage.changelog.format import (
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Body,
    Layout,
    is_intact,
    pack_body,
    pack_header,
    pack_record,
    parse_header,
    parse_record_header,
)
from dqlite_py.storage.sealedfile import write_all

SEGMENTS_KEPT: Final = 8
_NAME: Final = re.compile(r"([0-9]{20})\.chg")
_log = logging.getLogger("dqlite_py.changes")


class Segment(NamedTuple):
    base: int
    path: str
    salt: int


class Extent(NamedTuple):
    """What may be read: `segments` from the oldest to the newest, the newest up to byte `end` and entry `index`."""

    segments: tuple[Segment, ...]
    end: int
    log_index: int
    restarts: int

    @property
    def oldest(self) -> int:
        """The smallest index that changes can be followed from."""
        return self.segments[0].base if self.segments else self.log_index


def segment_base(name: str) -> int | None:
    """What a segment's name says that its base is, None for other names."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


class ChangeLog:
    """`open`, `prepare`, `commit`, `restart` belong to one thread; the others may be called from any."""

    def __init__(self, folder: str, disk: Disk, *, keep_bytes: int = CHANGES_KEEP_BYTES) -> None:
        self.folder = folder
        self._disk = disk
        self._keep_bytes = keep_bytes
        self._segment_bytes = max(CHANGES_SEGMENT_BYTES_MIN, keep_bytes // SEGMENTS_KEPT)
        self._lock = threading.Lock()
        self._extent = Extent((), 0, 0, 0)
        self._sizes: dict[int, int] = {}  # by base, of the segments before the newest
        self._fd: int | None = None  # of the newest
        self._pending: tuple[Segment, int] | None = None  # where `commit` will move the extent to
        self._waiters: list[Callable[[], None]] = []
        self.closed: Error | None = None

    # -- apply thread -----------------------------------------------------------------------------------

    def open(self, applied: int) -> bool:
        """Take what is on disk, for a database at `applied`. True when it reaches there: nothing is missing."""
        self._close_fd()
        self._pending = None
        try:
            self._disk.mkdir(self.folder)
            segments = self._find_segments()
            while segments and segments[-1].base > applied:
                self._unlink(segments.pop())
            if segments:
                end, index = self._scan(segments[-1], applied)
                if index == applied:
                    self._fd = self._disk.open(segments[-1].path)
                    self._disk.ftruncate(self._fd, end)
                    self._sizes = {s.base: self._size_of(s) for s in segments[:-1]}
                    self._show(Extent(tuple(segments), end, applied, self._extent.restarts))
                    return True
        except OSError as error:
            event(_log, logging.WARNING, "changes cannot be read", folder=self.folder, reason=error)
        self.restart(applied)
        return False

    def restart(self, base: int) -> None:
        """Forget everything; the log tells of entries above `base`."""
        self._close_fd()
        try:
            for segment in self._find_segments():
                self._unlink(segment)
        except OSError as error:
            event(_log, logging.WARNING, "old changes cannot be removed", folder=self.folder, reason=error)
        self._sizes = {}
        self._pending = None
        self._show(Extent((), 0, base, self._extent.restarts + 1))

    def prepare(self, index: int, body: Body, layout: Layout) -> None:
        """Write what entry `index` changed; `commit` shows it. Again for the same place replaces it. Raises OSError.

        `layout` is put into a record that begins a segment.
        """
        extent = self._extent
        segment, end = (extent.segments[-1] if extent.segments else None), extent.end
        if segment is None or end >= self._segment_bytes or self._fd is None:
            segment, end = self._new_segment(extent.log_index), HEADER_BYTES
        if end == HEADER_BYTES and body.layout is None:
            body = body._replace(layout=layout)
        record = pack_record(extent.log_index, index, pack_body(body), segment.salt)
        assert self._fd is not None
        write_all(self._disk, self._fd, record, end)
        self._pending = (segment, end + len(record))

    def commit(self, index: int) -> None:
        """The entry that was prepared is committed: subscribers may see it."""
        assert self._pending is not None
        segment, end = self._pending
        self._pending = None
        extent = self._extent
        segments = extent.segments
        if not segments or segments[-1].base != segment.base:
            if segments:
                self._sizes[segments[-1].base] = extent.end
            segments = self._without_oldest((*segments, segment), end)
        self._show(Extent(segments, end, index, extent.restarts))

    def close(self, reason: Error) -> None:
        """Nothing more comes; subscribers hear `reason` when they have read what is there."""
        self._close_fd()
        with self._lock:
            self.closed = reason
        self._wake()

    # -- subscribers ------------------------------------------------------------------------------------

    @property
    def extent(self) -> Extent:
        return self._extent

    @property
    def disk(self) -> Disk:
        return self._disk

    def call_when_changed(self, known: Extent, callback: Callable[[], None]) -> bool:
        """Have `callback` called once when the extent is another than `known`, or closed; False: it is already."""
        with self._lock:
            if self._extent is not known or self.closed is not None:
                return False
            self._waiters.append(callback)
            return True

    def forget(self, callback: Callable[[], None]) -> None:
        """It need not be called any more."""
        with self._lock:
            if callback in self._waiters:
                self._waiters.remove(callback)

    # -- inside -----------------------------------------------------------------------------------------

    def _show(self, extent: Extent) -> None:
        with self._lock:
            self._extent = extent
            is_waited_for = bool(self._waiters)
        if is_waited_for:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for callback in waiters:
            callback()

    def _find_segments(self) -> list[Segment]:
        """Those with a sound header, oldest first; others are removed."""
        found = []
        for name in self._disk.listdir(self.folder):
            base = segment_base(name)
            if base is None:
                continue
            segment = Segment(base, os.path.join(self.folder, name), 0)
            fd = self._disk.open(segment.path)
            try:
                header = parse_header(self._disk.pread(fd, HEADER_BYTES, 0))
            finally:
                self._disk.close(fd)
            if header is None or header[0] != segment.base:
                event(_log, logging.WARNING, "not a change log of this release: removed", path=segment.path)
                self._unlink(segment)
            else:
                found.append(segment._replace(salt=header[1]))
        return sorted(found)

    def _scan(self, segment: Segment, applied: int) -> tuple[int, int]:
        """(end in bytes, index) of its sound records that are not beyond `applied`."""
        fd = self._disk.open(segment.path)
        try:
            end, index = HEADER_BYTES, segment.base
            while True:
                head = self._disk.pread(fd, RECORD_HEADER_BYTES, end)
                header = parse_record_header(head)
                if header is None or header.previous != index or header.log_index > applied:
                    return end, index
                body = self._disk.pread(fd, header.body_bytes, end + RECORD_HEADER_BYTES)
                if not is_intact(header, head, body, segment.salt):
                    return end, index
                end += RECORD_HEADER_BYTES + header.body_bytes
                index = header.log_index
        finally:
            self._disk.close(fd)

    def _new_segment(self, base: int) -> Segment:
        self._close_fd()
        path = os.path.join(self.folder, f"{base:020}.chg")
        salt = random.getrandbits(32)
        self._disk.mkdir(self.folder)
        fd = self._disk.open(path, create=True)
        try:
            self._disk.ftruncate(fd, 0)
            write_all(self._disk, fd, pack_header(base, salt), 0)
        except BaseException:
            self._disk.close(fd)
            raise
        self._fd = fd
        return Segment(base, path, salt)

    def _without_oldest(self, segments: tuple[Segment, ...], end: int) -> tuple[Segment, ...]:
        total = end + sum(self._sizes[segment.base] for segment in segments[:-1])
        first = 0
        while first < len(segments) - 1 and total > self._keep_bytes:
            total -= self._sizes.pop(segments[first].base)
            self._unlink(segments[first])
            first += 1
        return segments[first:]

    def _unlink(self, segment: Segment) -> None:
        try:
            self._disk.unlink(segment.path)
        except OSError as error:
            event(
                _log, logging.WARNING, "a file of changes cannot be removed", path=segment.path, reason=error
            )

    def _size_of(self, segment: Segment) -> int:
        fd = self._disk.open(segment.path)
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def _close_fd(self) -> None:
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None
