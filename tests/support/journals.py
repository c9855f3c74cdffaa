"""Small journals on a FaultDisk: opening, entries, what a journal holds."""

from __future__ import annotations

import itertools
from typing import Any

from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Term
from dqlite_py.ports import Disk
from dqlite_py.raft.journal import Journal

CLUSTER = bytes(range(16))
NODE = NodeId(7)
FOLDER = "/data"
SEGMENT_BYTES = 4096 + 2048  # a header and little more, so that segments roll after a few entries
STEP_BYTES = 4096 + 1024


def open_journal(disk: Disk, *, create: bool = True, **options: Any) -> Journal:
    """Open with segments of 6 KiB and salts that repeat from run to run."""
    salts = itertools.count(1)
    options.setdefault("segment_bytes", SEGMENT_BYTES)
    options.setdefault("step_bytes", STEP_BYTES)
    options.setdefault("cluster_id", CLUSTER)
    options.setdefault("node_id", NODE)
    return Journal.open(disk, FOLDER, create=create, salt=lambda: next(salts) * 2654435761 % 2**32, **options)


def entry(index: int, term: int = 1, size: int = 100, kind: EntryKind = EntryKind.COMMAND) -> Entry:
    """An entry whose payload tells its index and term."""
    payload = (b"%d/%d " % (index, term) * (size // 4 + 1))[:size]
    return Entry(LogIndex(index), Term(term), kind, payload)


def entries(first: int, last: int, term: int = 1, size: int = 100) -> list[Entry]:
    """Entries first..last, both included."""
    return [entry(index, term, size) for index in range(first, last + 1)]


def hard(term: int, voted_for: int = 0) -> HardState:
    return HardState(Term(term), NodeId(voted_for))


def contents(journal: Journal) -> list[Entry]:
    """Everything in the log, read in small bites."""
    found: list[Entry] = []
    while journal.first_index + len(found) <= journal.last_index:
        found += journal.read(journal.first_index + len(found), journal.last_index, 500)
    return found
