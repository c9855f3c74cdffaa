"""The log as the core sees it: its bounds, the terms of all its entries, and the newest entries themselves.

Does no I/O and knows nothing of durability. The journal holds all entries; older ones than the cache are read
by the host on request. INVARIANT: the cache is a contiguous suffix of the log, and
base_index <= cache_first - 1 <= last_index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.limits import APPEND_BYTES_MAX, LOG_CACHE_BYTES_MAX
from dqlite_py.model import Configuration, Entry, EntryKind, LogIndex, Snapshot, Term
from dqlite_py.raft.membership import decode_configuration

NO_INDEX = LogIndex(0)
NO_TERM = Term(0)
ENTRY_OVERHEAD_BYTES = 64  # what an entry costs beside its payload, in memory and on the wire, roughly


class LogReader(Protocol):
    """What `LogStart.read` needs of the journal."""

    @property
    def base_index(self) -> int: ...
    @property
    def base_term(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    def term_runs(self) -> Sequence[tuple[int, int]]: ...
    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]: ...


@dataclass(frozen=True, slots=True)
class LogStart:
    """The log found at start. `recent` is a suffix of it (may be empty); `configurations` are all those it
    holds above the snapshot, in order; `term_runs` are (first index, term) of each run of equal terms."""

    base_index: LogIndex = NO_INDEX
    base_term: Term = NO_TERM
    last_index: LogIndex = NO_INDEX
    term_runs: tuple[tuple[int, int], ...] = ()
    recent: tuple[Entry, ...] = ()
    configurations: tuple[Configuration, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[Entry], base_index: int = 0, base_term: int = 0) -> LogStart:
        """From all of its entries."""
        runs: list[tuple[int, int]] = []
        for entry in entries:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        return cls(
            LogIndex(base_index),
            Term(base_term),
            LogIndex(base_index + len(entries)),
            tuple(runs),
            tuple(entries),
            tuple(_configurations(entries)),
        )

    @classmethod
    def read(
        cls, journal: LogReader, snapshot: Snapshot, cache_bytes_max: int = LOG_CACHE_BYTES_MAX
    ) -> LogStart:
        """From a journal; reads what lies above the snapshot once. Blocks: call before the loop starts."""
        configurations: list[Configuration] = []
        recent: list[Entry] = []
        held_bytes = 0
        last = journal.last_index
        index = max(journal.base_index, snapshot.index) + 1
        while index <= last:
            entries = journal.read(index, last, APPEND_BYTES_MAX)
            if not entries or entries[0].index != index:
                raise RaftInvariantBroken(f"journal has no entry {index}, though it ends at {last}")
            index += len(entries)
            configurations.extend(_configurations(entries))
            recent.extend(entries)
            held_bytes += sum(len(entry.payload) + ENTRY_OVERHEAD_BYTES for entry in entries)
            if held_bytes > 2 * cache_bytes_max:
                held_bytes = _keep_newest(recent, held_bytes, cache_bytes_max)
        return cls(
            LogIndex(journal.base_index),
            Term(journal.base_term),
            LogIndex(last),
            tuple(journal.term_runs()),
            tuple(recent),
            tuple(configurations),
        )


def _configurations(entries: Iterable[Entry]) -> Iterable[Configuration]:
    return (decode_configuration(e) for e in entries if e.kind is EntryKind.CONFIGURATION)


def _keep_newest(entries: list[Entry], held_bytes: int, bytes_max: int) -> int:
    """Drop the oldest until at most `bytes_max` remain; returns what remains."""
    count = 0
    while count < len(entries) and held_bytes > bytes_max:
        held_bytes -= len(entries[count].payload) + ENTRY_OVERHEAD_BYTES
        count += 1
    del entries[:count]
    return held_bytes


class RaftLog:
    """Bounds, term runs and a bounded cache of the newest entries. Loop thread only."""

    __slots__ = (
        "_cache",
        "_run_firsts",
        "_run_terms",
        "base_index",
        "base_term",
        "cache_bytes",
        "cache_bytes_max",
        "cache_first",
        "last_index",
        "last_term",
    )

    def __init__(self, start: LogStart, cache_bytes_max: int) -> None:
        self.cache_bytes_max = cache_bytes_max
        self.base_index = start.base_index  # the entry before the first; its term is known, it is not held
        self.base_term = start.base_term
        self.last_index = start.last_index
        kept = [run for run in start.term_runs if run[0] <= start.last_index]
        self._run_firsts = [first for first, _ in kept]
        self._run_terms = [Term(term) for _, term in kept]
        self.last_term = (
            self._run_terms[-1] if kept and start.last_index > start.base_index else start.base_term
        )
        self._cache = list(start.recent)
        self.cache_bytes = sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in start.recent)
        self.cache_first = LogIndex(start.last_index + 1 - len(start.recent))
        self._check_start(start)

    def _check_start(self, start: LogStart) -> None:
        whole = start.last_index == start.base_index or (
            bool(self._run_firsts) and self._run_firsts[0] <= start.base_index + 1
        )
        ordered = self._run_terms == sorted(self._run_terms)
        suffix = not start.recent or start.recent[-1].index == start.last_index
        if not (start.base_index <= start.last_index and whole and ordered and suffix):
            raise RaftInvariantBroken(
                f"the log at start contradicts itself: base {start.base_index}, last {start.last_index}, "
                f"runs {start.term_runs[:8]}, recent entries {len(start.recent)}"
            )

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self.base_index + 1)

    def holds(self, index: LogIndex) -> bool:
        """True when the term at `index` is known."""
        return self.base_index <= index <= self.last_index

    def term_at(self, index: LogIndex) -> Term:
        firsts = self._run_firsts
        if firsts and firsts[-1] <= index <= self.last_index:
            return self.last_term
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            raise RaftInvariantBroken(
                f"term of entry {index} asked for, the log holds {self.base_index}..{self.last_index}"
            )
        return self._run_terms[bisect_right(firsts, index) - 1]

    def term_if_held(self, index: LogIndex) -> Term:
        """The term at `index`, 0 when it is not known."""
        if index == self.last_index:
            return self.last_term
        return self.term_at(index) if self.base_index <= index < self.last_index else NO_TERM

    def matches(self, index: LogIndex, term: Term) -> bool:
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def last_not_after(self, index: LogIndex, term: Term) -> LogIndex:
        """The last index <= `index` with a term <= `term`; at least base_index - 1. Steps by whole terms."""
        index = min(index, self.last_index)
        while index >= self.base_index and self.term_at(index) > term:
            run = bisect_right(self._run_firsts, index) - 1
            index = LogIndex(self._run_firsts[run] - 1) if index > self.base_index else LogIndex(index - 1)
        return max(index, LogIndex(self.base_index - 1))

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; the caller has checked that they follow the last one."""
        size = 0
        last_term = self.last_term
        for entry in entries:
            if entry.term != last_term or not self._run_firsts:
                last_term = entry.term
                self._run_firsts.append(entry.index)
                self._run_terms.append(last_term)
            size += len(entry.payload)
        self.last_term = last_term
        self.last_index = LogIndex(self.last_index + len(entries))
        self._cache.extend(entries)
        self.cache_bytes += size + ENTRY_OVERHEAD_BYTES * len(entries)

    def truncate(self, index: LogIndex) -> None:
        """Drop entries >= `index`."""
        if not self.base_index < index <= self.last_index:
            raise RaftInvariantBroken(
                f"truncation from {index}, the log holds {self.base_index}..{self.last_index}"
            )
        keep = max(0, index - self.cache_first)
        self.cache_bytes -= sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in self._cache[keep:])
        del self._cache[keep:]
        self.cache_first = min(self.cache_first, index)
        self.last_index = LogIndex(index - 1)
        self.last_term = (
            self.term_at(self.last_index) if self.last_index > self.base_index else self.base_term
        )
        while self._run_firsts and self._run_firsts[-1] > self.last_index:
            self._run_firsts.pop()
            self._run_terms.pop()

    def reset(self, index: LogIndex, term: Term) -> None:
        """Drop everything; continue after (index, term)."""
        self.base_index = self.last_index = index
        self.base_term = self.last_term = term
        self.cache_first = LogIndex(index + 1)
        self._run_firsts, self._run_terms = [], []
        self._cache, self.cache_bytes = [], 0

    def compact(self, base_index: LogIndex) -> None:
        """Forget entries <= `base_index` (the journal dropped them or is about to)."""
        if base_index <= self.base_index:
            return
        self.base_term = self.term_at(base_index)
        self.base_index = base_index
        run = bisect_right(self._run_firsts, base_index + 1) - 1
        if base_index == self.last_index:
            self._run_firsts, self._run_terms = [], []
        else:
            del self._run_firsts[:run], self._run_terms[:run]
        self._drop_cached(base_index - self.cache_first + 1)

    def evict(self, upto: LogIndex) -> None:
        """Bound the cache: forget the oldest entries <= `upto`, which the host can read again."""
        if self.cache_bytes <= self.cache_bytes_max:
            return
        size, target, count = self.cache_bytes, self.cache_bytes_max * 3 // 4, 0
        limit = min(len(self._cache), upto - self.cache_first + 1)
        while count < limit and size > target:
            size -= len(self._cache[count].payload) + ENTRY_OVERHEAD_BYTES
            count += 1
        self._drop_cached(count)

    def _drop_cached(self, count: int) -> None:
        if count <= 0:
            return
        count = min(count, len(self._cache))
        self.cache_bytes -= sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in self._cache[:count])
        del self._cache[:count]
        self.cache_first = LogIndex(self.cache_first + count)

    def cached(self, first: LogIndex, last: LogIndex) -> list[Entry]:
        """Entries [first, last]; the caller knows that they are cached."""
        offset = first - self.cache_first
        return self._cache[offset : last - self.cache_first + 1]

    def batch(self, first: LogIndex, bytes_max: int, entries_max: int) -> tuple[tuple[Entry, ...], int]:
        """Cached entries from `first` within the bounds, but at least one, and their size."""
        cache = self._cache
        start = end = first - self.cache_first
        stop = min(len(cache), start + entries_max)
        size = 0
        while end < stop:
            more = len(cache[end].payload) + ENTRY_OVERHEAD_BYTES
            if size + more > bytes_max and end > start:
                break
            size += more
            end += 1
        return tuple(cache[start:end]), size
