"""One subscriber's place in a change log: reads whole entries, in order, at its own pace. One thread at a time.

Holds one open file and no more of its content than CHANGES_READ_BYTES, or one entry.
"""

from __future__ import annotations

from collections.abc import Callable

from dqlite_py.changes import Change
from dqlite_py.errors import ChangesCompacted, MalformedMessage
from dqlite_py.limits import CHANGES_READ_BYTES
from dqlite_py.storage.changelog.decode import changes_of
from dqlite_py.storage.changelog.format import (
    HEADER_BYTES,
    RECORD_HEADER_BYTES,
    Layout,
    is_intact,
    parse_body,
    parse_record_header,
)
from dqlite_py.storage.changelog.log import ChangeLog, Extent, Segment


class Cursor:
    """See the module. `after`: everything up to that log index is known to the subscriber."""

    def __init__(self, log: ChangeLog, database: str, after: int) -> None:
        self.after = after
        self._log = log
        self._database = database
        self._fd: int | None = None
        self._segment: Segment | None = None
        self._offset = 0
        self._index = 0  # of the record before `_offset`
        self._restarts = -1
        self._layout: Layout = {}
        self._ahead = b""  # what was read of the file, none of it beyond what may be read,
        self._ahead_offset = 0  # from here on
        self._known: Extent | None = None

    def read(self) -> list[Change] | None:
        """The changes of the next entry that has some; None when there is nothing new (`when_changed` tells).

        Raises ChangesCompacted, or why the log was closed when all it holds is read.
        """
        while True:
            closed = self._log.closed
            extent = self._known = self._log.extent
            record = self._next_record(extent)
            if record is None:
                if closed is not None:  # and was BEFORE the extent was looked at
                    raise closed
                return None
            index, data = record
            try:
                body = parse_body(data)
                if body.layout is not None:
                    self._layout = body.layout
                if index <= self.after:
                    continue
                changes = changes_of(index, body, self._layout)
            except MalformedMessage as error:
                raise self._compacted(extent, f": {error.message}", oldest=index) from error
            self.after = index
            if changes:
                return changes

    def when_changed(self, callback: Callable[[], None]) -> bool:
        """After `read` gave None: have `callback` called once when it is worth another try; False: it is now."""
        assert self._known is not None
        return self._log.call_when_changed(self._known, callback)

    def forget(self, callback: Callable[[], None]) -> None:
        self._log.forget(callback)

    def close(self) -> None:
        if self._fd is not None:
            self._log.disk.close(self._fd)
            self._fd = None
        self._ahead = b""

    def __del__(self) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------------

    def _next_record(self, extent: Extent) -> tuple[int, bytes] | None:
        if self.after < extent.oldest:
            raise self._compacted(extent)
        if not extent.segments:
            return None
        if self._segment is None or self._restarts != extent.restarts:
            self._enter(extent, max(s for s in extent.segments if s.base <= max(self.after, extent.oldest)))
        while True:
            segment = self._segment
            assert segment is not None
            is_newest = segment.base == extent.segments[-1].base
            if is_newest and self._offset >= extent.end:
                return None
            record = self._read_record(segment, extent.end if is_newest else None)
            if record is not None:
                return record
            following = next((s for s in extent.segments if s.base > segment.base), None)
            if following is None or following.base != self._index:
                raise self._compacted(extent, " (its file is damaged)", oldest=(following or segment).base)
            self._enter(extent, following)

    def _enter(self, extent: Extent, segment: Segment) -> None:
        self.close()
        try:
            self._fd = self._log.disk.open(segment.path)
        except OSError as error:  # dropped meanwhile
            raise self._compacted(self._log.extent, f": {error}") from error
        self._segment, self._restarts = segment, extent.restarts
        self._offset = self._ahead_offset = HEADER_BYTES
        self._index = segment.base

    def _read_record(self, segment: Segment, end: int | None) -> tuple[int, bytes] | None:
        head = self._take(RECORD_HEADER_BYTES, end)
        header = parse_record_header(head)
        if header is None or header.previous != self._index:
            return None
        size = RECORD_HEADER_BYTES + header.body_bytes
        body = self._take(size, end)[RECORD_HEADER_BYTES:]
        if not is_intact(header, head, body, segment.salt):
            return None
        self._offset += size
        self._index = header.log_index
        return header.log_index, body

    def _take(self, size: int, end: int | None) -> bytes:
        """Bytes from the offset on; fewer at `end`, or that of the file."""
        start = self._offset - self._ahead_offset
        if start + size > len(self._ahead):
            wanted = max(size, CHANGES_READ_BYTES)
            if end is not None:
                wanted = min(wanted, max(0, end - self._offset))
            assert self._fd is not None
            try:
                self._ahead = self._log.disk.pread(self._fd, wanted, self._offset)
            except OSError:
                self._ahead = b""
            self._ahead_offset, start = self._offset, 0
        return self._ahead[start : start + size]

    def _compacted(self, extent: Extent, why: str = "", *, oldest: int | None = None) -> ChangesCompacted:
        oldest = extent.oldest if oldest is None else max(oldest, extent.oldest)
        return ChangesCompacted(
            f"changes of database {self._database} after log index {self.after} are not kept on this node{why}: read "
            f"the tables in a read transaction (its log_index is {oldest} or more), then follow from that log_index; "
            "or ask another node",
            oldest=oldest,
            newest=extent.log_index,
        )
