"""What was ever true of consensus in a whole cluster: leaders, logs, commits, votes, what each disk holds.

Plain facts in, SafetyViolation out; knows nothing of running nodes (checks.py feeds it from them), so that every
property can be shown to fail with fabricated sequences. Sources: Raft paper figure 3, section 5.4; thesis 4.1, 6.4.
A node is known by its id across its lives, by its name in messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import NoReturn

from dqlite_py.model import Entry, EntryKind, HardState
from dqlite_py.raft.journal import JournalBatch

Fail = Callable[[str], NoReturn]
Told = tuple[EntryKind, bytes, int]  # kind, payload, term of the entry before


class DurableLog:
    """What one node's journal holds for certain: follows the writes that its journal reported as done.

    `pending`: batches being written; after a crash they are on the disk or not.
    """

    __slots__ = ("base", "base_term", "hard", "pending", "synced", "terms")

    def __init__(self, base: int, base_term: int, terms: list[int], hard: HardState) -> None:
        self.base = base
        self.base_term = base_term
        self.terms = terms  # of the entries base + 1, base + 2, …
        self.hard = hard
        self.pending: Sequence[JournalBatch] | None = None
        self.synced = self.last  # the log's end before the newest write

    @classmethod
    def of_runs(
        cls, base: int, base_term: int, last: int, runs: Iterable[tuple[int, int]], hard: HardState
    ) -> DurableLog:
        """From the (first index, term) of each run of equal terms."""
        terms: list[int] = []
        starts = [run for run in runs if run[0] <= last]
        for position, (first, term) in enumerate(starts):
            end = starts[position + 1][0] if position + 1 < len(starts) else last + 1
            terms += [term] * (end - max(first, base + 1))
        return cls(base, base_term, terms, hard)

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """The term at `index`; None above the end and below the base, where the entry is not known."""
        position = index - self.base
        if position <= 0:
            return self.base_term if position == 0 else None
        return self.terms[position - 1] if position <= len(self.terms) else None

    def holds(self, index: int, term: int) -> bool:
        """True when that entry is on the disk, or in the state that the disk holds instead (below the base)."""
        return index < self.base or self.term_at(index) == term

    def write(self, batches: Sequence[JournalBatch]) -> None:
        self.synced = self.last
        for batch in batches:
            if batch.reset is not None:
                self.base, self.base_term = batch.reset
                self.terms = []
            if batch.hard_state is not None:
                self.hard = batch.hard_state
            if batch.truncate_from is not None:
                del self.terms[max(0, batch.truncate_from - self.base - 1) :]
            if batch.entries:
                self.terms += [entry.term for entry in batch.entries]

    def compact(self, base: int) -> None:
        """The journal dropped entries up to `base`."""
        count = base - self.base
        if count > 0:
            self.base_term = self.terms[count - 1]
            del self.terms[:count]
            self.base = base

    def written(self) -> DurableLog:
        """A copy in which the pending batches were written, too."""
        copy = DurableLog(self.base, self.base_term, list(self.terms), self.hard)
        copy.write(self.pending or ())
        return copy

    def cut(self) -> DurableLog:
        """A copy in which only the truncations of the pending batches came to pass: a new segment is one by itself,
        durable before its first entries."""
        copy = DurableLog(self.base, self.base_term, list(self.terms), self.hard)
        copy.write([replace(batch, entries=[]) for batch in self.pending or ()])
        return copy

    def survives_as(self, found: DurableLog) -> bool:
        """True when `found` is this log, perhaps with more of its prefix compacted."""
        if found.last != self.last or found.base < self.base:
            return False
        return found.terms == self.terms[found.base - self.base :] and (
            self.term_at(found.base) == found.base_term
        )


class ConsensusFacts:
    """Everything seen so far, of all nodes and all their lives."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self.leaders: dict[int, int] = {}  # term -> node id
        self.newest_term = 0  # that somebody led
        self.logged: dict[tuple[int, int], Told] = {}  # (index, term)
        self.committed_terms: dict[int, int] = {}  # index -> term of the committed entry
        self.committed_max = 0
        self.commits_of_term: dict[int, int] = {}  # leader's term -> highest index that it committed
        self.handed_out: dict[int, Entry] = {}
        self.acked: dict[tuple[int, int], int] = {}  # (node id, term) -> highest index that it acknowledged
        self.votes: dict[tuple[int, int], int] = {}  # (node id, term) -> candidate, once durable
        self.disks: dict[int, DurableLog] = {}
        self.hashes: dict[tuple[str, int], tuple[int, str]] = {}  # (database, index) -> (hash, first seen at)

    # -- what a disk holds ---------------------------------------------------------------------------------

    def started(
        self, name: str, node: int, found: DurableLog, snapshot: tuple[int, int], damaged: bool = False
    ) -> None:
        """A life begins with `found` in its journal and a state at `snapshot` (index, term).

        damaged: somebody changed the disk. Then only the newest write may be missing: nothing but the bytes
        themselves proves that one (journal/recovery.py); damage of older ones has to be noticed.
        """
        known = self.disks.get(node)
        if known is not None and not damaged:
            self._check_recovered(name, known, found, snapshot)
        elif known is not None and max(found.last, snapshot[0]) < min(known.synced, known.last):
            self._fail(
                f"damage: {name} starts on a damaged disk with entries up to {found.last}, it held {known.last} and "
                f"{known.synced} before its newest write"
            )
        self.disks[node] = found
        self._note_vote(name, node, found.hard)
        if snapshot[0] > self.committed_max:
            self._fail(
                f"durability: {name} starts from a state at {snapshot[0]}, committed is {self.committed_max}"
            )

    def _check_recovered(
        self, name: str, known: DurableLog, found: DurableLog, snapshot: tuple[int, int]
    ) -> None:
        before, after = known.hard, found.hard
        went_back = after.term < before.term or (
            after.term == before.term and before.voted_for not in (0, after.voted_for)
        )
        if went_back:
            self._fail(f"votes: hard state of {name} went back from {tuple(before)} to {tuple(after)}")
        pending = (known.written(), known.cut()) if known.pending else ()
        if any(log.survives_as(found) for log in (known, *pending)):
            return
        if found.base == found.last == snapshot[0] > 0 and found.base_term == snapshot[1]:
            return  # the state was installed before the crash: the log begins anew behind it
        self._fail(
            f"durability: the journal of {name} held entries {known.base + 1} to {known.last} (last terms "
            f"{known.terms[-5:]}), after a restart {found.base + 1} to {found.last} ({found.terms[-5:]}); "
            f"being written: {_told(known.pending)}"
        )

    def written(self, name: str, node: int, batches: Sequence[JournalBatch]) -> None:
        """The journal reported `batches` as durable."""
        self.disks[node].write(batches)
        for batch in batches:
            if batch.hard_state is not None:
                self._note_vote(name, node, batch.hard_state)

    def _note_vote(self, name: str, node: int, hard: HardState) -> None:
        if not hard.voted_for:
            return
        given = self.votes.setdefault((node, hard.term), hard.voted_for)
        if given != hard.voted_for:
            self._fail(
                f"votes: {name} voted for {given} and for {hard.voted_for} in term {hard.term} (across its lives)"
            )

    # -- what a node says ----------------------------------------------------------------------------------

    def acknowledges(self, name: str, node: int, index: int, term: int, leader_term_at: int | None) -> None:
        """`name` tells the leader of `term` that it holds its log up to `index`, whose entry has the leader's
        `leader_term_at` (None: not known here)."""
        disk = self.disks[node]
        if index > disk.last:
            self._fail(
                f"durability: {name} acknowledges entry {index} in term {term}, its disk ends at {disk.last}"
            )
        held = disk.term_at(index)
        if leader_term_at is not None and held is not None and held != leader_term_at:
            self._fail(
                f"durability: {name} acknowledges entry {index} in term {term}, but holds the one of term {held}; "
                f"the leader's is of term {leader_term_at}"
            )
        if index > self.acked.get((node, term), 0):
            self.acked[node, term] = index

    def counts(self, name: str, term: int, node: int, index: int) -> None:
        """The leader `name` of `term` takes it that `node` holds its log up to `index`."""
        told = self.acked.get((node, term), 0)
        if index > told:
            self._fail(
                f"acknowledgements: {name} counts entry {index} for {node} in term {term}, which acknowledged "
                f"{told} in that term"
            )

    def grants(self, name: str, node: int, candidate: int, term: int) -> None:
        """`name` tells `candidate` (perhaps itself) that it votes for it in `term`."""
        given = self.votes.get((node, term))
        if given is None and self.disks[node].hard.term > term:
            # The batch with this vote had a later term, too: only that is on the disk, and keeps the promise as well.
            self.votes[node, term] = candidate
        elif given != candidate:
            self._fail(
                f"durability: the vote of {name} for {candidate} in term {term} is told, on its disk it is {given}"
            )

    def reveals(self, name: str, node: int, term: int) -> None:
        """A message of `name` shows that it is in `term`."""
        durable = self.disks[node].hard.term
        if term > durable:
            self._fail(f"durability: {name} shows term {term}, its disk has {durable}")

    # -- leaders -------------------------------------------------------------------------------------------

    def leads(
        self,
        name: str,
        node: int,
        term: int,
        voters: Collection[int],
        term_at: Callable[[int], int | None],
    ) -> None:
        """`name` begins to lead `term`; `term_at`: of its log (None: compacted)."""
        first = self.leaders.setdefault(term, node)
        self.newest_term = max(self.newest_term, term)
        if first != node:
            self._fail(f"one leader per term: {first} and {node} ({name}) lead term {term}")
        granted = [voter for voter in voters if self.votes.get((voter, term)) == node]
        if len(granted) * 2 <= len(voters):
            self._fail(
                f"votes: {name} leads term {term} with the durable votes of {sorted(granted)} of {sorted(voters)}"
            )
        index = max((top for made, top in self.commits_of_term.items() if made < term), default=0)
        if index and (held := term_at(index)) != self.committed_terms[index] and held is not None:
            self._fail(
                f"leader completeness: {name} leads term {term} with an entry of term {held or 'none'} at {index}, "
                f"committed there is one of term {self.committed_terms[index]}"
            )

    def commits(
        self,
        name: str,
        term: int,
        first: int,
        last: int,
        voters: Collection[int],
        term_at: Callable[[int], int | None],
    ) -> None:
        """The leader `name` of `term` commits entries [first, last] of its log."""
        for index in range(first, last + 1):
            entry_term = term_at(index)
            if entry_term is None:
                continue
            known = self.committed_terms.setdefault(index, entry_term)
            if known != entry_term:
                self._fail(
                    f"state machine safety: {name} commits entry {index} of term {entry_term} in term {term}, "
                    f"committed there is one of term {known}"
                )
        entry_term = term_at(last)
        holders = []
        for voter in voters:
            disk = self.disks.get(voter)
            if disk is not None and entry_term is not None and disk.holds(last, entry_term):
                holders.append(voter)
        if len(holders) * 2 <= len(voters):
            self._fail(
                f"durability: {name} commits entry {last} of term {entry_term} in term {term}, it is on the disks of "
                f"{sorted(holders)} of the voters {sorted(voters)}"
            )
        self.commits_of_term[term] = last
        if last > self.committed_max:
            self.committed_max = last

    def believes_committed(self, name: str, index: int, held: int | None) -> None:
        """A node that does not lead takes `index` for committed; `held`: the term of its entry there."""
        if index > self.committed_max:
            self._fail(
                f"commit index: {name} takes entry {index} for committed, no leader committed more than "
                f"{self.committed_max}"
            )
        known = self.committed_terms.get(index)
        if held is not None and known is not None and held != known:
            self._fail(
                f"commit index: {name} takes its entry {index} of term {held} for committed, that one has term {known}"
            )

    # -- logs ----------------------------------------------------------------------------------------------

    def appends(self, name: str, entries: Sequence[Entry], previous_term: int | None) -> None:
        """`name` takes `entries` into its log behind an entry of `previous_term` (None: not known)."""
        logged = self.logged
        for index, term, kind, payload in entries:
            if previous_term is not None:
                told = (kind, payload, previous_term)
                known = logged.setdefault((index, term), told)
                if known != told:
                    self._fail(
                        f"log matching: entry {index} of term {term} at {name} is {_brief(told)}, elsewhere "
                        f"{_brief(known)}"
                    )
            previous_term = term

    def hands_out(self, name: str, entry: Entry) -> bool:
        """`name` gives `entry` to its databases; True when nobody did before."""
        known = self.handed_out.get(entry.index)
        if known is None:
            self.handed_out[entry.index] = entry
            self.believes_committed(name, entry.index, entry.term)
            return True
        if known != entry:
            self._fail(
                f"state machine safety: {name} applies {_brief(entry)} at {entry.index}, another node {_brief(known)}"
            )
        return False

    # -- databases -----------------------------------------------------------------------------------------

    def state(self, name: str, database: str, index: int, value: int) -> None:
        """The state of `database` at `name` after entry `index` has the hash `value`."""
        known = self.hashes.setdefault((database, index), (value, name))
        if known[0] != value:
            self._fail(
                f"equal states: {database} after entry {index} is {value:016x} at {name}, {known[0]:016x} at {known[1]}"
            )
        if index > self.committed_max:
            self._fail(
                f"applied index: {name} applied entry {index} to {database}, committed is {self.committed_max}"
            )

    def applied_here(self, name: str, node: int, index: int) -> None:
        """`name` applied entry `index` in this life."""
        last = self.disks[node].last
        if index > last:
            self._fail(f"applied index: {name} applied entry {index}, its disk ends at {last}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _told(batches: Sequence[JournalBatch] | None) -> str:
    if not batches:
        return "nothing"
    return "; ".join(
        f"reset {b.reset} hard state {b.hard_state and tuple(b.hard_state)} cut {b.truncate_from} "
        f"entries {[e.index for e in b.entries][:8]}"
        for b in batches
    )
