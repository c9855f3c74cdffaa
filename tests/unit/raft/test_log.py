"""raft/log.py: bounds, term runs, the bounded cache, and where two logs may meet."""

from __future__ import annotations

import pytest

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.model import Configuration, Entry, LogIndex, Snapshot, Term
from dqlite_py.raft.log import ENTRY_OVERHEAD_BYTES, LogStart, RaftLog
from tests.unit.raft.solo import command, configuration_entry, members


def log(*terms: int, base: tuple[int, int] = (0, 0), cache_bytes: int = 1 << 20) -> RaftLog:
    entries = [command(index, term) for index, term in enumerate(terms, base[0] + 1)]
    return RaftLog(LogStart.of(entries, *base), cache_bytes)


def terms(found: RaftLog) -> list[int]:
    return [found.term_at(LogIndex(i)) for i in range(found.base_index, found.last_index + 1)]


def test_terms_of_all_entries_are_known_without_entries() -> None:
    start = LogStart(LogIndex(10), Term(2), LogIndex(16), ((11, 2), (13, 5), (16, 9)))
    found = RaftLog(start, 100)
    assert terms(found) == [2, 2, 2, 5, 5, 5, 9]
    assert (found.first_index, found.last_index, found.last_term, found.cache_first) == (11, 16, 9, 17)


def test_terms_outside_the_log_are_refused() -> None:
    found = log(1, 1, base=(5, 1))
    for index in (4, 8):
        assert not found.holds(LogIndex(index))
        with pytest.raises(RaftInvariantBroken):
            found.term_at(LogIndex(index))


def test_truncating_and_appending_keep_the_runs() -> None:
    found = log(1, 1, 2, 3, 3)
    found.truncate(LogIndex(3))
    assert terms(found) == [0, 1, 1]
    found.append([command(3, 4), command(4, 4)])
    assert terms(found) == [0, 1, 1, 4, 4]
    assert found.cached(LogIndex(2), LogIndex(3)) == [command(2, 1), command(3, 4)]


def test_truncating_below_the_cache_empties_it() -> None:
    found = RaftLog(LogStart(LogIndex(0), Term(0), LogIndex(6), ((1, 1),), (command(6, 1),)), 1000)
    found.truncate(LogIndex(3))
    assert (found.last_index, found.cache_first) == (2, 3)
    found.append([command(3, 2)])
    assert found.cached(LogIndex(3), LogIndex(3)) == [command(3, 2)]


@pytest.mark.parametrize("index", [3, 9])
def test_truncating_outside_the_log_is_refused(index: int) -> None:
    with pytest.raises(RaftInvariantBroken):
        log(1, 1, base=(3, 1)).truncate(LogIndex(index))


def test_compacting_keeps_the_term_before_the_first_entry() -> None:
    found = log(1, 1, 2, 2, 3)
    found.compact(LogIndex(3))
    assert (found.base_index, found.base_term) == (3, 2)
    assert terms(found) == [2, 2, 3]
    found.compact(LogIndex(2))
    assert found.base_index == 3
    found.compact(LogIndex(5))
    assert (found.base_index, found.base_term, found.last_term) == (5, 3, 3)
    found.append([command(6, 3)])
    assert terms(found) == [3, 3]


def test_resetting_continues_after_the_snapshot() -> None:
    found = log(1, 1)
    found.reset(LogIndex(9), Term(4))
    assert (found.base_index, found.last_index, found.last_term, found.cache_first) == (9, 9, 4, 10)
    found.append([command(10, 4), command(11, 5)])
    assert terms(found) == [4, 4, 5]


def test_the_cache_is_bounded_but_keeps_what_may_not_go() -> None:
    found = log(*[1] * 20, cache_bytes=10 * ENTRY_OVERHEAD_BYTES)
    found.evict(LogIndex(4))
    assert found.cache_first == 5, "entries above the limit given stay, however many"
    found.evict(LogIndex(20))
    assert 10 < found.cache_first <= 20
    assert found.last_index == 20


def test_batches_respect_their_bounds_but_hold_one_entry() -> None:
    found = log(*[1] * 10)
    size = ENTRY_OVERHEAD_BYTES + len(command(1, 1).payload)
    assert [e.index for e in found.batch(LogIndex(3), 1, 99)[0]] == [3]
    entries, bytes_held = found.batch(LogIndex(3), 3 * size, 99)
    assert [e.index for e in entries] == [3, 4, 5]
    assert bytes_held == 3 * size
    assert [e.index for e in found.batch(LogIndex(3), 1 << 20, 2)[0]] == [3, 4]


def test_stepping_back_goes_by_whole_terms() -> None:
    """Paper 5.3, end: one probe per conflicting term, not per entry (RF-18)."""
    found = log(1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    assert found.last_not_after(LogIndex(10), Term(5)) == 7
    assert found.last_not_after(LogIndex(5), Term(3)) == 3
    assert found.last_not_after(LogIndex(99), Term(6)) == 10
    assert found.last_not_after(LogIndex(3), Term(0)) == 0


def test_stepping_back_ends_before_the_base() -> None:
    found = log(4, 4, base=(7, 3))
    assert found.last_not_after(LogIndex(9), Term(3)) == 7
    assert found.last_not_after(LogIndex(9), Term(2)) == 6


def test_a_start_that_contradicts_itself_is_refused() -> None:
    for start in (
        LogStart(LogIndex(5), Term(1), LogIndex(4)),
        LogStart(LogIndex(0), Term(0), LogIndex(4)),
        LogStart(LogIndex(0), Term(0), LogIndex(4), ((1, 3), (3, 2))),
        LogStart(LogIndex(0), Term(0), LogIndex(4), ((1, 1),), (command(3, 1),)),
    ):
        with pytest.raises(RaftInvariantBroken):
            RaftLog(start, 100)


class Reader:
    """A journal of entries after `base_index`."""

    def __init__(self, entries: list[Entry], base_index: int = 0, base_term: int = 0) -> None:
        self.base_index, self.base_term = base_index, base_term
        self.last_index = base_index + len(entries)
        self._entries = entries
        self.reads = 0

    def term_runs(self) -> list[tuple[int, int]]:
        return list(LogStart.of(self._entries, self.base_index, self.base_term).term_runs)

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        self.reads += 1
        return self._entries[first - self.base_index - 1 : last - self.base_index][:3]


def test_reading_a_journal_finds_configurations_and_the_newest_entries() -> None:
    entries: list[Entry] = [command(i, 1, b"x" * 100) for i in range(1, 40)]
    entries[4] = configuration_entry(5, 1, members(1, 2))
    entries[20] = configuration_entry(21, 1, members(1, 2, 3))
    reader = Reader(entries)
    snapshot = Snapshot(LogIndex(10), Term(1), members(1, 2).at(LogIndex(5)))
    start = LogStart.read(reader, snapshot, cache_bytes_max=1000)
    assert [c.index for c in start.configurations] == [21]
    assert (start.base_index, start.last_index) == (0, 39)
    assert start.recent[-1] == entries[-1]
    assert len(start.recent) < 20
    RaftLog(start, 1000)


def test_reading_a_journal_with_a_hole_is_refused() -> None:
    reader = Reader([command(1, 1)])
    reader.last_index = 3
    with pytest.raises(RaftInvariantBroken):
        LogStart.read(reader, Snapshot(LogIndex(0), Term(0), Configuration()))


def test_reading_a_journal_behind_the_snapshot_reads_nothing() -> None:
    reader = Reader([command(1, 1)])
    start = LogStart.read(reader, Snapshot(LogIndex(7), Term(2), members(1)))
    assert (reader.reads, start.recent, start.last_index) == (0, (), 1)
