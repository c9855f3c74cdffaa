"""Callers hear once, changes of members are told truly, rows and snapshots are what they should be: each can fail."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from dqlite_py.errors import MembershipRefused, OutcomeUnknown
from dqlite_py.model import Configuration, LogIndex, Term
from dqlite_py.storage.manifest import DatabaseState, Manifest
from tests.simulation.cluster.checks_callers import CallerWatch
from tests.simulation.cluster.checks_changes import ChangeWatch
from tests.simulation.cluster.checks_consensus import ConsensusFacts
from tests.simulation.cluster.checks_state import StateWatch
from tests.simulation.cluster.test_checks_clients import opened, operation, unit_entry
from tests.simulation.raft_world import SafetyViolation


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


class Writes:
    """Keeps callbacks; `submit` refuses when told to."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.refuses = False

    def submit(self, write: Any) -> None:
        if self.refuses:
            raise MembershipRefused("not now")
        self.kept.append(write.callback)

    def submit_here(self, database: str, unit: bytes, callback: Any, deadline: Any) -> None:
        self.kept.append(callback)

    def _propose(self, payload: bytes, callback: Any) -> None:
        self.kept.append(callback)


class Reads:
    def __init__(self) -> None:
        self._asked: dict[int, Any] = {}

    def barrier(self, database: str, callback: Any, deadline: Any) -> None:
        callback(7, None)


def watched() -> tuple[CallerWatch, Any]:
    runtime: Any = SimpleNamespace(writes=Writes(), reads=Reads())
    watch = CallerWatch(fail)
    watch.watch("n1", runtime)
    return watch, runtime


def test_answers_are_counted() -> None:
    watch, runtime = watched()
    heard: list[Any] = []
    runtime.writes.submit(SimpleNamespace(callback=lambda *answer: heard.append(answer)))
    runtime.writes._propose(b"", lambda *answer: heard.append(answer))
    runtime.reads.barrier("db", lambda *answer: heard.append(answer), None)
    assert heard == [(7, None)]
    assert watch.unanswered("n1") == ["_propose", "submit"]
    for callback in runtime.writes.kept:
        callback("done", None)
    assert watch.unanswered("n1") == []
    assert heard == [(7, None), ("done", None), ("done", None)]


def test_who_stops_in_order_answers_before() -> None:
    watch, runtime = watched()
    runtime.writes.submit(SimpleNamespace(callback=print))
    with pytest.raises(SafetyViolation, match=r"without an answer: \['submit'\]"):
        watch.ended("n1")
    watch.ended("n2")


def test_a_refused_call_waits_for_nothing() -> None:
    watch, runtime = watched()
    runtime.writes.refuses = True
    with pytest.raises(MembershipRefused):
        runtime.writes.submit(SimpleNamespace(callback=print))
    assert watch.unanswered("n1") == []


def test_a_second_answer_is_noticed() -> None:
    _, runtime = watched()
    runtime.writes.submit_here("db", b"", lambda *_: None, None)
    runtime.writes.kept[0]("done", None)
    with pytest.raises(SafetyViolation, match="twice"):
        runtime.writes.kept[0](None, OutcomeUnknown("late"))


def test_read_indexes_that_nobody_answers_are_told() -> None:
    watch, runtime = watched()
    runtime.reads._asked[1] = None
    assert watch.unanswered("n1") == ["read_index"]
    assert watch.unanswered("n2") == []


class Members:
    def __init__(self, core: Any, ends_with: Exception | None, proposes: bool) -> None:
        self.core, self.ends_with, self.proposes = core, ends_with, proposes

    async def carry_out(self, new: Any, deadline: Any) -> None:
        if self.proposes:
            self.core.propose_configuration(new, 0.0)
        if self.ends_with is not None:
            raise self.ends_with


@pytest.mark.parametrize(
    ("ends_with", "proposes", "committed", "message"),
    [
        (None, True, True, None),
        (None, True, False, "nothing"),
        (OutcomeUnknown("lost"), True, False, None),
        (MembershipRefused("pending"), False, False, None),
        (MembershipRefused("lost"), True, False, "certainly failed"),
    ],
)
def test_changes_of_members_are_told_truly(
    ends_with: Exception | None, proposes: bool, committed: bool, message: str | None
) -> None:
    consensus = ConsensusFacts(fail)
    if committed:
        consensus.committed_terms[9] = 3
    core: Any = SimpleNamespace(propose_configuration=lambda *_: (3, 9))
    changes = Members(core, ends_with, proposes)
    runtime: Any = SimpleNamespace(core=core, membership=SimpleNamespace(changes=changes))
    ChangeWatch(consensus, fail).watch("n1", runtime)

    def change() -> None:
        asyncio.run(runtime.membership.changes.carry_out(None, None))

    if message is not None:
        with pytest.raises(SafetyViolation, match=message):
            change()
    elif ends_with is not None:
        with pytest.raises(type(ends_with)):
            change()
    else:
        change()


def test_a_write_is_told_its_own_row() -> None:
    clients = opened("sim")
    clients.committed(unit_entry(4, (1, 1), (2, 1)))
    first, second = operation((1, 1)), operation((2, 1))
    first.row, second.row = 1, 1
    clients.ended(first)
    with pytest.raises(SafetyViolation, match="made row 2"):
        clients.ended(second)


def test_a_snapshot_holds_all_up_to_its_index() -> None:
    consensus = ConsensusFacts(fail)
    watch = StateWatch(consensus, fail)
    life: Any = SimpleNamespace(name="n1")
    watch._changed["first"] = [4, 9, 12]

    def manifest(index: int, applied: int) -> Manifest:
        database = DatabaseState("first", LogIndex(applied), 1, 1)
        return Manifest(bytes(16), LogIndex(index), Term(1), Configuration(), (database,))

    watch.recorded(life, manifest(11, 9))
    watch.recorded(life, manifest(11, 12))
    with pytest.raises(SafetyViolation, match="entry 9 is not in it"):
        watch.recorded(life, manifest(11, 4))
    watch.damage("n1")
    watch.recorded(life, manifest(11, 4))


def test_the_log_goes_after_the_manifest() -> None:
    watch = StateWatch(ConsensusFacts(fail), fail)
    life: Any = SimpleNamespace(name="n1")
    watch.compacted(life, 7, 7)
    with pytest.raises(SafetyViolation, match="dropped entries up to 8"):
        watch.compacted(life, 8, 7)
