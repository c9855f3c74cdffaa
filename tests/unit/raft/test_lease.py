"""The leader's lease: when it holds, what ends it, and that nobody else leads while it does (thesis 6.4.1)."""

from __future__ import annotations

import pytest

from dqlite_py.model import NodeId, Term
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.messages import TimeoutNow, VoteReply
from tests.faults.ours import CoreWorld
from tests.unit.raft.solo import SETTINGS, Solo, append, command, members, noop, vote

LEASE_MS = SETTINGS.lease_ms
ROUND_MS = SETTINGS.heartbeat_ms + 20  # the next heartbeat is due, and the tick has come


def leader(*voters: int) -> Solo:
    """Elected; its no-op is committed, and no round is confirmed since."""
    solo = Solo(members(*(voters or (1, 2, 3)))).elect()
    return solo.ack(2, 2).settle()


def holds(solo: Solo) -> bool:
    return solo.core.lease_index(solo.now) is not None


def test_a_lease_lasts_from_when_the_confirmed_round_was_sent() -> None:
    solo = leader()
    solo.wait(ROUND_MS)
    sent = solo.core._rounds_sent[-1][1]
    solo.wait(20)  # the answer takes its time
    solo.ack(2, 2).settle()
    assert solo.core.lease_until_ms == sent + LEASE_MS
    assert solo.core.lease_index(sent + LEASE_MS - 1) == solo.core.commit_index
    assert solo.core.lease_index(sent + LEASE_MS) is None


def test_the_margin_for_clocks_is_stated() -> None:
    assert SETTINGS.election_min_ms * 0.9 == LEASE_MS


def test_a_round_of_before_gives_no_more_time() -> None:
    solo = leader()
    solo.wait(ROUND_MS)
    sent = solo.core._rounds_sent[-1][1]
    first = solo.core._round
    solo.wait(3 * ROUND_MS)
    assert solo.core._round > first
    solo.ack(2, 2, round_number=first).settle()
    assert solo.core.lease_until_ms == sent + LEASE_MS


def test_it_takes_a_quorum() -> None:
    solo = Solo(members(1, 2, 3, 4, 5)).elect(2, 3)
    solo.ack(2, 2).ack(3, 2).settle().wait(ROUND_MS)
    before = solo.core.lease_until_ms
    solo.ack(2, 2).settle()
    assert solo.core.lease_until_ms == before
    solo.ack(9, 2).settle()  # no member
    assert solo.core.lease_until_ms == before
    solo.ack(3, 2).settle()
    assert solo.core.lease_until_ms > before
    assert holds(solo)


def test_not_before_an_entry_of_the_term_is_committed() -> None:
    solo = Solo().elect().wait(ROUND_MS)
    solo.ack(2, 1).settle()  # it answers, without the no-op
    assert not holds(solo)
    solo.ack(2, 2).settle().wait(ROUND_MS)
    solo.ack(2, 2).settle()
    assert holds(solo)


def test_a_sole_voter_holds_its_own() -> None:
    solo = Solo(members(1, standbys=(2,)))
    solo.core.campaign(0)
    solo.settle().wait(ROUND_MS)
    assert holds(solo)


def confirmed(*voters: int) -> Solo:
    solo = leader(*voters).wait(ROUND_MS)
    solo.ack(2, 2).settle()
    assert holds(solo)
    return solo


def test_it_ends_with_a_transfer_for_the_whole_term() -> None:
    solo = confirmed()
    solo.core.peer_connected(NodeId(2), solo.now)
    solo.core.transfer_leadership(NodeId(2), solo.now)
    assert not holds(solo)
    solo.settle()
    assert solo.heard(TimeoutNow)
    for _ in range(30):  # given up meanwhile; but the TimeoutNow may still be on its way
        solo.wait(ROUND_MS)
        solo.ack(2, 2).settle()
    assert solo.core._transfer is None
    assert solo.core.is_leader
    assert not holds(solo)


def test_it_ends_with_leadership() -> None:
    solo = confirmed()
    solo.step(VoteReply(NodeId(3), Term(9), False, Term(9), False)).settle()
    assert solo.core.state is RaftState.FOLLOWER
    assert not holds(solo)


def test_the_next_term_begins_without_one() -> None:
    solo = confirmed()
    solo.step(VoteReply(NodeId(3), Term(9), False, Term(9), False)).settle().elect()
    assert not holds(solo)


def test_other_voters_have_to_give_it_anew() -> None:
    solo = confirmed()
    new = solo.core.configuration.without(NodeId(3))
    solo.core.propose_configuration(new, solo.now)
    assert not holds(solo)
    before = solo.core._round
    solo.ack(2, 3, round_number=before).settle()
    assert not holds(solo)
    solo.wait(ROUND_MS)
    solo.ack(2, 3).settle()
    assert holds(solo)


def test_a_leader_that_is_no_voter_has_none() -> None:
    solo = confirmed()
    solo.core.propose_configuration(solo.core.configuration.without(NodeId(1)), solo.now)
    solo.settle().wait(ROUND_MS)
    solo.step(solo.reply(2, match=2), solo.reply(3, match=2))
    assert solo.core.is_leader
    assert not holds(solo)


# -- what followers promise ------------------------------------------------------------------------------------


def granted(solo: Solo) -> list[bool]:
    return [reply.granted for reply in solo.heard(VoteReply)]


@pytest.mark.parametrize("pre", [False, True])
def test_who_hears_of_a_higher_term_still_keeps_its_promise(pre: bool) -> None:
    """A late refusal of its own, older candidacy takes the leader's name from it, not the leader's lease."""
    solo = Solo(None, 1)
    solo.step(append(2, 1, (2, 1))).settle()
    solo.step(VoteReply(NodeId(3), Term(7), True, Term(2), False)).settle()
    assert solo.core.leader_id is None
    solo.forget().now += LEASE_MS
    solo.step(vote(3, 8, (9, 7), pre=pre)).settle()
    assert granted(solo) == []
    solo.now += SETTINGS.election_min_ms - LEASE_MS
    solo.step(vote(3, 8, (9, 7), pre=pre)).settle()
    assert granted(solo) == [True]


def test_who_restarted_votes_for_nobody_for_a_while() -> None:
    solo = Solo(None, 1)
    solo.now += SETTINGS.election_min_ms - 1
    solo.step(vote(3, 8, (9, 7))).settle()
    assert (granted(solo), solo.core.term) == ([], 1)
    solo.step(vote(3, 8, (9, 7), transfer=True)).settle()  # the leader itself asked for it: its lease is over
    assert granted(solo) == [True]


def test_who_never_heard_a_leader_votes_at_once() -> None:
    solo = Solo(entries=[])
    solo.step(vote(3, 8, (9, 7))).settle()
    assert granted(solo) == [True]


# -- all together ----------------------------------------------------------------------------------------------


def assert_one_leads(world: CoreWorld) -> None:
    """Nobody leads a later term while another's lease holds."""
    for node in world.nodes.values():
        if node.core.lease_index(world.now) is not None:
            newer = [
                other.name for other in world.nodes.values() if other.is_leader and other.term > node.term
            ]
            assert not newer, f"{node.name} has a lease, {newer} lead"


def test_a_follower_that_restarts_does_not_break_the_lease() -> None:
    """A holds a lease by B's word; B restarts and is asked by C, which is cut off from A and whose time is up."""
    world = CoreWorld("ABC")
    world.elect("A")
    world.disconnect("AC")
    world.run(700)
    for _ in range(40):
        world.run(SETTINGS.heartbeat_ms)
        assert world["A"].core.lease_index(world.now) is not None
        world.restart("B")
        world.connect("BC")
        world.run(SETTINGS.election_min_ms, watch=lambda: assert_one_leads(world))
        world.connect("AB")
        if not world["A"].is_leader:
            return  # C came to lead, after A's lease
        world.run(SETTINGS.election_min_ms, watch=lambda: assert_one_leads(world))


@pytest.mark.parametrize("seed", range(8))
def test_partitions_and_restarts(seed: int) -> None:
    import random

    chance = random.Random(seed)
    world = CoreWorld("ABCDE", seed=seed)
    world.elect("A")
    held = 0

    def watch() -> None:
        nonlocal held
        held += any(node.core.lease_index(world.now) is not None for node in world.nodes.values())
        assert_one_leads(world)

    for _ in range(60):
        name = chance.choice("ABCDE")
        action = chance.randrange(4)
        if action == 0:
            world.isolate(name)
        elif action == 1:
            world.connect_all()
        elif action == 2:
            world.restart(name)
            world.connect_all()
        else:
            leaders = [node for node in world.nodes.values() if node.is_leader]
            for node in leaders[:1]:
                try:
                    node.core.transfer_leadership(None, world.now)
                except Exception:  # noqa: BLE001 - nobody to hand over to
                    continue
                node.settle_effects()
        world.run(chance.randrange(20, 600), watch=watch)
    assert held > 100


# -- how fresh a follower is -------------------------------------------------------------------------------------


def test_a_follower_is_as_fresh_as_what_it_heard_and_applied() -> None:
    solo = Solo(None, 1)
    assert solo.core.fresh_ms == float("-inf")
    solo.now = 100
    solo.step(append(2, 2, (2, 1), noop(3, 2), commit=3)).settle()
    assert solo.core.fresh_ms == float("-inf")  # committed, but not applied here
    solo.now = 160
    solo.step(append(2, 2, (3, 2), command(4, 2), commit=3)).settle()
    solo.core.applied(solo.core._handed_index)
    assert solo.core.fresh_ms == 100
    solo.now = 220
    solo.step(append(2, 2, (4, 2), commit=4)).settle()
    assert solo.core.fresh_ms == 100
    solo.core.applied(solo.core._handed_index)
    assert solo.core.fresh_ms == 220
    solo.now = 900
    assert solo.core.fresh_ms == 220


def test_a_leader_that_has_committed_nothing_yet_makes_nobody_fresh() -> None:
    """It does not know what leaders before it have committed and acknowledged."""
    solo = Solo(None, 1)
    solo.step(append(2, 2, (2, 1), noop(3, 2), commit=3)).settle()
    solo.core.applied(solo.core._handed_index)
    solo.now = 100
    solo.step(append(3, 3, (3, 2), command(4, 3), commit=0)).settle()
    solo.step(append(3, 3, (4, 3), command(5, 3), commit=3)).settle()
    assert solo.core.fresh_ms == 0
    solo.step(append(3, 3, (5, 3), commit=5)).settle()
    solo.core.applied(solo.core._handed_index)
    assert solo.core.fresh_ms == 100


def test_what_is_refused_makes_nobody_fresh() -> None:
    solo = Solo(None, 1)
    solo.now = 100
    solo.step(append(2, 2, (9, 2), commit=3)).settle()
    assert solo.core.fresh_ms == float("-inf")


def test_messages_that_waited_for_this_process_make_nobody_fresh() -> None:
    solo = Solo(None, 1).tick()
    solo.core.applied(solo.core._handed_index)
    solo.step(append(2, 2, (2, 1), noop(3, 2), commit=3)).settle()
    solo.core.applied(solo.core._handed_index)
    fresh = solo.core.fresh_ms
    solo.tick(5_000)  # this process stood still
    solo.step(append(2, 2, (3, 2), commit=3)).settle()
    assert solo.core.fresh_ms == fresh
    solo.tick()
    solo.step(append(2, 2, (3, 2), commit=3)).settle()
    assert solo.core.fresh_ms == solo.now
