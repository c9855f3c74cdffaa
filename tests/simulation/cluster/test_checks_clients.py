"""What clients are told: every promise fails when it is broken; and the checks as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from dqlite_py.command import (
    encode_drop,
    encode_open,
    encode_statements,
    encode_unit,
    encode_units,
    stamp_unit,
)
from dqlite_py.limits import SESSION_AHEAD_US
from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Term, WriteKey
from dqlite_py.resultcodes import SESSION_EXPIRED
from tests.simulation.cluster.checks import Checks
from tests.simulation.cluster.checks_clients import ClientFacts, tag_of
from tests.simulation.cluster.checks_consensus import ConsensusFacts, DurableLog
from tests.simulation.cluster.checks_sessions import SessionFacts
from tests.simulation.cluster.checks_state import StateWatch
from tests.simulation.cluster.clients import INSERT, SET, Operation
from tests.simulation.raft_world import SafetyViolation


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


def entry(index: int, term: int, payload: bytes) -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload)


def opened(database: str) -> ClientFacts:
    """Facts of a log that begins with a database."""
    clients = ClientFacts(fail)
    clients.committed(entry(1, 1, encode_open(database, 0)))
    return clients


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
    facts = SessionFacts()
    assert not list(facts.effective(unit_entry(5, (1, 1))))  # there is no database
    assert not list(facts.effective(entry(6, 1, encode_open("sim", 0))))
    found = list(facts.effective(unit_entry(7, (1, 1), (2, 5), register=3)))
    assert [tag_of(statements) for _, statements in found] == [((1, 1), 3), ((2, 5), 3)]
    other = encode_units("sim", 1, bytes(16), None, [encode_unit([("CREATE TABLE t(x)", ())])])
    assert [tag_of(statements) for _, statements in facts.effective(entry(8, 1, other))] == [None]


def keyed_entry(index: int, op: tuple[int, int], key: WriteKey) -> Entry:
    body = encode_statements([(INSERT, (*op, "f")), (SET, (1, *op))])
    return entry(index, 1, encode_units("sim", 1000, bytes(16), None, [stamp_unit(body, key)]))


def test_a_write_with_a_key_may_be_in_the_log_again() -> None:
    clients = opened("sim")
    ours, other = WriteKey(b"s" * 16, 5), WriteKey(b"t" * 16, 5)
    clients.committed(keyed_entry(4, (1, 1), ours))
    clients.committed(keyed_entry(5, (1, 1), ours))
    assert clients.sessions.repeated == 1
    clients.final({"n1": contents((1, 1))})
    with pytest.raises(SafetyViolation, match="exactly once"):
        clients.committed(keyed_entry(6, (1, 1), other))


def test_a_key_ahead_of_log_time_has_no_effect() -> None:
    clients = opened("sim")
    clients.committed(keyed_entry(4, (1, 1), WriteKey(b"s" * 16, 1001 + SESSION_AHEAD_US)))
    clients.committed(keyed_entry(5, (1, 1), WriteKey(b"t" * 16, 5)))
    clients.final({"n1": contents((1, 1))})


def test_a_key_from_before_its_database_was_made_has_no_effect() -> None:
    clients = opened("sim")
    key, newer = WriteKey(b"s" * 16, 5), WriteKey(b"t" * 16, 8)
    clients.committed(keyed_entry(4, (1, 1), key))
    for index, command in (
        (5, encode_drop("sim", 6)),
        (6, encode_open("sim", 7)),
        (7, encode_open("sim", 9)),
    ):
        clients.committed(entry(index, 1, command))
    clients.committed(refused := keyed_entry(8, (1, 1), key))
    expired = [[SESSION_EXPIRED, "out of time", 0]]
    assert clients.sessions.disagreement(refused, expired) is None
    assert clients.sessions.disagreement(refused, [[0, []]]) is not None
    clients.committed(keyed_entry(9, (2, 1), newer))
    assert clients.sessions.repeated == 1
    assert clients.places[1, 1].order == (4, 0)
    assert clients.places[2, 1].order == (9, 0)


def test_sound_operations_pass() -> None:
    clients = opened("sim")
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
    clients = opened("sim")
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


def test_damage_is_no_excuse_for_a_wrong_answer() -> None:
    checks = Checks()
    checks.damaged("n1")
    told = operation((1, 2))  # acknowledged, and in no log
    checks.operation_began(told)
    with pytest.raises(SafetyViolation):
        checks.operation_ended(told)
    checks.wiped("n1")
    assert not checks.may_be_damaged("n1")


def test_damage_of_one_machine_excuses_no_other() -> None:
    known = ConsensusFacts(fail)
    known.started("n1", 1, DurableLog(0, 0, [1, 1, 1], HardState(Term(1), NodeId(0))), (0, 0))
    known.commits("n1", 1, 1, 3, [1], lambda _index: 1)
    watch = StateWatch(known, fail)
    known.state("n1", "db", 3, 1)
    watch.damage("n2")
    watch._note("n2", "db", 3, 2)
    assert watch._wrong
    with pytest.raises(SafetyViolation):
        known.state("n3", "db", 3, 2)
    watch.sound("n2")
    assert not watch._wrong
