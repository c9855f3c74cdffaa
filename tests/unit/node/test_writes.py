"""Writes under way when their node stops: everybody hears (node.writes)."""

from __future__ import annotations

import asyncio
from typing import Any

from dqlite_py.command import encode_unit
from dqlite_py.errors import Error, NodeStopped, Outcome
from dqlite_py.model import Term
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.proposals import PIPELINE_MAX, DatabaseProposals
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from tests.faults.ours import CoreWorld

UNIT = encode_unit([("INSERT INTO t VALUES (1)", [])])


async def test_writes_that_still_queue_hear_of_the_stop() -> None:
    """They are routed again when leadership goes; being cancelled at once must not swallow their answer."""
    loop = asyncio.get_running_loop()
    world = CoreWorld("A")
    world.elect("A")
    view = ClusterView(loop, world["A"].core)
    view.ready_term = Term(world["A"].core.term)

    def make(database: str, propose: Any) -> DatabaseProposals:
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=lambda: 1,
            state_hash=lambda _: None,
            call_soon=loop.call_soon,
            pump=lambda: None,
        )

    async def call(*_: Any) -> Any:
        raise AssertionError("nobody is called")

    proposed: list[Any] = []
    writes = Writes(
        loop=loop,
        view=view,
        propose=lambda payload, callback: proposed.append(callback),
        pump=lambda: None,
        call=call,
        make_proposals=make,
        now_us=lambda: 1,
        databases=dict,
    )
    heard: list[Error | None] = []
    for _ in range(PIPELINE_MAX):
        writes.submit("main", UNIT, lambda _result, error: heard.append(error), Deadline(20))
        await asyncio.sleep(0)
    assert len(proposed) == PIPELINE_MAX
    writes.submit("main", UNIT, lambda _result, error: heard.append(error), Deadline(20))
    view.block("stopping", lambda: NodeStopped("the node is stopping"))
    await writes.stop()
    (error,) = heard
    assert error is not None
    assert error.outcome is Outcome.NOT_APPLIED
