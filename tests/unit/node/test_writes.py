"""node.writes: what the leader refuses before anything is proposed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dqlite_py.errors import Error, OperationalError, Outcome
from dqlite_py.limits import DATABASES_MAX
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.writes import Writes
from tests.unit.raft.solo import Solo


async def test_no_more_databases_are_made_than_a_manifest_can_list() -> None:
    """Found by reading: with one more no log was ever compacted, and nobody could be sent a snapshot."""
    solo = Solo().elect(2)
    view = ClusterView(asyncio.get_running_loop(), solo.core)
    view.ready_term = solo.core.term
    proposed: list[Callable[[Any, Error | None], None]] = []
    there = {f"db{number}": None for number in range(DATABASES_MAX - 1)}
    writes = Writes(
        loop=asyncio.get_running_loop(),
        view=view,
        propose=lambda _payload, callback: proposed.append(callback),
        pump=lambda: None,
        call=lambda *_: None,
        make_proposals=lambda *_: None,  # type: ignore[arg-type,return-value]
        now_us=lambda: 1,
        databases=lambda: there,
    )
    last = asyncio.get_running_loop().create_task(writes.open_here("last"))
    await asyncio.sleep(0)
    with pytest.raises(OperationalError, match="at most 64 databases: drop one") as caught:
        await writes.open_here("one-too-many")  # the one under way counts
    assert caught.value.outcome is Outcome.NOT_APPLIED
    proposed[0](None, None)
    await last
    again = asyncio.get_running_loop().create_task(writes.open_here("db0"))  # it exists
    await asyncio.sleep(0)
    proposed[1](None, None)
    await again
