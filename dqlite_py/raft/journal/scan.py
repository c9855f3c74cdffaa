"""Read one segment file front to back and say what is valid in it. Modifies nothing and keeps no file open.

Called by recovery before the journal is used. Memory is bounded by one window and one record, whatever the
bytes say; no length is used before its CRC and its bound were checked.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from dqlite_py.errors import CorruptJournal, UnknownFormat, WrongCluster
from dqlite_py.limits import MIB
from dqlite_py.model import EntryKind
from dqlite_py.nativelib import crc32c
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.files import read_up_to
from dqlite_py.raft.journal.format import (
    ENVELOPE_BYTES,
    FORMAT_VERSION,
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    HEADER_BYTES,
    NUMBER_END,
    PAYLOAD_BYTES_MAX,
    RECORD,
    RECORD_HEADER_BYTES,
    SEGMENT_MAGIC,
    GroupHeader,
    GroupKind,
    RecordType,
    SegmentHeader,
    envelope_version,
    parse_group_header,
    parse_segment_header,
    record_bytes,
)
from dqlite_py.raft.journal.segment import damage

WINDOW_BYTES: Final = 1 * MIB
_ENTRY_KINDS: Final = frozenset(EntryKind)
_ZERO_GROUP: Final = bytes(GROUP_HEADER_BYTES)


class Window:
    """A view that slides over a file."""

    def __init__(self, disk: Disk, fd: int, size: int) -> None:
        self._disk = disk
        self._fd = fd
        self.size = size
        self._start = 0
        self._data = memoryview(b"")

    def view(self, offset: int, size: int) -> memoryview:
        """Return [offset, offset + size), shorter only at the end of the file."""
        at = offset - self._start
        if at < 0 or at + size > len(self._data):
            self._data = memoryview(read_up_to(self._disk, self._fd, max(size, WINDOW_BYTES), offset))
            self._start, at = offset, 0
        return self._data[at : at + size]


@dataclass(slots=True)
class Scan:
    """What a segment holds. `end`: where its next group goes; `expected`, `found`: why the scan stopped."""

    path: str
    header: SegmentHeader
    size: int
    end: int = HEADER_BYTES
    last_group: int = 0
    last_group_offset: int = 0  # 0: no data group
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    runs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (first index, term), of entries in this segment
    is_marked: bool = False
    sealed_for: int | None = None  # sequence of the segment that must follow
    torn_at: int = HEADER_BYTES  # first byte that is neither a valid group nor a mark
    is_clean: bool = False  # zeros (or nothing) at torn_at
    expected: str = ""
    found: str = ""
    later_group: int | None = None  # offset of a valid group header behind the damage

    @property
    def last_index(self) -> int:
        return self.header.first_index + len(self.offsets) - 1

    @property
    def last_term(self) -> int:
        return self.runs[-1][1] if self.runs else self.header.previous_term

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was ever written behind the header."""
        return self.last_group_offset == 0 and self.is_clean and not self.is_marked

    def damage(self) -> CorruptJournal:
        return damage(self.path, self.torn_at, self.expected, self.found)


def read_header(disk: Disk, path: str, cluster_id: bytes, node_id: int) -> SegmentHeader:
    """Return a segment's header; raises CorruptJournal, UnknownFormat, WrongCluster."""
    fd = disk.open(path)
    try:
        block = read_up_to(disk, fd, HEADER_BYTES, 0)
    finally:
        disk.close(fd)
    version = envelope_version(block[:ENVELOPE_BYTES], SEGMENT_MAGIC)
    if version is not None and version != FORMAT_VERSION:
        raise UnknownFormat(
            f"{path} has journal format {version}; this release knows {FORMAT_VERSION}: use a newer one",
            file=path,
            version=version,
        )
    header = parse_segment_header(block) if version is not None else None
    if header is None:
        raise damage(path, 0, "a segment header with a valid crc", block[:16].hex() or "an empty file")
    if (header.cluster_id, header.node_id) != (cluster_id, node_id):
        raise WrongCluster(
            f"{path} belongs to cluster {header.cluster_id.hex()}, node {header.node_id}, not to cluster "
            f"{cluster_id.hex()}, node {node_id}; put back this node's own files",
            file=path,
        )
    return header


def scan_segment(disk: Disk, path: str, header: SegmentHeader) -> Scan:
    """Read all groups; raises CorruptJournal (valid bytes that contradict others), UnknownFormat, OSError."""
    fd = disk.open(path)
    try:
        scanner = _Scanner(Window(disk, fd, disk.size(fd)), Scan(path, header, disk.size(fd)))
        scanner.run()
    finally:
        disk.close(fd)
    return scanner.scan


class _Scanner:
    def __init__(self, window: Window, scan: Scan) -> None:
        self.window = window
        self.scan = scan
        scan.last_group = scan.header.first_group - 1

    def run(self) -> None:
        scan = self.scan
        while self._group():
            pass
        if scan.sealed_for is None and not scan.is_clean:
            scan.later_group = self._find_later_group()

    def _group(self) -> bool:
        """Take one group at `end`; False when the scan stops there."""
        scan, salt, offset = self.scan, self.scan.header.salt, self.scan.end
        raw = self.window.view(offset, GROUP_HEADER_BYTES)
        header = parse_group_header(raw, offset, salt)
        wanted = scan.last_group + 1
        if header is None:
            return self._stop(offset, f"group {wanted}", f"no valid group header ({bytes(raw[:8]).hex()})")
        if header.sequence != wanted:
            raise damage(scan.path, offset, f"group {wanted}", f"group {header.sequence}")
        if header.kind == GroupKind.MARK:
            scan.is_marked = True
            after = offset + GROUP_HEADER_BYTES
            return self._stop(after, "nothing behind the mark", "other bytes")
        if header.kind not in (GroupKind.DATA, GroupKind.SEAL):
            raise self._unknown(offset, f"group kind {header.kind}")
        return self._body(header)

    def _stop(self, torn_at: int, expected: str, found: str) -> bool:
        scan = self.scan
        scan.torn_at, scan.expected, scan.found = torn_at, expected, found
        scan.is_clean = self._is_zero(torn_at)
        return False

    def _is_zero(self, offset: int) -> bool:
        while view := self.window.view(offset, WINDOW_BYTES):
            if bytes(view).strip(b"\0"):
                return False
            offset += len(view)
        return True

    def _body(self, header: GroupHeader) -> bool:
        """Take a group's records, all or none."""
        scan = self.scan
        start = header.offset + GROUP_HEADER_BYTES
        end = start + header.body_bytes
        low = header.sequence & 0xFFFFFFFF
        records: list[tuple[int, int, int, int, int]] = []
        at = start
        for _ in range(header.record_count):
            record = self._record(at, end, low)
            if isinstance(record, str):
                return self._stop(
                    header.offset, f"a whole group {header.sequence}", f"{record} at offset {at}"
                )
            records.append((at, *record[1:]))
            at += record[0]
        if at != end:
            return self._stop(header.offset, f"{header.body_bytes} bytes of records", f"{at - start} bytes")
        for record_at, kind, entry_kind, term, index in records:
            self._take(header, record_at, kind, entry_kind, term, index)
        scan.end = end
        if header.kind == GroupKind.SEAL:
            return False
        scan.last_group, scan.last_group_offset = header.sequence, header.offset
        return True

    def _record(self, at: int, end: int, low: int) -> tuple[int, int, int, int, int] | str:
        """Return (size, type, entry kind, term, index) of a valid record, or what is wrong with it."""
        if at + RECORD_HEADER_BYTES > end:
            return "a record beyond the group"
        raw = self.window.view(at, RECORD_HEADER_BYTES)
        if len(raw) < RECORD_HEADER_BYTES:
            return "the end of the file"
        crc, payload_bytes, kind, entry_kind, _, group, term, index = RECORD.unpack_from(raw)
        if payload_bytes > PAYLOAD_BYTES_MAX:
            return f"a record of {payload_bytes} payload bytes"
        size = record_bytes(payload_bytes)
        if at + size > end:
            return "a record longer than the group"
        if size > RECORD_HEADER_BYTES:
            raw = self.window.view(at, size)
        if len(raw) < size:
            return "the end of the file"
        if crc32c(raw[4:], self.scan.header.salt) != crc or group != low:
            return "a record with a wrong crc"
        return size, kind, entry_kind, term, index

    def _take(self, group: GroupHeader, at: int, kind: int, entry_kind: int, term: int, index: int) -> None:
        if (kind == RecordType.SEAL) != (group.kind == GroupKind.SEAL):
            raise damage(
                self.scan.path, at, f"records of a group of kind {group.kind}", f"record type {kind}"
            )
        if kind == RecordType.ENTRY:
            self._take_entry(at, entry_kind, term, index)
        elif kind == RecordType.TRUNCATE:
            self._take_truncation(at, index)
        elif kind == RecordType.SEAL:
            self.scan.sealed_for = index
        else:
            raise self._unknown(at, f"record type {kind}")

    def _take_entry(self, at: int, entry_kind: int, term: int, index: int) -> None:
        scan = self.scan
        if entry_kind not in _ENTRY_KINDS:
            raise self._unknown(at, f"entry kind {entry_kind}")
        if index != scan.last_index + 1:
            raise damage(scan.path, at, f"entry {scan.last_index + 1}", f"entry {index}")
        last_term = scan.last_term
        if not last_term <= term < NUMBER_END:
            raise damage(scan.path, at, f"term {last_term} or above", f"term {term}")
        if not scan.runs or term != last_term:
            scan.runs.append((index, term))
        scan.offsets.append(at)

    def _take_truncation(self, at: int, index: int) -> None:
        scan = self.scan
        if not scan.header.first_index <= index <= scan.last_index:
            wanted = f"truncation from {scan.header.first_index} to {scan.last_index}"
            raise damage(scan.path, at, wanted, f"truncation from {index}")
        truncate_scan(scan, index)

    def _find_later_group(self) -> int | None:
        """Offset of a valid group header behind the damage: proof that what lies before it was synced.

        Groups are 8-byte aligned and written in order, each after the sync of the one before.
        """
        scan, window, overlap = self.scan, self.window, GROUP_HEADER_BYTES
        offset = scan.torn_at + 1
        while view := window.view(offset, WINDOW_BYTES):
            data = bytes(view)
            at = data.find(GROUP_MAGIC)
            while at >= 0:
                header = parse_group_header(data[at : at + overlap], offset + at, scan.header.salt)
                if header is None and at + overlap > len(data):
                    raw = window.view(offset + at, overlap)
                    header = parse_group_header(raw, offset + at, scan.header.salt)
                if header is not None and header.sequence > scan.last_group:
                    return offset + at
                at = data.find(GROUP_MAGIC, at + 1)
            if len(data) < WINDOW_BYTES:
                break
            offset += len(data) - len(GROUP_MAGIC) + 1
        return None

    def _unknown(self, offset: int, what: str) -> UnknownFormat:
        path = self.scan.path
        return UnknownFormat(
            f"{path} at offset {offset}: unknown {what}; it was written by a newer release: use that one",
            file=path,
            version=what,
        )


def truncate_scan(scan: Scan, index: int) -> None:
    """Drop the entries with `index` or above."""
    del scan.offsets[max(0, index - scan.header.first_index) :]
    while scan.runs and scan.runs[-1][0] >= index:
        scan.runs.pop()
