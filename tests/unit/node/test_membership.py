"""What a membership change reports when it could not be seen to the end: it may have happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dqlite_py.errors import MembershipRefused, NotLeader, Outcome, OutcomeUnknown
from dqlite_py.model import NodeId
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from tests.unit.raft.solo import Solo, append, configuration_entry, members, noop


class Bench:
    """Node 1 leads 1, 2, 3 and is asked to remove 3; `removal` runs meanwhile."""

    def __init__(self, timeout_s: float) -> None:
        self.solo = Solo().elect(2)
        self.solo.ack(2, 2).settle()
        loop = asyncio.get_running_loop()
        self.view = ClusterView(loop, self.solo.core)
        self.view.ready_term = self.solo.core.term

        async def nobody(*_args: object) -> None:
            raise AssertionError

        async def keep() -> bool:
            return False

        self.membership = Membership(
            loop=loop,
            core=self.solo.core,
            view=self.view,
            pump=lambda: None,
            now_ms=lambda: self.solo.now,
            is_connected=lambda _node: True,
            hand_over=keep,
            call=nobody,
        )
        self.removal = loop.create_task(self.membership.remove(NodeId(3), Deadline(timeout_s)))

    async def until_proposed(self) -> None:
        while self.solo.core.configuration.index != 3:
            assert not self.removal.done()
            await asyncio.sleep(0)
        self.solo.settle()


def commits(solo: Solo) -> None:
    solo.ack(2, 3).settle()


def follows_a_leader_that_has_it(solo: Solo) -> None:
    term = solo.core.term + 1
    solo.step(append(2, term, (3, term - 1), noop(4, term), commit=4)).settle()


def follows_a_leader_without_it(solo: Solo) -> None:
    term = solo.core.term + 1
    solo.step(append(2, term, (2, term - 1), noop(3, term))).settle()


def follows_a_leader_with_another(solo: Solo) -> None:
    """Another configuration is committed at the very index."""
    term = solo.core.term + 1
    other = configuration_entry(3, term, members(1, 3))
    solo.step(append(2, term, (2, term - 1), other, noop(4, term), commit=4)).settle()


@pytest.mark.parametrize("event", [commits, follows_a_leader_that_has_it])
async def test_committed_is_success(event: Callable[[Solo], None]) -> None:
    bench = Bench(20.0)
    await bench.until_proposed()
    event(bench.solo)
    assert (await bench.removal).get(NodeId(3)) is None


@pytest.mark.parametrize("event", [follows_a_leader_without_it, follows_a_leader_with_another])
async def test_leadership_lost_after_the_proposal_is_unknown(event: Callable[[Solo], None]) -> None:
    """Not NotLeader, which promises that nothing happened and is tried again elsewhere."""
    bench = Bench(20.0)
    await bench.until_proposed()
    event(bench.solo)
    with pytest.raises(OutcomeUnknown, match="leadership was lost") as caught:
        await bench.removal
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.details == {"log_index": 3}


async def test_time_over_after_the_proposal_is_unknown() -> None:
    bench = Bench(0.05)
    await bench.until_proposed()
    with pytest.raises(OutcomeUnknown, match="not committed yet"):
        await bench.removal


async def test_nothing_proposed_is_refused() -> None:
    bench = Bench(20.0)
    bench.view.ready_term = None
    with pytest.raises(NotLeader):
        await bench.removal


async def test_an_answer_never_rests_on_a_change_that_may_be_rolled_back() -> None:
    """Found by reading: who joined, or was removed, twice was told what an uncommitted entry said."""
    bench = Bench(0.05)
    await bench.until_proposed()
    with pytest.raises(OutcomeUnknown):
        await bench.removal
    again = asyncio.get_running_loop().create_task(bench.membership.remove(NodeId(3), Deadline(20.0)))
    await asyncio.sleep(0.05)
    assert not again.done()  # an uncommitted entry removes it: neither done nor "no such member"
    commits(bench.solo)
    with pytest.raises(MembershipRefused, match="no member has the id 3"):
        await again


async def test_an_earlier_change_that_is_not_committed_in_time_is_a_refusal() -> None:
    bench = Bench(0.05)
    await bench.until_proposed()
    with pytest.raises(OutcomeUnknown):
        await bench.removal
    with pytest.raises(MembershipRefused, match="not committed yet") as caught:
        await bench.membership.remove(NodeId(3), Deadline(0.05))
    assert caught.value.outcome is Outcome.NOT_APPLIED
