"""What callers of transactions are told, and what transactions read: every promise fails when it is broken."""

from __future__ import annotations

from typing import NoReturn

import pytest

from dqlite_py.command import encode_open, encode_statements, encode_unit, encode_units
from dqlite_py.model import Entry, EntryKind, LogIndex, Term, WriteKey
from dqlite_py.units import transaction_unit
from tests.simulation.cluster.checks_clients import ClientFacts
from tests.simulation.cluster.checks_transactions import (
    ADD,
    ADDED,
    READ,
    STEP,
    STORE,
    Transacted,
    TransactionFacts,
)
from tests.simulation.cluster.world import World
from tests.simulation.raft_world import SafetyViolation


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


def entry(index: int, unit: bytes, term: int = 1) -> Entry:
    payload = encode_units("first", 1, bytes(16), None, [unit])
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload)


def step_entry(index: int, number: int, seen: int, value: int | None = None) -> Entry:
    written = seen + 1 if value is None else value
    groups = [
        encode_statements([(READ, (1,))]),
        encode_statements([(STEP, (1, number, 1, seen, written)), (STORE, (1, written))]),
    ]
    return entry(index, transaction_unit(groups, bytes(8), WriteKey(bytes(15) + b"t", number)))


def transacted(number: int, outcome: str) -> Transacted:
    return Transacted(1, number, "immediate", "first", 1, "n1", outcome)


@pytest.fixture
def clients() -> ClientFacts:
    clients = ClientFacts(fail)
    clients.committed(Entry(LogIndex(0), Term(1), EntryKind.COMMAND, encode_open("first", 0)))
    return clients


@pytest.fixture
def facts(clients: ClientFacts) -> TransactionFacts:
    return clients.transactions


def test_sound_histories_pass(clients: ClientFacts, facts: TransactionFacts) -> None:
    clients.committed(step_entry(1, 1, 0))
    facts.ended(transacted(1, "acknowledged"))
    clients.committed(entry(2, encode_unit([(ADD, (1,)), (ADDED, (1, 2, 1))])))
    facts.ended(transacted(2, "unknown"))
    begun = transacted(3, "pending")
    facts.began(begun)
    facts.read(begun, 2)
    clients.committed(step_entry(3, 3, 2))
    facts.ended(transacted(4, "failed"))
    steps = [(1, 1, 1, 0, 1), (1, 2, 1, 1, 2), (1, 3, 1, 2, 3)]
    facts.final("n1", "first", steps, {1: 3})
    with pytest.raises(SafetyViolation, match=r"holds the steps \(2 instead of 3\)"):
        facts.final("n1", "first", steps[:2], {1: 3})
    with pytest.raises(SafetyViolation, match="holds the counters"):
        facts.final("n1", "first", steps, {1: 2})


@pytest.mark.parametrize(("seen", "value"), [(0, 1), (2, 3), (1, 3)], ids=["lost", "unseen", "wrong"])
def test_a_read_is_the_state_at_its_place(clients: ClientFacts, seen: int, value: int) -> None:
    clients.committed(step_entry(1, 1, 0))
    with pytest.raises(SafetyViolation, match="strict serializability: transaction"):
        clients.committed(step_entry(2, 2, seen, value))


def test_a_transaction_is_there_once(clients: ClientFacts) -> None:
    clients.committed(step_entry(1, 1, 0))
    with pytest.raises(SafetyViolation, match="exactly once"):
        clients.committed(entry(2, encode_unit([(ADD, (1,)), (ADDED, (1, 1, 1))])))


def test_what_failed_is_nowhere(clients: ClientFacts, facts: TransactionFacts) -> None:
    facts.ended(transacted(1, "failed"))
    with pytest.raises(SafetyViolation, match="nothing of it happened"):
        clients.committed(step_entry(1, 1, 0))
    with pytest.raises(SafetyViolation, match="acknowledged never lost"):
        facts.ended(transacted(2, "acknowledged"))
    clients.committed(step_entry(2, 3, 0))
    with pytest.raises(SafetyViolation, match="is committed at entry 2"):
        facts.ended(transacted(3, "failed"))


@pytest.mark.parametrize("value", [0, 2], ids=["old", "of-nobody"])
def test_a_read_in_a_transaction_is_fresh(clients: ClientFacts, facts: TransactionFacts, value: int) -> None:
    clients.committed(step_entry(1, 1, 0))
    facts.ended(transacted(1, "acknowledged"))
    begun = transacted(2, "pending")
    facts.began(begun)
    with pytest.raises(SafetyViolation, match=f"reads {value} in"):
        facts.read(begun, value)


def test_fences_of_later_terms_are_counted(clients: ClientFacts) -> None:
    clients.committed(step_entry(1, 1, 0))
    fence = b"\x93\xc4\x10" + bytes(15) + b"t" + b"\x01\x90"
    clients.committed(entry(2, fence))
    assert clients.sessions.fenced == 0
    clients.committed(entry(3, fence, term=2))
    assert clients.sessions.fenced == 1


def test_worlds_without_transactions_have_no_tables_for_them() -> None:
    with World.open(22, node_count=1, only=[]) as world:
        assert bool(world.transacting) == bool(world.scale.transactions_per_s)
