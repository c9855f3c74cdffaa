"""What a data folder's journal and hard state hold, without changing a byte: for offline tools, no node runs there.

Gives the verdicts of Journal.open, from the same functions: whatever it accepts opens, and with these contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dqlite_py.limits import MIB
from dqlite_py.model import Entry, HardState, LogIndex, NodeId, Term
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.recovery import recover
from dqlite_py.raft.journal.repair import join_runs, journal_missing, open_segment
from dqlite_py.raft.journal.scan import Scan
from dqlite_py.raft.journal.segment import Segment
from dqlite_py.raft.journal.table import SegmentTable

_READ_BYTES: Final = 4 * MIB


@dataclass(frozen=True, slots=True)
class JournalReport:
    """A journal that would open. Entries are base_index + 1 to last_index.

    torn_at: the file and offset behind which the next start cuts a write that a crash tore, None when the end is clean.
    leftover_count: files of an interrupted change, which the next start removes.
    """

    hard_state: HardState
    base_index: LogIndex
    last_index: LogIndex
    last_term: Term
    segment_count: int
    size_bytes: int
    torn_at: tuple[str, int] | None
    leftover_count: int


def inspect_journal(disk: Disk, path: str, *, cluster_id: bytes, node_id: NodeId) -> JournalReport:
    """Read every record of DIR/journal and DIR/hardstate of data folder `path`, each CRC checked.

    Raises CorruptJournal, CorruptState, UnknownFormat, WrongCluster, OSError: a start would refuse the folder, too.
    """
    return _look(disk, path, cluster_id, node_id)[0]


class JournalView:
    """The entries of a journal that nobody changes (raft.log.LogReader). Close it."""

    def __init__(self, disk: Disk, report: JournalReport, scans: list[Scan]) -> None:
        self.report = report
        segments: list[Segment] = []
        try:
            for scan in scans:
                segments.append(open_segment(disk, scan))
        except BaseException:
            for segment in segments:
                disk.close(segment.fd)
            raise
        self._table = SegmentTable(disk, segments, join_runs(scans))

    @property
    def base_index(self) -> int:
        return self._table.base_index

    @property
    def base_term(self) -> int:
        return self._table.term_at(self._table.base_index)

    @property
    def last_index(self) -> int:
        return self._table.last_index

    def term_runs(self) -> list[tuple[int, int]]:
        return self._table.term_runs()

    def term_at(self, index: int) -> int:
        """Term of an entry or of the base; raises NotInJournal."""
        return self._table.term_at(index)

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """As Journal.read."""
        return self._table.read(first, last, bytes_max)

    def entries(self, first: int) -> Iterator[Entry]:
        """All entries from `first` on; raises CorruptJournal, JournalFailed."""
        while first <= self.last_index:
            found = self.read(first, self.last_index, _READ_BYTES)
            yield from found
            first += len(found)

    def close(self) -> None:
        self._table.close()


def view_journal(disk: Disk, path: str, *, cluster_id: bytes, node_id: NodeId) -> JournalView:
    """Inspect, and keep the files open to read entries; raises as `inspect_journal` does."""
    return JournalView(disk, *_look(disk, path, cluster_id, node_id))


def _look(disk: Disk, path: str, cluster_id: bytes, node_id: NodeId) -> tuple[JournalReport, list[Scan]]:
    hard_state = HardStateFile.read(disk, f"{path}/hardstate", cluster_id=cluster_id, node_id=node_id)
    folder = f"{path}/journal"
    recovered = recover(disk, folder, cluster_id, node_id) if disk.exists(folder) else None
    if recovered is None or not recovered.scans:
        raise journal_missing(folder)
    first, last = recovered.scans[0], recovered.scans[-1]
    report = JournalReport(
        hard_state,
        LogIndex(first.header.first_index - 1),
        LogIndex(last.last_index),
        Term(last.last_term),
        len(recovered.scans),
        sum(scan.size for scan in recovered.scans),
        None if last.is_clean else (last.path, last.torn_at),
        len(recovered.dead_names),
    )
    return report, recovered.scans
