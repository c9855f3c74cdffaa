"""Whether this node still belongs, for members that the log does not tell: spares, and who is far behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from dqlite_py.model import Configuration, LogIndex, NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.presence import Presence
from tests.unit.raft.solo import Solo, append, configuration_entry, log_of, members


class Bench:
    """Node 1 follows leader 2, which says that `committed` is the configuration."""

    def __init__(self, mine: Configuration, committed: Configuration) -> None:
        self.committed = committed
        self.solo = Solo(entries=log_of(mine))
        self.solo.step(append(2, 1, (1, 1), commit=1)).settle()
        self.view = ClusterView(asyncio.get_running_loop(), self.solo.core)
        self.removed = asyncio.Event()
        transport: Any = SimpleNamespace(set_peers=lambda _members: None)
        self.presence = Presence(
            core=self.solo.core,
            view=self.view,
            transport=transport,
            inbound=SimpleNamespace(learned={}),  # type: ignore[arg-type]
            writes=SimpleNamespace(),  # type: ignore[arg-type]
            membership=SimpleNamespace(),  # type: ignore[arg-type]
            call=self._call,
            removed=self.removed,
            on_removed=self.removed.set,
        )

    async def _call(self, _node: NodeId, method: str, _body: Any, _timeout_s: float) -> Any:
        assert method == "raft.configuration"
        return {"index": self.committed.index, "members": self.committed.to_wire()}

    async def ask(self) -> None:
        """As the node does in time: the leader while it knows one, the members when it does not hear it any more."""
        leader = self.solo.core.leader_id
        assert leader is not None
        await self.presence._ask_leader(leader)


async def test_a_spare_learns_who_is_where() -> None:
    bench = Bench(members(2, 3, spares=(1,)), members(2, 3, 4, spares=(1,)).at(LogIndex(9)))
    await bench.ask()
    assert bench.view.configuration.voters == {2, 3, 4}
    assert not bench.removed.is_set()


async def test_a_member_that_its_leader_does_not_know_any_more_was_removed() -> None:
    """Found by reading: it took over the configuration without itself, and from then on asked nobody."""
    for mine in (members(2, 3, spares=(1,)), members(2, 3, standbys=(1,))):
        bench = Bench(mine, members(2, 3).at(LogIndex(9)))
        await bench.ask()
        bench.solo.wait(10_000)
        assert bench.solo.core.leader_id is None
        await bench.presence._ask_if_removed()
        assert bench.removed.is_set()


async def test_whose_own_log_ends_with_its_removal_asks_whether_that_is_committed() -> None:
    """A removed member that started again, or lost its leader before it heard so, served old states for good."""
    for committed, is_removed in (
        (members(2, 3).at(LogIndex(2)), True),
        (members(1, 2, 3).at(LogIndex(1)), False),
    ):
        bench = Bench(members(1, 2, 3), committed)
        bench.solo.step(append(2, 1, (1, 1), configuration_entry(2, 1, members(2, 3)), commit=1)).settle()
        bench.solo.wait(10_000)
        assert bench.view.configuration.voters == {2, 3}
        await bench.presence._ask_if_removed()
        assert bench.removed.is_set() is is_removed


async def test_who_is_just_joining_was_not_removed() -> None:
    """Its log begins before it was there, and so may the state of who is asked."""
    bench = Bench(members(2, 3), members(2, 3, 4).at(LogIndex(9)))
    bench.solo.wait(10_000)
    await bench.presence._ask_if_removed()
    assert not bench.removed.is_set()


async def test_an_older_configuration_removes_nobody() -> None:
    bench = Bench(members(2, 3, spares=(1,)), replace(members(2, 3), index=LogIndex(1)))
    await bench.ask()
    assert not bench.removed.is_set()
