"""Which role change the leader decides on, and when a member counts as gone: by its clock, in its leadership."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import Any

import pytest

from dqlite_py.errors import MemberRefused, MembershipRefused, NotSupportedError
from dqlite_py.model import Configuration, NodeId, Role, RoleSettings
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.formats import check_joiner_reads, check_members_read
from dqlite_py.node.membership import CAUGHT_UP_ENTRIES, STEADY_MS, Membership
from dqlite_py.node.role_manager import RoleManager
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.progress import ProgressState
from dqlite_py.raft.roles import Action
from tests.unit.raft.solo import Solo, members

SETTINGS = RoleSettings(True, 3, 1, 5_000)


class Bench:
    def __init__(self, configuration: Configuration) -> None:
        self.solo = Solo(configuration).elect(2)
        loop = asyncio.get_running_loop()
        view = ClusterView(loop, self.solo.core)
        self.connected = {m.id for m in configuration.members}

        async def nobody(*_args: object) -> None:
            raise AssertionError

        self.membership = Membership(
            loop=loop,
            core=self.solo.core,
            view=view,
            pump=lambda: None,
            now_ms=lambda: self.solo.now,
            is_connected=lambda node_id: node_id in self.connected,
            hand_over=nobody,  # type: ignore[arg-type]
            call=nobody,
        )
        self.manager = RoleManager(
            loop=loop,
            core=self.solo.core,
            view=view,
            membership=self.membership,
            now_ms=lambda: self.solo.now,
            is_connected=lambda node_id: node_id in self.connected,
            transfer=self.taken_over,  # type: ignore[arg-type]
        )
        self.view = view
        self.transfers: list[int] = []
        self.refuses = False

    def live(self, ms: float, *answering: int) -> None:
        end = self.solo.now + ms
        while self.solo.now < end:
            for node in answering:
                self.solo.ack(node, self.solo.core.last_index)
            self.solo.tick(50).settle()
            self.manager._look()

    async def taken_over(self, member: NodeId, _timeout_s: float) -> NodeId | None:
        """A hand-over that nobody takes, or that is refused."""
        self.transfers.append(int(member))
        if self.refuses:
            raise MembershipRefused("leadership cannot go to anybody now")
        return None

    def decide(self) -> tuple[Action, int, Role | None] | None:
        change = self.manager.next_change(self.solo.core.configuration)
        return None if change is None else (change.action, change.member, change.role)


def kept(configuration: Configuration, settings: RoleSettings | None = SETTINGS) -> Configuration:
    return replace(configuration, settings=settings)


async def test_a_voter_is_replaced_when_it_is_gone_for_long_enough_and_not_before() -> None:
    bench = Bench(kept(members(1, 2, 3, standbys=(4,))))
    bench.live(3_000, 2, 3, 4)
    assert bench.decide() == (Action.NOTHING, 0, None)
    bench.live(5_000, 2, 4)
    assert bench.decide() == (Action.NOTHING, 0, None), "its patience began when the last answer was old"
    bench.live(1_500, 2, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)


async def test_a_connection_that_is_gone_counts_as_well_as_silence() -> None:
    bench = Bench(kept(members(1, 2, 3, standbys=(4,))))
    bench.live(3_000, 2, 3, 4)
    bench.connected.discard(NodeId(3))
    bench.live(5_100, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)


async def test_a_member_that_lost_data_is_replaced_and_replaces_nobody() -> None:
    """Found by reading: it answers, but no quorum counts it; asked to vote it was refused for ever."""
    bench = Bench(kept(members(1, 2, 3, standbys=(4,))))
    bench.live(3_000, 2, 3, 4)
    core = bench.solo.core
    bench.solo.refuse(3, core.last_index, (0, 0)).settle()
    assert core.peers[NodeId(3)].state is ProgressState.LOST_DATA
    bench.live(6_000, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)
    bench.solo.refuse(4, core.last_index, (0, 0)).settle()
    bench.live(100, 2, 3, 4)
    assert bench.decide() == (Action.NOTHING, 0, None)


async def test_who_lost_data_gets_no_vote_without_settings() -> None:
    bench = Bench(members(1, 2, 3, standbys=(4,)))
    bench.live(200, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)
    bench.solo.refuse(4, bench.solo.core.last_index, (0, 0)).settle()
    assert bench.decide() is None


async def test_who_has_just_come_is_not_chosen_yet() -> None:
    bench = Bench(kept(members(1, 2, standbys=(4,))))
    bench.live(1_000, 2, 4)
    assert bench.decide() == (Action.NOTHING, 0, None)
    bench.live(1_500, 2, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)


async def test_a_stand_by_that_is_behind_is_waited_for() -> None:
    bench = Bench(kept(members(1, 2, standbys=(4,))))
    bench.live(3_000, 2)
    assert bench.decide() == (Action.NOTHING, 0, None)


async def test_by_hand_nothing_is_decided() -> None:
    bench = Bench(kept(members(1, 2, standbys=(4,)), replace(SETTINGS, automatic=False)))
    bench.live(3_000, 2, 4)
    assert bench.decide() is None


async def test_without_settings_whoever_has_caught_up_votes() -> None:
    bench = Bench(members(1, 2, 3, standbys=(4,), spares=(6,)))
    bench.live(200, 2, 3)
    assert bench.decide() is None
    bench.live(200, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)


async def test_status_says_since_when_and_how_far() -> None:
    bench = Bench(kept(members(1, 2, standbys=(4,))))
    bench.live(3_000, 2)
    found = bench.manager.member_status(NodeId(4))
    assert found["reachable"] is False
    assert found["catch_up"] == {"match": 0, "target": bench.solo.core.last_index, "percent": 0}
    assert bench.manager.member_status(NodeId(2))["catch_up"]["percent"] == 100
    assert bench.manager.status()["voters"] == 3


NEW = kept(members(1, 2, 3))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"configuration": 2}, None),
        ({"configuration": 1}, "member 2 reads format 1"),
        (NotSupportedError("this release has no method 'raft.formats'"), "member 2 reads format 1"),
        ({}, "member 2 reads format 1"),
        ("nonsense", "member 2 reads format 1"),
        (MembershipRefused("away"), "member 2 reads them is not known: away"),
    ],
)
async def test_a_newer_format_waits_until_all_read_it(answer: Any, why: str | None) -> None:
    async def call(node_id: NodeId, method: str, _body: Any, _timeout_s: float) -> Any:
        assert method == "raft.formats"
        if node_id == 3:
            return {"configuration": 9}
        if isinstance(answer, Exception):
            raise answer
        return answer

    await check_members_read(members(1, 2, 3), NodeId(1), call)
    if why is None:
        await check_members_read(NEW, NodeId(1), call)
    else:
        with pytest.raises(MembershipRefused, match=why):
            await check_members_read(NEW, NodeId(1), call)


def test_a_node_that_does_not_read_what_is_in_force_may_not_join() -> None:
    check_joiner_reads(1, None)
    check_joiner_reads(2, {"configuration": 2})
    for formats in (None, {}, {"configuration": 1}, {"configuration": "2"}):
        with pytest.raises(MemberRefused, match="format 2"):
            check_joiner_reads(2, formats)


async def test_a_member_that_was_far_behind_votes_when_it_has_kept_up_for_a_while() -> None:
    """It has much to apply yet: where its answer is needed for a majority, the writers would wait for it."""
    bench = Bench(kept(members(1, 2, 3, standbys=(4,)), None))
    bench.live(500, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER), "one that was never far behind at once"
    for _ in range(CAUGHT_UP_ENTRIES + 1):
        bench.solo.core.propose(b"x", bench.solo.now)
    bench.live(100, 2, 3)
    assert bench.decide() is None
    bench.live(STEADY_MS - 200, 2, 3, 4)
    assert bench.decide() is None
    bench.live(300, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_hand_over_that_nobody_takes_is_not_tried_all_the_time(refuses: bool) -> None:
    """Found by reading: it was tried ten times a second; while one goes on the leader takes no writes."""
    bench = Bench(kept(members(1, 2, 3)))
    bench.refuses = refuses
    bench.live(3_000, 2, 3)
    bench.membership.leaving[NodeId(1)] = Deadline(600.0)
    assert bench.decide() == (Action.TRANSFER, 2, None)
    tried_ms: list[float] = []
    for _ in range(400):
        before = len(bench.transfers)
        with contextlib.suppress(MembershipRefused):
            assert await bench.manager._one() is False
        if len(bench.transfers) > before:
            tried_ms.append(bench.solo.now)
        bench.live(100, 2, 3)
    last = bench.manager.status().get("last")
    if refuses:
        assert last is None
    else:
        assert last["text"].startswith("leadership offered to 2: ")
        assert last["age_s"] == pytest.approx((bench.solo.now - tried_ms[-1]) / 1000, abs=0.1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried_ms)]
    assert pauses == [1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000]
    bench.manager._begin()
    bench.manager._look()
    bench.live(3_000, 2, 3)
    with contextlib.suppress(MembershipRefused):
        await bench.manager._one()
    assert bench.transfers == [2] * 9, "another leadership begins anew"


async def test_what_was_not_done_is_not_told_as_done(caplog: pytest.LogCaptureFixture) -> None:
    """Found by reading: the configuration changed while the change waited for its turn."""
    caplog.set_level("INFO")
    bench = Bench(kept(members(1, 2, 3, standbys=(4,))))
    bench.solo.ack(2, bench.solo.core.last_index).settle()
    bench.view.ready_term = bench.solo.core.term
    bench.live(3_000, 2, 3, 4)
    bench.connected.discard(NodeId(3))
    bench.live(6_000, 2, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)
    async with bench.membership.lock:
        change = asyncio.ensure_future(bench.manager._one())
        await asyncio.sleep(0)
        described = bench.solo.core.configuration
        described = described.with_member(replace(described.members[0], weight=7))
        bench.solo.core.propose_configuration(described, bench.solo.now)
        bench.solo.settle()
        bench.live(100, 2, 4)
    assert await change, "there may be another one"
    assert "role changed automatically" not in caplog.text
    assert "last" not in bench.manager.status()
    assert bench.solo.core.configuration.voters == {1, 2, 3}


async def test_a_spare_whose_databases_are_not_trusted_is_chosen_all_the_same() -> None:
    """Found by reading: only who gets the log is offered a snapshot, so that it never became fit again."""
    bench = Bench(kept(members(1, 2, spares=(5,))))
    bench.live(3_000, 2)
    for _ in range(60):
        bench.solo.step(bench.solo.reply(5, needs_snapshot=True))
        bench.live(50, 2)
    assert bench.solo.core.peers[NodeId(5)].needs_snapshot
    assert bench.decide() == (Action.ASSIGN, 5, Role.STANDBY)


async def test_a_stand_by_that_answers_no_more_gets_no_vote() -> None:
    """Found by reading: a process that hangs keeps its connection, and without writes it was never seen behind."""
    bench = Bench(members(1, 2, 3, standbys=(4,)))
    bench.live(200, 2, 3, 4)
    assert bench.decide() == (Action.ASSIGN, 4, Role.VOTER)
    bench.live(3_000, 2, 3)
    assert bench.decide() is None
