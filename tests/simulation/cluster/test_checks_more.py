"""Databases that come and go, stale reads, members: every promise fails when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from dqlite_py.command import (
    encode_drop,
    encode_open,
    encode_statements,
    encode_unit,
    encode_units,
    stamp_unit,
)
from dqlite_py.model import (
    Address,
    Configuration,
    Entry,
    EntryKind,
    LogIndex,
    Member,
    NodeId,
    Role,
    Term,
    WriteKey,
)
from dqlite_py.raft.membership import encode_configuration
from tests.simulation.cluster.checks_members import MemberFacts
from tests.simulation.cluster.checks_scratch import MAKE, MARK, SCRATCH, Asked, ScratchFacts
from tests.simulation.cluster.checks_stale import StaleFacts
from tests.simulation.raft_world import SafetyViolation

NAME = SCRATCH[0]


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


# -- databases that come and go ----------------------------------------------------------------------------------


class Scratch:
    """Facts, and a log to feed them with."""

    def __init__(self) -> None:
        self.facts = ScratchFacts(fail)
        self.index = 10
        self.number = 0

    def entry(self, payload: bytes) -> int:
        self.index += 1
        self.facts.committed(Entry(LogIndex(self.index), Term(1), EntryKind.COMMAND, payload))
        return self.index

    def opened(self) -> None:
        self.entry(encode_open(NAME, 1))

    def dropped(self) -> None:
        self.entry(encode_drop(NAME, 1))

    def written(self, number: int) -> None:
        unit = encode_unit([(MAKE, ()), (MARK, (1, number, b""))])
        self.entry(encode_units(NAME, 1, bytes(16), None, [unit]))

    def ask(self, kind: str) -> Asked:
        self.number += 1
        asked = Asked(1, self.number, kind, NAME, "n1")
        self.facts.began(asked)
        return asked

    def end(self, asked: Asked, outcome: str = "acknowledged", error: str = "") -> None:
        asked.outcome, asked.error = outcome, error
        self.facts.ended(asked)

    def open(self) -> None:
        asked = self.ask("open")
        self.opened()
        self.end(asked)

    def drop(self) -> None:
        asked = self.ask("drop")
        self.dropped()
        self.end(asked)

    def write(self, outcome: str = "acknowledged") -> Asked:
        asked = self.ask("write")
        self.written(asked.number)
        self.end(asked, outcome)
        return asked

    def read(self, result: tuple[int, int] | None, outcome: str = "acknowledged", error: str = "") -> None:
        asked = self.ask("read")
        asked.result = result
        self.end(asked, outcome, error)


def keyed(log: Scratch, number: int, key: WriteKey, now_us: int) -> None:
    unit = stamp_unit(encode_statements([(MAKE, ()), (MARK, (1, number, b""))]), key)
    log.entry(encode_units(NAME, now_us, bytes(16), None, [unit]))


def test_a_write_that_is_sent_again_has_no_effect_in_a_later_life() -> None:
    log = Scratch()
    log.open()
    asked, key = log.ask("write"), WriteKey(b"s" * 16, 5)
    keyed(log, asked.number, key, 6)
    keyed(log, asked.number, key, 7)
    log.end(asked)
    log.drop()
    keyed(log, asked.number, key, 8)
    again = log.ask("open")
    log.entry(encode_open(NAME, 9))
    log.end(again)
    keyed(log, asked.number, key, 10)
    log.facts.final({"n1": {NAME: []}})
    with pytest.raises(SafetyViolation, match="committed again"):
        keyed(log, asked.number, WriteKey(b"t" * 16, 10), 11)


def test_lives_of_a_scratch_database_pass() -> None:
    log = Scratch()
    log.write("failed")  # there is no database: no effect
    log.open()
    first = log.write()
    log.read(first.op)
    log.drop()
    log.read(None, "failed", "no such database")
    log.open()
    log.read(None, "failed", "no such table")
    second = log.write("unknown")
    log.facts.final({"n1": {NAME: [second.op]}, "n2": {NAME: [second.op]}})
    assert log.facts.lives == 2


def _void(log: Scratch) -> None:
    log.write()


def _failed_write(log: Scratch) -> None:
    log.open()
    log.write("failed")


def _failed_write_later(log: Scratch) -> None:
    log.open()
    asked = log.ask("write")
    log.end(asked, "failed")
    log.written(asked.number)


def _twice(log: Scratch) -> None:
    log.open()
    log.written(log.write().number)


def _failed_open(log: Scratch) -> None:
    log.end(log.ask("open"), "failed")
    log.opened()


def _failed_drop(log: Scratch) -> None:
    asked = log.ask("drop")
    log.dropped()
    log.end(asked, "failed")


def _open_nowhere(log: Scratch) -> None:
    log.end(log.ask("open"))


def _old_read(log: Scratch) -> None:
    log.open()
    before = log.write()
    log.write()
    log.read(before.op)


def _read_of_another_life(log: Scratch) -> None:
    log.open()
    before = log.write()
    log.drop()
    log.read(before.op)


def _read_that_finds_nothing(log: Scratch) -> None:
    log.open()
    log.write()
    log.read(None, "failed", "OperationalError: no such table: marks")


def _survivor(log: Scratch) -> None:
    log.facts.final({"n1": {NAME: []}})


def _row_of_another_life(log: Scratch) -> None:
    log.open()
    before = log.write()
    log.drop()
    log.open()
    log.facts.final({"n1": {NAME: [before.op]}})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (_void, "has no effect"),
        (_failed_write, "certainly failed"),
        (_failed_write_later, "certainly failed"),
        (_twice, "committed again"),
        (_failed_open, "told it failed"),
        (_failed_drop, "is in the log"),
        (_open_nowhere, "no entry says so"),
        (_old_read, "linearizable reads"),
        (_read_of_another_life, "linearizable reads"),
        (_read_that_finds_nothing, "nobody dropped it"),
        (_survivor, "exists at n1"),
        (_row_of_another_life, "holds"),
    ],
)
def test_a_broken_promise_about_a_scratch_database(wrong: Callable[[Scratch], None], what: str) -> None:
    with pytest.raises(SafetyViolation, match=what):
        wrong(Scratch())


# -- stale reads ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stale() -> StaleFacts:
    """Writes (1, 1) and (1, 3) of register 0, (2, 2) of register 1 between them."""
    facts = StaleFacts(fail)
    for op, register in (((1, 1), 0), ((2, 2), 1), ((1, 3), 0)):
        facts.committed("first", op, register, op[1])
    return facts


PREFIXES = (
    ((-1, 0, 0),),
    ((-1, 1, 0), (0, 1, 1)),
    ((-1, 2, 0), (0, 1, 1), (1, 2, 2)),
    ((-1, 3, 0), (0, 1, 3), (1, 2, 2)),
)


def test_prefixes_in_their_order_pass(stale: StaleFacts) -> None:
    for state in (PREFIXES[0], *PREFIXES, PREFIXES[3]):
        stale.read("n1", 1, "first", state, stale.floor("n1", 1, "first"))
    assert stale.floor("n1", 2, "first") == 0  # another life may show less


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (((-1, 4, 0), (0, 1, 3), (1, 2, 2)), "the log has 3"),
        (((-1, 3, 0), (0, 1, 1), (1, 2, 2)), "after them it was"),
        (((-1, 2, 0), (0, 1, 1)), "after them it was"),
        (PREFIXES[1], "has shown 2"),
    ],
)
def test_a_stale_read_of_no_state(
    stale: StaleFacts, state: tuple[tuple[int, int, int], ...], what: str
) -> None:
    stale.read("n1", 1, "first", PREFIXES[2], 0)
    with pytest.raises(SafetyViolation, match=what):
        stale.read("n1", 1, "first", state, stale.floor("n1", 1, "first"))


# -- members -------------------------------------------------------------------------------------------------------


def member(node: int, role: Role = Role.VOTER, port: int = 1) -> Member:
    return Member(NodeId(node), Address(f"h{node}:{port}"), role)


class Members:
    def __init__(self) -> None:
        self.facts = MemberFacts(fail)
        self.index = 0
        for node in (1, 2):
            self.facts.lives_at(node, f"h{node}:1")
        self.committed(member(1))
        self.committed(member(1), member(2, Role.STANDBY))
        self.committed(member(1), member(2))

    def committed(self, *members: Member) -> None:
        self.index += 1
        payload = encode_configuration(Configuration(members))
        self.facts.committed(Entry(LogIndex(self.index), Term(1), EntryKind.CONFIGURATION, payload))


def test_changes_that_were_asked_for_pass() -> None:
    log = Members()
    log.facts.lives_at(2, "h2:2")
    log.committed(member(1), member(2, port=2))
    log.facts.final({1: "h1:1", 2: "h2:2"})
    unknown, done = log.facts.removal_began(2), log.facts.removal_began(2)
    log.facts.removal_ended(unknown, "unknown")
    log.committed(member(1))
    log.facts.removal_ended(done, "acknowledged")
    log.facts.removal_ended(log.facts.removal_began(2), "failed")


def _unasked(log: Members) -> None:
    log.committed(member(1))


def _failed_removal_later(log: Members) -> None:
    log.facts.removal_ended(log.facts.removal_began(2), "failed")
    log.committed(member(1))


def _failed_removal(log: Members) -> None:
    request = log.facts.removal_began(2)
    log.committed(member(1))
    log.facts.removal_ended(request, "failed")


def _removal_nowhere(log: Members) -> None:
    log.facts.removal_ended(log.facts.removal_began(2), "acknowledged")
    log.facts.final({1: "h1:1", 2: "h2:1"})


def _address_set_nowhere(log: Members) -> None:
    log.facts.lives_at(2, "h2:5")
    log.facts.address_set(2, "h2:1")
    log.facts.address_set(2, "h2:5")
    log.facts.final({1: "h1:1", 2: "h2:1"})


def _foreign_address(log: Members) -> None:
    log.committed(member(1), member(2, port=3))


def _voter_at_once(log: Members) -> None:
    log.committed(member(1), member(2), member(3))


def _joined_nowhere(log: Members) -> None:
    log.facts.joined(3, "h3:1")
    log.facts.final({1: "h1:1", 2: "h2:1"})


def _ghost(log: Members) -> None:
    log.facts.final({1: "h1:1"})


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (_unasked, "none may still"),
        (_failed_removal_later, "none may still"),
        (_failed_removal, "but it is removed"),
        (_removal_nowhere, "no committed entry"),
        (_address_set_nowhere, "no committed entry"),
        (_foreign_address, "gives 2 the address"),
        (_voter_at_once, "as a voter at once"),
        (_joined_nowhere, "no committed entry"),
        (_ghost, "the configuration is"),
    ],
)
def test_a_broken_promise_about_members(wrong: Callable[[Members], None], what: str) -> None:
    with pytest.raises(SafetyViolation, match=what):
        wrong(Members())
