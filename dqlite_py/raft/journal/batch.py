"""What the journal is asked to write, and many such requests folded into one.

No I/O. JournalBatch is built by the Raft host; `fold` is called by Journal.write on the journal thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.model import Entry, HardState
from dqlite_py.raft.journal.format import NUMBER_END, PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """Done in this order: hard state, reset, truncation, entries.

    reset: (index, term): drop the whole log, continue after that entry (a snapshot was installed).
    truncate_from: drop entries with that index or above; nothing happens when there are none.
    """

    reset: tuple[int, int] | None = None
    hard_state: HardState | None = None
    truncate_from: int | None = None
    entries: Sequence[Entry] = field(default_factory=list)

    @property
    def payload_bytes(self) -> int:
        return sum(len(entry.payload) for entry in self.entries)


@dataclass(slots=True)
class Plan:
    """One write: at most one hard state, one reset, one truncation of what is on disk, one run of entries."""

    hard_state: HardState | None = None
    reset: tuple[int, int] | None = None
    truncate_from: int | None = None
    entries: list[Entry] = field(default_factory=list)


def fold(
    batches: Sequence[JournalBatch], base_index: int, last_index: int, term_at: Callable[[int], int]
) -> Plan:
    """Fold batches into one plan with the same outcome; raises RaftInvariantBroken for a log that cannot be.

    `term_at` gives the term of an entry on disk or of the base. Only the last hard state remains: it becomes
    durable before the entries of earlier batches, which is safe, since nothing of a batch was sent yet.
    """
    plan = Plan()
    for batch in batches:
        if batch.hard_state is not None:
            plan.hard_state = batch.hard_state
        if batch.reset is not None:
            plan.reset, plan.truncate_from, plan.entries = batch.reset, None, []
        base = plan.reset[0] if plan.reset else base_index
        disk_last = plan.reset[0] if plan.reset else last_index
        if batch.truncate_from is not None:
            _truncate(plan, batch.truncate_from, base, disk_last)
        if batch.entries:
            _append(plan, batch.entries, disk_last, term_at)
    return plan


def _truncate(plan: Plan, index: int, base: int, disk_last: int) -> None:
    if index <= base:
        raise RaftInvariantBroken(f"journal: truncation from {index}, but entries up to {base} are compacted")
    if plan.entries and index > plan.entries[0].index:
        del plan.entries[index - plan.entries[0].index :]
        return
    plan.entries = []
    last = plan.truncate_from - 1 if plan.truncate_from is not None else disk_last
    if index <= last:
        plan.truncate_from = index


def _append(plan: Plan, entries: Sequence[Entry], disk_last: int, term_at: Callable[[int], int]) -> None:
    if plan.entries:
        index, term = int(plan.entries[-1].index), int(plan.entries[-1].term)
    else:
        index = plan.truncate_from - 1 if plan.truncate_from is not None else disk_last
        term = plan.reset[1] if plan.reset else term_at(index)
    for entry in entries:
        if entry.index != index + 1 or not term <= entry.term < NUMBER_END:
            raise RaftInvariantBroken(
                f"journal: entry {entry.index} of term {entry.term} after entry {index} of term {term}"
            )
        if len(entry.payload) > PAYLOAD_BYTES_MAX:
            raise RaftInvariantBroken(f"journal: entry {entry.index} holds {len(entry.payload)} bytes")
        index, term = entry.index, entry.term
    plan.entries.extend(entries)
