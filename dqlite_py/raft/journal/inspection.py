"""What a data folder's journal and hard state hold, without changing a byte: for offline tools, no node runs there.

Gives the verdicts of Journal.open, from the same functions: whatever it accepts opens, and with these contents.
"""

from __future__ import annotations

from dataclasses import dataclass

from dqlite_py.model import HardState, LogIndex, NodeId, Term
from dqlite_py.ports import Disk
from dqlite_py.raft.journal.hardstate import HardStateFile
from dqlite_py.raft.journal.recovery import recover
from dqlite_py.raft.journal.repair import journal_missing


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
    hard_state = HardStateFile.read(disk, f"{path}/hardstate", cluster_id=cluster_id, node_id=node_id)
    folder = f"{path}/journal"
    recovered = recover(disk, folder, cluster_id, node_id) if disk.exists(folder) else None
    if recovered is None or not recovered.scans:
        raise journal_missing(folder)
    first, last = recovered.scans[0], recovered.scans[-1]
    return JournalReport(
        hard_state,
        LogIndex(first.header.first_index - 1),
        LogIndex(last.last_index),
        Term(last.last_term),
        len(recovered.scans),
        sum(scan.size for scan in recovered.scans),
        None if last.is_clean else (last.path, last.torn_at),
        len(recovered.dead_names),
    )
