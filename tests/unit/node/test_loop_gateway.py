"""Writes of the node's own loop: each is answered once, in time or with what is then true."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.errors import Error, Outcome, OutcomeUnknown
from dqlite_py.gateway import UnitResult
from dqlite_py.node import loop_gateway
from dqlite_py.node.loop_gateway import LoopGateway
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.units import encode_statements

BODY = encode_statements([("INSERT INTO t VALUES (1)", ())])
DONE = (7, (0, [(1, 1)]))


class FakeNode:
    """Keeps what is submitted; `writing_leader` is what a view says."""

    def __init__(self) -> None:
        self.writes = self
        self.submitted: list[PendingWrite] = []
        self.writing_leader: int | None = 1

    def submit(self, write: PendingWrite) -> None:
        self.submitted.append(write)


def make() -> tuple[FakeNode, LoopGateway, list[Any]]:
    node: Any = FakeNode()
    return node, LoopGateway(node, asyncio.get_running_loop(), node), []


def note(heard: list[Any]) -> loop_gateway.Written:
    def written(unit: UnitResult | None, error: Error | None) -> None:
        heard.append(unit if error is None else error)

    return written


async def test_a_result_is_heard_once() -> None:
    node, gateway, heard = make()
    gateway.write("app", BODY, 10.0, note(heard))
    [write] = node.submitted
    write.callback(DONE, None)
    write.callback(None, OutcomeUnknown("late"))
    [unit] = heard
    assert (unit.log_index, unit.statements[0].rowcount) == (7, 1)


async def test_a_unit_that_failed_is_an_error() -> None:
    node, gateway, heard = make()
    gateway.write("app", BODY, 10.0, note(heard))
    node.submitted[0].callback((7, (2067, "UNIQUE constraint failed: t.a", 0)), None)
    assert [error.code for error in heard] == [2067]


async def test_who_has_waited_for_the_whole_time_hears_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, gateway, heard = make()
    monkeypatch.setattr(loop_gateway, "MARGIN_S", 0.0)
    gateway.write("app", BODY, 0.0, note(heard))
    gateway._sweep()
    assert [(type(error), error.outcome) for error in heard] == [(OutcomeUnknown, Outcome.UNKNOWN)]
    assert node.submitted[0].is_abandoned


async def test_a_long_write_is_waited_for_while_there_is_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    node, gateway, heard = make()
    monkeypatch.setattr(loop_gateway, "LEADERLESS_S", 0.0)
    gateway.write("app", BODY, 60.0, note(heard))
    gateway._sweep()
    assert heard == []
    node.writing_leader = None
    gateway._sweep()
    assert [type(error) for error in heard] == [OutcomeUnknown]


async def test_what_one_makes_of_its_answer_is_not_the_others_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, gateway, heard = make()

    def breaks(_unit: UnitResult | None, _error: Error | None) -> None:
        raise RuntimeError("a connection's trouble")

    gateway.write("app", BODY, 10.0, breaks)
    gateway.write("app", BODY, 10.0, note(heard))
    for write in node.submitted:
        write.callback(DONE, None)
    assert len(heard) == 1
    assert "a connection's trouble" in caplog.text
