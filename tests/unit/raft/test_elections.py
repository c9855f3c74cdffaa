"""raft/elections.py: when a node campaigns, whom it votes for, when a leader gives up, handing over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dqlite_py.errors import MembershipRefused, NotLeader
from dqlite_py.model import Configuration, HardState, LogIndex, NodeId, Term
from dqlite_py.raft.effects import RaftState
from dqlite_py.raft.messages import AppendReply, AppendRequest, TimeoutNow, VoteReply, VoteRequest
from tests.unit.raft.solo import SETTINGS, Solo, append, command, members, vote


def test_a_follower_campaigns_within_the_random_timeout() -> None:
    """Paper 5.2, RF-21: one round, between the minimum and the maximum."""
    waits = set()
    for _ in range(5):
        solo = Solo()
        while solo.core.state is RaftState.FOLLOWER:
            solo.tick().settle()
        waits.add(solo.now)
        assert SETTINGS.election_min_ms <= solo.now <= SETTINGS.election_max_ms + 20
        assert {m.pre for m in solo.heard(VoteRequest)} == {True}
        assert solo.core.term == 1, "a pre-vote raises no term"
    assert waits


def test_a_failed_pre_vote_is_tried_again_with_a_fresh_timeout() -> None:
    solo = Solo()
    gaps, last = [], 0.0
    for _ in range(6):
        solo.forget()
        while not solo.heard(VoteRequest):
            solo.tick().settle()
        gaps.append(solo.now - last)
        last = solo.now
    assert len(set(gaps)) > 1
    assert all(SETTINGS.election_min_ms <= gap <= SETTINGS.election_max_ms + 20 for gap in gaps)
    assert solo.core.term == 1


@pytest.mark.parametrize(
    "configuration",
    [Configuration(), members(2, 3), members(2, 3, standbys=(1,)), members(2, 3, spares=(1,))],
    ids=["empty", "stranger", "stand-by", "spare"],
)
def test_only_voters_campaign(configuration: Configuration) -> None:
    solo = Solo(entries=[]) if not configuration.members else Solo(configuration)
    solo.wait(3000)
    solo.core.campaign(solo.now)
    solo.settle()
    assert not solo.sent
    assert solo.core.state is RaftState.FOLLOWER


def test_who_cannot_campaign_forgets_a_silent_leader() -> None:
    """Or requests would be sent to it for ever."""
    solo = Solo(members(2, 3, standbys=(1,)))
    solo.step(append(2, 1, (1, 1))).settle().forget()
    solo.wait(390)
    assert solo.core.leader_id == 2
    solo.wait(450)
    assert solo.core.leader_id is None
    assert any(effects.state_changed for effects in solo.effects)
    solo.step(append(2, 1, (1, 1))).settle()
    assert solo.core.leader_id == 2


def test_requests_go_to_voters_only() -> None:
    solo = Solo(members(1, 2, 3, standbys=(4,), spares=(5,)))
    solo.core.campaign(0)
    solo.settle()
    assert sorted(peer for peer, _ in solo.sent) == [2, 3]


def test_a_sole_voter_leads_at_once() -> None:
    solo = Solo(members(1))
    solo.core.campaign(0)
    solo.settle()
    assert solo.core.is_leader
    assert solo.core.commit_index == solo.core.last_index == 2
    assert [e.index for e in solo.committed] == [1, 2]


def test_a_candidate_asks_when_its_vote_is_durable() -> None:
    """Paper figure 2: vote for self, then ask; RF-5."""
    solo = Solo()
    solo.core.campaign(0)
    solo.settle().forget()
    solo.step(VoteReply(NodeId(2), Term(1), True, Term(2), True))
    effects = solo.take()
    assert effects.hard_state == HardState(Term(2), NodeId(1))
    assert not effects.messages
    assert {(p, m.pre, m.term) for p, m in effects.messages_when_durable if isinstance(m, VoteRequest)} == {
        (2, False, 2),
        (3, False, 2),
    }


def test_the_vote_survives_a_restart() -> None:
    solo = Solo(term=4, voted_for=2).later()
    solo.step(vote(3, 4, (9, 4))).settle()
    solo.step(vote(2, 4, (9, 4))).settle()
    assert [(r.granted, r.for_term) for r in solo.heard(VoteReply)] == [(False, 4), (True, 4)]
    assert all(effects.hard_state is None for effects in solo.effects)


def test_a_grant_restarts_the_election_timer() -> None:
    """Paper 5.2: a follower that granted waits anew."""
    solo = Solo()
    solo.wait(390)
    solo.step(vote(2, 2, (9, 1))).settle()
    solo.wait(380)
    assert solo.core.state is RaftState.FOLLOWER


def test_a_refusal_tells_the_term_and_does_not_restart_the_timer() -> None:
    solo = Solo(None, 3, term=5).later()
    deadline = solo.core._deadline
    solo.step(vote(2, 4, (9, 4)), vote(2, 5, (1, 1))).settle()
    assert [(r.term, r.granted, r.for_term) for r in solo.heard(VoteReply)] == [(5, False, 4), (5, False, 5)]
    assert solo.core._deadline == deadline


def test_a_pre_vote_changes_nothing() -> None:
    """Thesis 9.6."""
    solo = Solo(None, 1).later()
    solo.step(
        vote(2, 7, (2, 1), pre=True), vote(3, 7, (2, 1), pre=True), vote(3, 7, (1, 1), pre=True)
    ).settle()
    assert [(r.pre, r.granted, r.term, r.for_term) for r in solo.heard(VoteReply)] == [
        (True, True, 1, 7),
        (True, True, 1, 7),
        (True, False, 1, 7),
    ]
    assert (solo.core.term, solo.core.voted_for) == (1, 0)


def test_a_pre_vote_for_our_own_term_is_refused() -> None:
    solo = Solo(term=7).later()
    solo.step(vote(2, 7, (9, 6), pre=True)).settle()
    assert [(r.granted, r.term) for r in solo.heard(VoteReply)] == [(False, 7)]


def test_a_higher_term_in_a_reply_ends_a_candidacy_and_a_leadership() -> None:
    solo = Solo()
    solo.core.campaign(0)
    solo.settle().step(VoteReply(NodeId(2), Term(6), True, Term(2), False)).settle()
    assert (solo.core.state, solo.core.term) == (RaftState.FOLLOWER, 6)
    solo.elect()
    assert solo.core.is_leader
    solo.step(solo.reply(2, reject=True, term=11)).settle()
    assert (solo.core.state, solo.core.term, solo.core.leader_id) == (RaftState.FOLLOWER, 11, None)
    assert any(effects.lost_leadership for effects in solo.effects)


def test_a_stranger_does_not_depose_a_leader() -> None:
    """RF-4, RF-11: the word of who is not a member raises no term."""
    solo = Solo().elect()
    solo.step(solo.reply(99, reject=True, term=50), VoteReply(NodeId(99), Term(50), False, Term(50), False))
    assert solo.core.is_leader


def test_a_leader_ignores_requests_of_higher_terms() -> None:
    """Thesis 4.2.3; a candidate that is really ahead answers our heartbeat with its term instead."""
    solo = Solo().elect().ack(2, 2).settle().forget()
    solo.step(vote(3, 9, (99, 8)), vote(3, 9, (99, 8), pre=True)).settle()
    assert solo.core.is_leader
    assert not solo.sent


def test_a_leader_of_an_old_term_is_told() -> None:
    """RF-11: silence would leave it leading."""
    solo = Solo(term=8)
    solo.step(append(2, 5, (1, 1), command(2, 5), round_number=3)).settle()
    assert [(r.term, r.reject, r.round) for r in solo.heard(AppendReply, 2)] == [(8, True, 0)]
    assert solo.core.last_index == 1


def test_a_leader_with_a_quorum_stays() -> None:
    solo = Solo(members(1, 2, 3, 4, 5)).elect(2, 3)
    for _ in range(30):
        solo.wait(100).ack(2, 2).ack(4, 2)
    assert solo.core.is_leader
    for _ in range(10):
        solo.wait(100).ack(2, 2).ack(2, 2)
    assert not solo.core.is_leader, "two of five are no quorum"


def test_a_stall_of_our_own_deposes_nobody() -> None:
    """RF-15, audit B6: after a stall the leader's messages wait in our buffers."""
    solo = Solo()
    solo.step(append(2, 1, (1, 1))).settle().forget()
    solo.tick(3000).settle()
    assert solo.core.state is RaftState.FOLLOWER
    leader = Solo().elect().ack(2, 2).settle()
    leader.tick(3000).settle()
    assert leader.core.is_leader
    leader.wait(100)
    assert not leader.core.is_leader, "but silence after it counts"


def test_a_process_that_always_stalls_still_elects() -> None:
    solo = Solo()
    for _ in range(4):
        solo.tick(500).settle()
    assert solo.heard(VoteRequest)


# -- transfer (thesis 3.10) ------------------------------------------------------------------------------


def test_a_transfer_waits_for_the_target_and_takes_no_proposals() -> None:
    solo = Solo().elect().ack(2, 2).ack(3, 2).settle()
    solo.core.propose(b"x", solo.now)
    solo.settle().forget()
    assert solo.core.transfer_leadership(NodeId(3), solo.now) == 3
    solo.settle()
    with pytest.raises(NotLeader) as refused:
        solo.core.propose(b"y", solo.now)
    assert refused.value.details["leader_id"] == 3
    assert not solo.heard(TimeoutNow)
    solo.ack(3, 3).settle()
    assert [(m.sender, m.term) for m in solo.heard(TimeoutNow, 3)] == [(1, 2)]


def test_a_transfer_is_given_up_after_the_maximum_timeout() -> None:
    solo = Solo().elect().ack(2, 2).ack(3, 2).settle()
    solo.core.transfer_leadership(None, solo.now)
    for _ in range(8):
        solo.wait(120).ack(2, 2).ack(3, 2).settle()
    assert solo.core.is_leader
    solo.core.propose(b"x", solo.now)


def test_a_transfer_goes_to_the_furthest_voter() -> None:
    solo = Solo(members(1, 2, 3, standbys=(4,))).elect().ack(3, 2).ack(2, 1).ack(4, 2).settle()
    assert solo.core.transfer_leadership(None, solo.now) == 3
    assert solo.core.transfer_leadership(None, solo.now) == 3
    with pytest.raises(MembershipRefused):
        solo.core.transfer_leadership(NodeId(2), solo.now)


@pytest.mark.parametrize("target", [1, 4, 77])
def test_a_transfer_to_who_cannot_lead_is_refused(target: int) -> None:
    solo = Solo(members(1, 2, 3, standbys=(4,))).elect().ack(2, 2).settle()
    with pytest.raises(MembershipRefused):
        solo.core.transfer_leadership(NodeId(target), solo.now)


def test_a_transfer_needs_a_leader_here() -> None:
    with pytest.raises(NotLeader):
        Solo().core.transfer_leadership(None, 0)


def test_the_target_campaigns_past_pre_vote_and_stickiness() -> None:
    solo = Solo()
    solo.step(append(2, 1, (1, 1))).settle().forget()
    solo.step(TimeoutNow(NodeId(3), Term(1)), TimeoutNow(NodeId(2), Term(7))).settle()
    assert not solo.sent, "only this term's leader may ask for it"
    solo.step(TimeoutNow(NodeId(2), Term(1))).settle()
    assert {(m.pre, m.transfer, m.term) for m in solo.heard(VoteRequest)} == {(False, True, 2)}


def test_a_quarantined_node_votes_but_never_leads() -> None:
    solo = Solo()
    solo.core.request_snapshot()
    solo.wait(3000)
    solo.core.campaign(solo.now)
    solo.step(append(2, 1, (1, 1)), TimeoutNow(NodeId(2), Term(1))).settle()
    assert not solo.heard(VoteRequest)
    solo.wait(500)
    solo.step(vote(3, 5, (9, 4))).settle()
    assert [r.granted for r in solo.heard(VoteReply)] == [True]


def test_a_leader_in_quarantine_steps_down_first() -> None:
    solo = Solo().elect().ack(2, 2).settle().forget()
    solo.core.request_snapshot()
    solo.settle()
    assert solo.core.state is RaftState.FOLLOWER
    assert any(effects.lost_leadership for effects in solo.effects)
    assert not solo.heard(AppendRequest)
    assert solo.core.commit_index == LogIndex(2)


def test_leadership_goes_to_the_lightest_that_is_near() -> None:
    rows = [
        replace(m, weight=w) for m, w in zip(members(1, 2, 3, 4, 5).members, (0, 5, 1, 1, 0), strict=True)
    ]
    solo = Solo(Configuration(tuple(rows))).elect(2, 3)
    last = solo.core.last_index
    for peer in (2, 3, 4):
        solo.ack(peer, last).settle()
    assert solo.core.transfer_leadership(None, solo.now) == 5, "a few entries behind is near"
