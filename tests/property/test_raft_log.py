"""RaftLog against a plain list of entries: any history of appends, truncations, compactions, evictions."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.raft.log import LogStart, RaftLog


class LogModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = RaftLog(LogStart(), 600)
        self.base = 0
        self.terms = [0]  # of base, base + 1, …
        self.payloads: dict[int, Entry] = {}

    @property
    def last(self) -> int:
        return self.base + len(self.terms) - 1

    @rule(steps=st.lists(st.integers(0, 2), min_size=1, max_size=6), size=st.integers(0, 120))
    def append(self, steps: list[int], size: int) -> None:
        entries = []
        for step in steps:
            term = max(1, self.terms[-1] + (step == 2))
            entry = Entry(LogIndex(self.last + 1), Term(term), EntryKind.COMMAND, bytes(size))
            self.terms.append(term)
            self.payloads[entry.index] = entry
            entries.append(entry)
        self.log.append(entries)

    @precondition(lambda self: self.last > self.base)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.base + 1, self.last))
        self.log.truncate(LogIndex(index))
        del self.terms[index - self.base :]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.base, self.last))
        self.log.compact(LogIndex(index))
        del self.terms[: index - self.base]
        self.base = index

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        limit = data.draw(st.integers(self.base, self.last))
        before = self.log.cache_first
        self.log.evict(LogIndex(limit))
        assert before <= self.log.cache_first <= max(before, limit + 1)

    @rule(index=st.integers(1, 40), term=st.integers(1, 9))
    def reset(self, index: int, term: int) -> None:
        self.log.reset(LogIndex(self.last + index), Term(self.terms[-1] + term))
        self.base, self.terms = self.last + index, [self.terms[-1] + term]

    @rule(index=st.integers(0, 60), term=st.integers(0, 12))
    def step_back(self, index: int, term: int) -> None:
        known = [i for i in range(self.base, min(index, self.last) + 1) if self.terms[i - self.base] <= term]
        expected = max(known, default=self.base - 1)
        assert self.log.last_not_after(LogIndex(index), Term(term)) == expected

    @invariant()
    def agrees(self) -> None:
        log = self.log
        assert (log.base_index, log.last_index, log.last_term) == (self.base, self.last, self.terms[-1])
        assert [log.term_at(LogIndex(i)) for i in range(self.base, self.last + 1)] == self.terms
        assert self.base < log.cache_first <= self.last + 1
        cached = log.cached(log.cache_first, log.last_index)
        assert cached == [self.payloads[i] for i in range(log.cache_first, self.last + 1)]


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
