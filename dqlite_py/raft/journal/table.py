"""Which segment holds which entry, and reading entries while the journal thread writes.

Built by Journal; it decides nothing about durability and writes nothing. Reads and queries come from any
thread, changes from the journal thread, AFTER what they describe is durable. INVARIANT: segments are
contiguous and ascending; the last one is written to; term runs are those of the entries in them.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from dqlite_py.errors import InternalError, JournalFailed
from dqlite_py.model import Entry
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.segment import Segment

_READ_COUNT_MAX: Final = 16_384  # entries looked up under the lock at a time


class NotInJournal(InternalError):
    """The entry is compacted (send a snapshot), truncated or not yet written; details first and last."""


def _first_index(segment: Segment) -> int:
    return segment.first_index


class SegmentTable:
    """The live segments and the terms of their entries."""

    def __init__(self, disk: Disk, segments: list[Segment], runs: list[tuple[int, int]]) -> None:
        self._disk = disk
        self._segments = segments
        self._runs = runs
        self._lock = threading.Lock()  # guards everything here, and the segments' offsets and readers
        self._generation = 0  # grows when entries are dropped from the end
        self._closed = False

    # -- any thread

    @property
    def segments(self) -> list[Segment]:
        """The live segments; replaced, never changed in place."""
        return self._segments

    @property
    def current(self) -> Segment:
        return self._segments[-1]

    @property
    def base_index(self) -> int:
        return self._segments[0].first_index - 1

    @property
    def last_index(self) -> int:
        return self._segments[-1].last_index

    def term_runs(self) -> list[tuple[int, int]]:
        with self._lock:
            return list(self._runs)

    def term_at(self, index: int) -> int:
        """Term of an entry or of the base; raises NotInJournal."""
        with self._lock:
            oldest = self._segments[0]
            if index == oldest.first_index - 1:
                return oldest.header.previous_term
            self._check(index)
            return self._runs[bisect_right(self._runs, (index, 2**64)) - 1][1]

    def index_before_tail(self, tail_bytes: int) -> int:
        """The largest index behind which the log still holds `tail_bytes`; base_index when it holds less."""
        with self._lock:
            if tail_bytes <= 0:
                return self._segments[-1].last_index
            for segment in reversed(self._segments):
                start = segment.offsets[0] if segment.offsets else segment.end
                if segment.end - start >= tail_bytes:
                    position = bisect_right(segment.offsets, segment.end - tail_bytes) - 1
                    return segment.first_index + position - 1
                tail_bytes -= segment.end - start
            return self._segments[0].first_index - 1

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """As Journal.read."""
        entries: list[Entry] = []
        generation = self._generation
        while first <= last and (not entries or bytes_max > 0):
            found = self._find(first, last, generation, may_be_none=bool(entries))
            if found is None:
                break
            segment, offsets, end = found
            try:
                part = segment.read_entries(
                    self._disk, first, offsets, end, bytes_max, may_be_none=bool(entries)
                )
            except OSError as error:
                raise JournalFailed(f"cannot read {segment.path}: {error}", file=segment.path) from error
            finally:
                self._leave(segment)
            entries += part
            if len(part) < len(offsets):
                break
            first += len(part)
            bytes_max -= sum(len(entry.payload) for entry in part)
        return entries

    def _find(
        self, first: int, last: int, generation: int, *, may_be_none: bool
    ) -> tuple[Segment, array[int], int] | None:
        """Return a segment (entered), offsets from entry `first`, and a bound of the last one's record."""
        with self._lock:
            if self._closed:
                raise JournalFailed("the journal is closed")
            if may_be_none and (generation != self._generation or first > self._segments[-1].last_index):
                return None
            self._check(first)
            segment = self._segments[bisect_right(self._segments, first, key=_first_index) - 1]
            start = first - segment.first_index
            stop = min(last - segment.first_index + 1, start + _READ_COUNT_MAX)
            offsets = segment.offsets[start : stop + 1]
            end = offsets.pop() if len(offsets) > stop - start else segment.end
            segment.readers += 1
            return segment, offsets, end

    def _check(self, index: int) -> None:
        first, last = self._segments[0].first_index, self._segments[-1].last_index
        if not first <= index <= last:
            raise NotInJournal(
                f"entry {index} is not in the journal ({first} to {last})", first=first, last=last
            )

    def _leave(self, segment: Segment) -> None:
        with self._lock:
            segment.readers -= 1
            closes = segment.is_dropped and segment.readers == 0
        if closes:
            self._disk.close(segment.fd)

    # -- journal thread

    def append(
        self, truncate_from: int | None, entries: Sequence[Entry], offsets: array[int], group_bytes: int
    ) -> None:
        """Take a group at the end of the current segment."""
        current = self._segments[-1]
        with self._lock:
            if truncate_from is not None:
                self._generation += 1
                del current.offsets[truncate_from - current.first_index :]
                self._drop_runs(truncate_from)
            for entry in entries:
                if not self._runs or self._runs[-1][1] != entry.term:
                    self._runs.append((entry.index, entry.term))
            current.end += group_bytes
            current.last_group += 1
            current.offsets.extend(offsets)

    def replace_tail(self, keep: int, segment: Segment) -> None:
        """Keep the `keep` oldest segments, drop the others and what `segment` truncates; it becomes the last."""
        dropped = self._segments[keep:]
        with self._lock:
            if keep:
                before = self._segments[keep - 1]
                del before.offsets[segment.first_index - before.first_index :]
            self._segments = [*self._segments[:keep], segment]
            self._drop_runs(segment.first_index if keep else 0)
            self._generation += 1
        for old in dropped:
            self._drop(old)

    def drop_oldest(self) -> None:
        """Forget the first segment."""
        with self._lock:
            oldest, self._segments = self._segments[0], self._segments[1:]
            first, last = self._segments[0].first_index, self._segments[-1].last_index
            position = bisect_right(self._runs, (first, 2**64)) - 1
            if last < first:
                self._runs = []
            else:
                self._runs = [(first, self._runs[position][1]), *self._runs[position + 1 :]]
        self._drop(oldest)

    def _drop_runs(self, index: int) -> None:
        while self._runs and self._runs[-1][0] >= index:
            self._runs.pop()

    def close(self) -> None:
        """Close the files, each when its last reader leaves; later reads fail."""
        with self._lock:
            self._closed = True
        for segment in self._segments:
            self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        with self._lock:
            segment.is_dropped = True
            closes = segment.readers == 0
        if closes:
            self._disk.close(segment.fd)
