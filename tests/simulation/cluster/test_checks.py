"""Every property of the checks fails when it is broken: fabricated sequences, one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Term
from dqlite_py.raft.journal import JournalBatch
from tests.simulation.cluster.checks import Checks
from tests.simulation.cluster.checks_clients import ClientFacts, tags_of
from tests.simulation.cluster.checks_consensus import ConsensusFacts, DurableLog
from tests.simulation.cluster.checks_state import StateWatch
from tests.simulation.cluster.clients import INSERT, SET, Operation
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
    for terms in ([1, 1, 1], [1, 1, 2]):
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


# -- clients ------------------------------------------------------------------------------------------------


def unit_entry(index: int, *ops: tuple[int, int], register: int = 1) -> Entry:
    units = [encode_unit([(INSERT, (*op, "f")), (SET, (register, *op))]) for op in ops]
    return entry(index, 1, encode_units("sim", 1, bytes(16), None, units))


def operation(
    op: tuple[int, int], outcome: str = "acknowledged", kind: str = "write", **more: Any
) -> Operation:
    made = Operation(op[0], op[1], kind, 1, "n1", 0.0)
    made.outcome = outcome
    made.result = more.get("result")
    return made


def read(clients: ClientFacts, number: int, result: tuple[int, int] | None) -> None:
    made = operation((9, number), kind="read", result=result)
    clients.began(made)
    clients.ended(made)


def contents(*ops: tuple[int, int]) -> dict[str, list[Any]]:
    return {"ops": list(ops), "registers": [(1, *ops[-1])] if ops else []}


def test_units_are_recognised_in_entries() -> None:
    assert tags_of(unit_entry(7, (1, 1), (2, 5), register=3)) == [((1, 1), 3), ((2, 5), 3)]
    other = encode_units("sim", 1, bytes(16), None, [encode_unit([("CREATE TABLE t(x)", ())])])
    assert tags_of(entry(8, 1, other)) == []


def test_sound_operations_pass() -> None:
    clients = ClientFacts(fail)
    clients.committed(unit_entry(4, (1, 1), (2, 1)))
    clients.ended(operation((1, 1)))
    clients.ended(operation((2, 1), "unknown"))
    clients.ended(operation((3, 1), "failed"))
    read(clients, 1, (2, 1))
    clients.final({name: contents((1, 1), (2, 1)) for name in ("n1", "n2")})
    assert clients.reads == 1


def a_write_that_is_nowhere(clients: ClientFacts) -> None:
    clients.ended(operation((1, 2)))


def a_failed_write_that_is_there(clients: ClientFacts) -> None:
    clients.ended(operation((1, 1), "failed"))


def a_failed_write_that_comes_later(clients: ClientFacts) -> None:
    clients.ended(operation((1, 2), "failed"))
    clients.committed(unit_entry(5, (1, 2)))


def a_write_done_twice(clients: ClientFacts) -> None:
    clients.committed(unit_entry(5, (1, 1)))


def a_stale_read_after_a_write(clients: ClientFacts) -> None:
    clients.ended(operation((2, 1)))
    read(clients, 1, (1, 1))


def an_empty_read_after_a_write(clients: ClientFacts) -> None:
    clients.ended(operation((1, 1)))
    read(clients, 1, None)


def a_read_that_goes_back(clients: ClientFacts) -> None:
    read(clients, 1, (2, 1))
    read(clients, 2, (1, 1))


def a_read_of_nothing_known(clients: ClientFacts) -> None:
    read(clients, 1, (7, 7))


def an_acknowledged_write_lost_at_the_end(clients: ClientFacts) -> None:
    clients.ended(operation((1, 1)))
    clients.final({"n1": contents((2, 1))})


def a_row_twice_at_the_end(clients: ClientFacts) -> None:
    clients.final({"n1": contents((1, 1), (1, 1), (2, 1))})


def an_unexplained_row_at_the_end(clients: ClientFacts) -> None:
    clients.final({"n1": contents((1, 1), (3, 3), (2, 1))})


def a_failed_row_at_the_end(clients: ClientFacts) -> None:
    clients.ended(operation((1, 2), "failed"))
    clients.final({"n1": contents((1, 1), (1, 2), (2, 1))})


def an_uncertain_committed_write_missing_at_the_end(clients: ClientFacts) -> None:
    clients.final({"n1": contents((2, 1))})


def a_register_of_an_older_write_at_the_end(clients: ClientFacts) -> None:
    clients.final({"n1": {"ops": [(1, 1), (2, 1)], "registers": [(1, 1, 1)]}})


@pytest.mark.parametrize(
    "breaks",
    [
        a_write_that_is_nowhere,
        a_failed_write_that_is_there,
        a_failed_write_that_comes_later,
        a_write_done_twice,
        a_stale_read_after_a_write,
        an_empty_read_after_a_write,
        a_read_that_goes_back,
        a_read_of_nothing_known,
        an_acknowledged_write_lost_at_the_end,
        a_row_twice_at_the_end,
        an_unexplained_row_at_the_end,
        a_failed_row_at_the_end,
        an_uncertain_committed_write_missing_at_the_end,
        a_register_of_an_older_write_at_the_end,
    ],
    ids=lambda breaks: str(breaks.__name__),
)
def test_a_broken_promise_to_clients_is_noticed(breaks: Callable[[ClientFacts], None]) -> None:
    clients = ClientFacts(fail)
    clients.committed(unit_entry(4, (1, 1), (2, 1)))
    with pytest.raises(SafetyViolation):
        breaks(clients)


# -- the whole ------------------------------------------------------------------------------------------------


def test_a_violation_is_kept_and_told_once() -> None:
    told: list[SafetyViolation] = []
    checks = Checks(on_violation=told.append)
    checks.now = lambda: 1.5
    for message in ("first", "second"):
        with pytest.raises(SafetyViolation):
            checks.fail(message)
    assert [str(error) for error in told] == ["at 1.500000 s: first"]
    with pytest.raises(SafetyViolation, match="first"):
        checks.raise_if_broken()


def test_what_a_damaged_machine_answers_proves_nothing() -> None:
    checks = Checks()
    checks.damaged("n1")
    told = operation((1, 2))  # acknowledged, and in no log
    checks.operation_began(told)
    checks.operation_ended(told)
    checks.wiped("n1")
    assert not checks.may_be_damaged("n1")
    with pytest.raises(SafetyViolation):
        checks.operation_ended(operation((1, 3)))


def test_damage_of_one_machine_excuses_no_other() -> None:
    known = facts(last=3)
    watch = StateWatch(known, fail)
    known.state("n1", "db", 3, 1)
    watch.damage("n2")
    watch._note("n2", "db", 3, 2)
    assert watch._wrong
    with pytest.raises(SafetyViolation):
        known.state("n3", "db", 3, 2)
    watch.sound("n2")
    assert not watch._wrong
