"""Every property of consensus in checks_consensus fails when it is broken: fabricated sequences, one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Term
from dqlite_py.raft.journal import JournalBatch
from tests.simulation.cluster.checks_consensus import ConsensusFacts, DurableLog
from tests.simulation.raft_world import SafetyViolation

A, B, C = 1, 2, 3
VOTERS = (A, B, C)


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


def hard(term: int, vote: int = 0) -> HardState:
    return HardState(Term(term), NodeId(vote))


def entry(index: int, term: int, payload: bytes = b"x") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload)


def entries(first: int, last: int, term: int) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def facts(last: int = 0, term: int = 1) -> ConsensusFacts:
    """Three nodes whose disks hold `last` entries of `term`, all committed by A."""
    known = ConsensusFacts(fail)
    for node in VOTERS:
        known.started(f"n{node}", node, DurableLog(0, 0, [term] * last, hard(term)), (0, 0))
    if last:
        known.commits("n1", term, 1, last, VOTERS, lambda _index: term)
    return known


def restarted(known: ConsensusFacts, node: int, terms: list[int], state: HardState, **more: Any) -> None:
    known.started(f"n{node}", node, DurableLog(0, 0, terms, state), more.pop("snapshot", (0, 0)), **more)


# -- a life like it should be ---------------------------------------------------------------------------------


def test_a_sound_history_passes() -> None:
    known = facts(last=3)
    for node in (A, B):
        known.written(f"n{node}", node, [JournalBatch(hard_state=hard(2, A))])
        known.reveals(f"n{node}", node, 2)
        known.grants(f"n{node}", node, A, 2)
    known.leads("n1", A, 2, VOTERS, lambda index: 1 if index <= 3 else 0)
    for node in (A, B):
        known.appends(f"n{node}", entries(4, 5, 2), 1)
        known.written(f"n{node}", node, [JournalBatch(entries=entries(4, 5, 2))])
    known.acknowledges("n2", B, 5, 2, 2)
    known.counts("n1", 2, B, 5)
    known.commits("n1", 2, 4, 5, VOTERS, lambda index: 2 if index > 3 else 1)
    known.believes_committed("n2", 5, 2)
    assert known.hands_out("n1", entry(4, 2))
    assert not known.hands_out("n2", entry(4, 2))
    known.state("n1", "db", 4, 77)
    known.applied_here("n1", A, 4)
    known.state("n2", "db", 4, 77)
    restarted(known, B, [1, 1, 1, 2, 2], hard(2, A))


def test_a_crash_keeps_or_loses_what_was_being_written() -> None:
    for terms in ([1, 1, 1], [1, 1, 2], [1, 1]):
        known = facts(last=3)
        known.disks[A].pending = [JournalBatch(truncate_from=3, entries=[entry(3, 2)])]
        restarted(known, A, terms, hard(1))


def test_a_compacted_log_is_the_same_log() -> None:
    known = facts(last=4)
    known.disks[A].compact(2)
    assert known.disks[A].holds(1, 9)  # in the state, whatever it was
    known.started("n1", A, DurableLog(3, 1, [1], hard(1)), (3, 1))
    assert known.disks[A].term_at(2) is None


def test_a_log_that_begins_anew_behind_an_installed_state() -> None:
    known = facts(last=9)
    restarted_at = DurableLog(8, 1, [], hard(1))
    known.started("n1", A, restarted_at, (8, 1))


def test_runs_of_terms_become_terms() -> None:
    log = DurableLog.of_runs(2, 1, 7, [(1, 1), (4, 2), (7, 5), (9, 6)], hard(5))
    assert (log.base, log.terms, log.last) == (2, [1, 2, 2, 2, 5], 7)
    assert [log.term_at(index) for index in (1, 2, 3, 7, 8)] == [None, 1, 1, 5, None]


# -- each property broken -------------------------------------------------------------------------------------


def two_leaders(known: ConsensusFacts) -> None:
    for node in VOTERS:
        known.votes[node, 5] = A
    known.leads("n1", A, 5, VOTERS, lambda _index: 1)
    known.leads("n2", B, 5, VOTERS, lambda _index: 1)


def leader_without_votes(known: ConsensusFacts) -> None:
    known.votes[A, 5] = A
    known.leads("n1", A, 5, VOTERS, lambda _index: 1)


def leader_without_a_committed_entry(known: ConsensusFacts) -> None:
    for node in VOTERS:
        known.votes[node, 5] = B
    known.leads("n2", B, 5, VOTERS, lambda index: 1 if index < 3 else 0)


def two_votes_in_a_term(known: ConsensusFacts) -> None:
    known.written("n3", C, [JournalBatch(hard_state=hard(4, A))])
    known.written("n3", C, [JournalBatch(hard_state=hard(4, B))])


def vote_forgotten(known: ConsensusFacts) -> None:
    known.written("n3", C, [JournalBatch(hard_state=hard(4, A))])
    restarted(known, C, [1, 1, 1], hard(4))


def term_forgotten(known: ConsensusFacts) -> None:
    known.written("n3", C, [JournalBatch(hard_state=hard(4))])
    restarted(known, C, [1, 1, 1], hard(3))


def vote_told_from_memory(known: ConsensusFacts) -> None:
    known.grants("n3", C, A, 4)


def second_vote_hidden_by_a_later_term(known: ConsensusFacts) -> None:
    known.written("n3", C, [JournalBatch(hard_state=hard(6))])
    known.grants("n3", C, A, 4)
    known.grants("n3", C, B, 4)


def term_told_from_memory(known: ConsensusFacts) -> None:
    known.reveals("n3", C, 2)


def acknowledged_from_memory(known: ConsensusFacts) -> None:
    known.acknowledges("n3", C, 4, 1, None)


def acknowledged_another_leaders_entry(known: ConsensusFacts) -> None:
    known.acknowledges("n3", C, 3, 1, 2)


def counted_what_was_not_acknowledged(known: ConsensusFacts) -> None:
    known.acknowledges("n3", C, 3, 1, 1)
    known.counts("n1", 2, C, 3)


def committed_without_a_majority_of_disks(known: ConsensusFacts) -> None:
    known.written("n1", A, [JournalBatch(entries=[entry(4, 1)])])
    known.commits("n1", 1, 4, 4, VOTERS, lambda _index: 1)


def two_entries_committed_at_an_index(known: ConsensusFacts) -> None:
    known.commits("n2", 2, 3, 3, VOTERS, lambda _index: 2)


def commit_index_beyond_all(known: ConsensusFacts) -> None:
    known.believes_committed("n3", 4, 1)


def commit_index_over_another_entry(known: ConsensusFacts) -> None:
    known.believes_committed("n3", 3, 2)


def two_payloads_at_an_index_and_term(known: ConsensusFacts) -> None:
    known.appends("n1", [entry(4, 2, b"a")], 1)
    known.appends("n2", [entry(4, 2, b"b")], 1)


def two_predecessors_of_an_entry(known: ConsensusFacts) -> None:
    known.appends("n1", [entry(4, 2)], 1)
    known.appends("n2", [entry(4, 2)], 2)


def two_entries_applied_at_an_index(known: ConsensusFacts) -> None:
    known.hands_out("n1", entry(3, 1, b"a"))
    known.hands_out("n2", entry(3, 1, b"b"))


def applied_before_it_is_committed(known: ConsensusFacts) -> None:
    known.hands_out("n1", entry(4, 1))


def states_differ(known: ConsensusFacts) -> None:
    known.state("n1", "db", 3, 1)
    known.state("n2", "db", 3, 2)


def state_ahead_of_the_commit_index(known: ConsensusFacts) -> None:
    known.state("n1", "db", 4, 1)


def applied_beyond_the_own_disk(known: ConsensusFacts) -> None:
    known.applied_here("n1", A, 4)


def durable_entries_lost(known: ConsensusFacts) -> None:
    restarted(known, A, [1, 1], hard(1))


def durable_entries_changed(known: ConsensusFacts) -> None:
    restarted(known, A, [1, 1, 2], hard(2))


def entries_from_nowhere(known: ConsensusFacts) -> None:
    restarted(known, A, [1, 1, 1, 1], hard(1))


def state_from_nowhere(known: ConsensusFacts) -> None:
    restarted(known, A, [1, 1, 1], hard(1), snapshot=(4, 1))


def old_damage_swallowed(known: ConsensusFacts) -> None:
    known.written("n1", A, [JournalBatch(entries=entries(4, 6, 1))])
    restarted(known, A, [1, 1], hard(1), damaged=True)


BROKEN: list[Callable[[ConsensusFacts], None]] = [
    two_leaders,
    leader_without_votes,
    leader_without_a_committed_entry,
    two_votes_in_a_term,
    vote_forgotten,
    term_forgotten,
    vote_told_from_memory,
    second_vote_hidden_by_a_later_term,
    term_told_from_memory,
    acknowledged_from_memory,
    acknowledged_another_leaders_entry,
    counted_what_was_not_acknowledged,
    committed_without_a_majority_of_disks,
    two_entries_committed_at_an_index,
    commit_index_beyond_all,
    commit_index_over_another_entry,
    two_payloads_at_an_index_and_term,
    two_predecessors_of_an_entry,
    two_entries_applied_at_an_index,
    applied_before_it_is_committed,
    states_differ,
    state_ahead_of_the_commit_index,
    applied_beyond_the_own_disk,
    durable_entries_lost,
    durable_entries_changed,
    entries_from_nowhere,
    state_from_nowhere,
    old_damage_swallowed,
]


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: str(breaks.__name__))
def test_a_broken_promise_is_noticed(breaks: Callable[[ConsensusFacts], None]) -> None:
    with pytest.raises(SafetyViolation):
        breaks(facts(last=3))


def test_the_newest_write_may_be_lost_to_damage() -> None:
    known = facts(last=3)
    known.written("n1", A, [JournalBatch(entries=entries(4, 6, 1))])
    restarted(known, A, [1, 1, 1], hard(1), damaged=True)
