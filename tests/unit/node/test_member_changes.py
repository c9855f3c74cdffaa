"""Changes of members, asked of the leader: what a join keeps, checks and when; leaving asked for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from dqlite_py.errors import MemberRefused, MembershipRefused
from dqlite_py.model import Address, Configuration, NodeId, Role, RoleSettings
from dqlite_py.node import configuration_change
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.formats import check_joiner_reads
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from tests.unit.raft.solo import Solo, members

ELSEWHERE = Address("elsewhere:9000")


class Bench:
    """Node 1 leads, nodes 2 and 3 answer as long as something is `seen` to its end."""

    def __init__(self, configuration: Configuration) -> None:
        self.solo = Solo(configuration).elect(2)
        loop = asyncio.get_running_loop()
        self.view = ClusterView(loop, self.solo.core)
        self.view.ready_term = self.solo.core.term
        self.may_tell_formats = asyncio.Event()
        self.answer()

        async def call(_node: NodeId, _method: str, _body: Any, _timeout_s: float) -> Any:
            await self.may_tell_formats.wait()
            return {"configuration": 2}

        async def keep() -> bool:
            return False

        self.membership = Membership(
            loop=loop,
            core=self.solo.core,
            view=self.view,
            pump=self.solo.settle,
            now_ms=lambda: self.solo.now,
            is_connected=lambda _node: True,
            hand_over=keep,
            call=call,
        )

    def check(self, formats: object) -> None:
        check_joiner_reads(self.solo.core.format_in_log, formats)

    def answer(self) -> None:
        for node in (2, 3):
            self.solo.ack(node, self.solo.core.last_index)
        self.solo.settle()

    async def seen(self, change: Awaitable[Configuration]) -> Configuration:
        task = asyncio.ensure_future(change)
        while not task.done():
            self.answer()
            self.view.changed()
            await asyncio.sleep(0)
        return await task


async def test_a_member_that_joins_again_elsewhere_keeps_what_it_is() -> None:
    """Found by reading: its weight and failure domain were forgotten."""
    known = members(1, 2, 3)
    described = replace(known.members[2], weight=7, domain=2)
    bench = Bench(known.with_member(described))
    await bench.seen(bench.membership.join(NodeId(3), ELSEWHERE, Deadline(20.0)))
    assert bench.solo.core.configuration.get(NodeId(3)) == replace(described, address=ELSEWHERE)


async def test_who_joins_while_the_format_rises_is_held_against_the_new_one() -> None:
    """Found by reading: it was compared with the format of when it asked, and waited for the change behind that."""
    bench = Bench(members(1, 2, 3))
    change = asyncio.ensure_future(bench.membership.set_roles(RoleSettings(True, 3, 0), Deadline(20.0)))
    await asyncio.sleep(0)
    assert bench.membership.lock.locked()
    joining = asyncio.ensure_future(
        bench.membership.join(NodeId(9), ELSEWHERE, Deadline(20.0), check=lambda: bench.check(None))
    )
    await asyncio.sleep(0)
    bench.may_tell_formats.set()
    await bench.seen(change)
    with pytest.raises(MemberRefused, match="format 2"):
        await bench.seen(joining)
    assert bench.solo.core.configuration.get(NodeId(9)) is None


async def test_leaving_asked_for_twice_is_refused_twice() -> None:
    """Found by reading: the second of two that were over at once met a KeyError."""
    kept = replace(members(1, 2, 3), settings=RoleSettings(True, 3, 0))
    bench = Bench(kept)
    asked = [asyncio.ensure_future(bench.membership.leave(NodeId(3), Deadline(0.01))) for _ in range(2)]
    for request in asked:
        with pytest.raises(MembershipRefused, match="keeps its vote"):
            await request
    assert bench.solo.core.configuration.get(NodeId(3)).role is Role.VOTER  # type: ignore[union-attr]


async def test_who_asks_again_is_being_replaced_meanwhile() -> None:
    """Found by reading: a node that leaves asks in short attempts. Between two the stand-by that was to have its vote
    was one too many and became a spare again; if its catch-up took longer than an attempt, nobody ever took over."""
    bench = Bench(replace(members(1, 2, 3, standbys=(4,)), settings=RoleSettings(True, 3, 0)))
    with pytest.raises(MembershipRefused, match="keeps its vote"):
        await bench.membership.leave(NodeId(3), Deadline(0.001), asks_again_s=20.0)
    bench.membership.look()
    assert not bench.membership.leaving[NodeId(3)].passed
    with pytest.raises(MembershipRefused, match="keeps its vote"):
        await bench.membership.leave(NodeId(3), Deadline(0.001))
    assert not bench.membership.leaving


async def test_who_was_removed_or_never_there_is_not_leaving() -> None:
    """Found by reading: added again within a minute, it got no role."""
    bench = Bench(replace(members(1, 2, 3), settings=RoleSettings(True, 3, 0)))
    with pytest.raises(MembershipRefused, match="no member"):
        await bench.membership.leave(NodeId(9), Deadline(20.0))
    assert not bench.membership.leaving
    with pytest.raises(MembershipRefused, match="keeps its vote"):
        await bench.membership.leave(NodeId(3), Deadline(0.001), asks_again_s=20.0)
    await bench.seen(bench.membership.remove(NodeId(3), Deadline(20.0)))
    assert not bench.membership.leaving


async def test_a_role_that_is_refused_changes_no_settings() -> None:
    """Found by reading: roles were switched to by-hand first, and nobody who joined later got a vote."""
    bench = Bench(members(1, standbys=(2,)))
    bench.may_tell_formats.set()
    with pytest.raises(MembershipRefused, match="the last voter"):
        await bench.seen(bench.membership.assign(NodeId(1), Role.STANDBY, Deadline(20.0)))
    assert bench.solo.core.configuration.settings is None


async def test_a_format_that_the_log_holds_is_asked_for_after_it_is_no_more_in_force() -> None:
    """Found by reading: who joined was sent the entries of before, could not read them, and stopped."""
    bench = Bench(members(1, 2, 3))
    bench.may_tell_formats.set()
    bench.check(None)
    await bench.seen(bench.membership.set_roles(RoleSettings(True, 3, 0), Deadline(20.0)))
    await bench.seen(bench.membership.set_roles(None, Deadline(20.0)))
    assert bench.solo.core.configuration.format == 1
    with pytest.raises(MemberRefused, match="format 2"):
        bench.check(None)
    bench.check({"configuration": 2})
    core = bench.solo.core
    kept = Solo(entries=bench.solo.journal, term=core.term, snapshot=core.snapshot_at(core.commit_index))
    assert kept.core.format_in_log == 2, "the log begins before the snapshot"


async def test_who_waits_to_vote_keeps_no_other_change_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by reading: refused by the core, it was tried again under the lock for all the caller's ten minutes."""
    monkeypatch.setattr(configuration_change, "PROPOSE_S", 0.01)
    bench = Bench(members(1, 2, 3, standbys=(4,)))
    core = bench.solo.core
    bench.solo.ack(4, core.last_index).settle()
    core.peer_disconnected(NodeId(4))  # it is near, and must be found again first
    asked = asyncio.ensure_future(bench.membership.assign(NodeId(4), Role.VOTER, Deadline(600.0)))
    await asyncio.sleep(0)
    assert bench.membership.lock.locked()
    async with asyncio.timeout(5.0), bench.membership.lock:
        assert not asked.done()
    core.peer_connected(NodeId(4), bench.solo.now)
    bench.solo.settle().ack(4, core.last_index)
    await bench.seen(asked)
    assert core.configuration.voters == {1, 2, 3, 4}
