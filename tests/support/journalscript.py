"""A script of journal calls that visits every way of writing, and the oracle of what may be found after a
crash.

The oracle knows what each call that returned has promised, and what a call that did not return may have left:
a prefix of its steps (hard state, reset, truncation, entries), nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dqlite_py.model import Entry, HardState, LogIndex
from dqlite_py.ports import Disk
from dqlite_py.raft.journal import Journal, JournalBatch
from tests.support.journals import contents, entries, entry, hard, open_journal

NO_VOTE = hard(0)


@dataclass(frozen=True, slots=True)
class State:
    """What a journal holds: entries behind (start, start_term); compaction may have dropped up to `floor`."""

    hard: HardState = NO_VOTE
    start: int = 0
    start_term: int = 0
    log: tuple[Entry, ...] = ()
    floor: int = 0

    def truncated(self, index: int) -> State:
        return replace(self, log=tuple(item for item in self.log if item.index < index))


def outcomes(state: State, batch: JournalBatch) -> list[State]:
    """The states that a batch passes through, the last being its promise."""
    states = [state]
    if batch.hard_state is not None:
        states.append(replace(states[-1], hard=batch.hard_state))
    if batch.reset is not None:
        index, term = batch.reset
        states.append(replace(states[-1], start=index, start_term=term, log=(), floor=index))
    if batch.truncate_from is not None:
        states.append(states[-1].truncated(batch.truncate_from))
    if batch.entries:
        states.append(replace(states[-1], log=states[-1].log + tuple(batch.entries)))
    return states


def merged_outcomes(state: State, batches: list[JournalBatch]) -> list[State]:
    """As `outcomes` for batches written together: all hard states first, and any prefix of the log's steps."""
    allowed = [state]
    log = state
    for batch in batches:
        if batch.hard_state is not None:
            allowed.append(replace(state, hard=batch.hard_state))
    final = allowed[-1].hard
    for batch in batches:
        for step in outcomes(log, replace(batch, hard_state=None)):
            allowed.append(replace(step, hard=final))
            log = step
    return allowed


@dataclass
class Oracle:
    """Follows a run; `allowed` is what may be on the disk at this moment."""

    promised: State = field(default_factory=State)
    allowed: list[State] = field(default_factory=lambda: [State()])

    def write(self, journal: Journal, *batches: JournalBatch) -> None:
        states = merged_outcomes(self.promised, list(batches))
        self.allowed = states
        journal.write(batches)
        self.promised = states[-1]
        self.allowed = [self.promised]

    def compact(self, journal: Journal, upto: int) -> None:
        self.promised = replace(self.promised, floor=max(self.promised.floor, upto))
        self.allowed = [self.promised]
        journal.compact(LogIndex(upto))

    def check(self, journal: Journal) -> State:
        """Return the state found, which must be one of the allowed."""
        for state in reversed(self.allowed):
            if matches(journal, state):
                self.promised, self.allowed = state, [state]
                return state
        raise AssertionError(
            f"found {journal.hard_state}, base {journal.base_index}, {contents(journal)}; allowed "
            f"{self.allowed}"
        )


def matches(journal: Journal, state: State) -> bool:
    base = journal.base_index
    if journal.hard_state != state.hard or not state.start <= base <= max(state.start, state.floor):
        return False
    base_term = state.start_term if base == state.start else state.log[base - state.start - 1].term
    wanted = list(state.log[base - state.start :])
    runs: list[tuple[int, int]] = []
    for item in wanted:
        if not runs or runs[-1][1] != item.term:
            runs.append((item.index, item.term))
    return (
        journal.base_term == base_term
        and journal.last_index == base + len(wanted)
        and contents(journal) == wanted
        and journal.term_runs() == runs
    )


Step = Callable[[Journal, Oracle], Any]


def put(*batches: JournalBatch) -> Step:
    return lambda journal, oracle: oracle.write(journal, *batches)


def batch(**fields: Any) -> JournalBatch:
    return JournalBatch(**fields)


STEPS: list[Step] = [
    put(batch(hard_state=hard(1, 7), entries=entries(1, 3))),
    put(batch(entries=entries(4, 9)), batch(entries=entries(10, 12))),
    put(batch(entries=entries(13, 20))),  # rolls
    put(batch(entries=entries(21, 24)), batch(hard_state=hard(2, 9), entries=entries(25, 30, term=2))),
    put(batch(truncate_from=29, entries=entries(29, 30, term=3), hard_state=hard(3))),
    lambda journal, oracle: journal.mark(),
    lambda journal, oracle: journal.prepare(),
    put(
        batch(entries=entries(31, 33, term=3)),
        batch(truncate_from=32),
        batch(entries=entries(32, 34, term=4)),
    ),
    put(batch(truncate_from=8, entries=entries(8, 9, term=5), hard_state=hard(5, 1))),  # back over segments
    put(batch(hard_state=hard(6, 2))),
    put(batch(entries=entries(10, 30, term=6))),
    put(batch(entries=[entry(31, 6, size=9000)])),  # larger than a segment
    put(batch(entries=entries(32, 40, term=6))),
    lambda journal, oracle: oracle.compact(journal, 20),
    put(batch(truncate_from=31, entries=[entry(31, 7, size=300)])),  # at the first index of a segment
    put(batch(entries=entries(32, 34, term=7))),
    put(batch(truncate_from=33)),
    put(batch(reset=(100, 8), hard_state=hard(8), entries=entries(101, 103, term=8))),
    put(batch(entries=entries(104, 105, term=8))),
    put(batch(reset=(100, 8))),  # the new segment takes the name of the old one
    put(batch(entries=entries(101, 130, term=9))),
    put(
        batch(entries=entries(131, 133, term=9)),
        batch(reset=(200, 9)),
        batch(entries=entries(201, 202, term=9)),
    ),
    lambda journal, oracle: journal.close(),
]


def run(disk: Disk, oracle: Oracle, steps: list[Step] | None = None) -> None:
    """Open a journal and take all steps; whatever is raised passes through."""
    journal = open_journal(disk)
    oracle.check(journal)
    for step in STEPS if steps is None else steps:
        step(journal, oracle)
