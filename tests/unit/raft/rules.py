"""Single rules of Raft as functions of a core class: each passes on RaftCore and fails on its mutant.

Used by test_raft_rules.py (the product) and simulation/test_raft_mutants.py (do the checks bite?).
"""

from __future__ import annotations

from collections.abc import Callable

from dqlite_py.errors import MembershipRefused
from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.messages import AppendReply, AppendRequest, VoteReply
from dqlite_py.raft.progress import ProgressState
from tests.unit.raft.solo import ME, Solo, append, command, configuration_entry, members, offer, vote

Rule = Callable[[type[RaftCore]], None]


def matching_entries_are_never_truncated(core_class: type[RaftCore]) -> None:
    """RF-1; paper 5.3: only "if an existing entry conflicts" is it deleted."""
    solo = Solo(None, 1, 1, core_class=core_class)
    solo.step(append(2, 1, (3, 1), command(4, 1), command(5, 1), commit=5)).settle()
    assert solo.core.commit_index == 5
    solo.step(append(2, 1, (1, 1), command(2, 1))).settle()
    assert solo.core.last_index == 5
    assert all(effects.truncate_from is None for effects in solo.effects)


def acknowledgements_of_earlier_terms_do_not_count(core_class: type[RaftCore]) -> None:
    """RF-3: node 1 led term 2, lost it, and leads again; node 3's late answer is of term 2."""
    solo = Solo(members(1, 2, 3, 4, 5), 1, term=1, core_class=core_class).elect(2, 3)
    late = solo.reply(3, match=3)
    solo.step(VoteReply(NodeId(4), Term(3), False, Term(3), False)).settle()
    solo.elect(2, 4).ack(2, 4)
    assert solo.core.term == 4
    solo.core.propose(b"precious", solo.now)
    solo.settle().ack(2, 5).settle()
    index = solo.core.commit_index
    solo.step(late._replace(match_index=LogIndex(5))).settle()
    assert solo.core.commit_index == index


def grants_of_earlier_candidacies_do_not_count(core_class: type[RaftCore]) -> None:
    """RF-3, paper 5.2: "in that term"."""
    solo = Solo(core_class=core_class)
    solo.core.campaign(0)
    solo.settle().step(VoteReply(NodeId(2), Term(1), True, Term(2), True)).settle()
    late = VoteReply(NodeId(2), Term(2), False, Term(2), True)
    solo.wait(900)  # nobody answers: a second candidacy
    solo.step(VoteReply(NodeId(3), Term(2), True, Term(3), True)).settle()
    assert solo.core.term == 3
    solo.step(late).settle()
    assert not solo.core.is_leader


def votes_are_a_set_of_members(core_class: type[RaftCore]) -> None:
    """RF-4: duplicates count once, strangers and stand-bys not at all."""
    solo = Solo(members(1, 2, 3, 4, 5, standbys=(6,)), core_class=core_class)
    solo.core.campaign(0)
    for voter in (2, 2, 6, 99):
        solo.step(VoteReply(NodeId(voter), Term(1), True, Term(2), True)).settle()
    assert solo.core.term == 1, "two real pre-votes are not three"
    solo.step(VoteReply(NodeId(3), Term(1), True, Term(2), True)).settle()
    for voter in (2, 2, 6, 99):
        solo.step(VoteReply(NodeId(voter), Term(2), False, Term(2), True)).settle()
    assert not solo.core.is_leader
    solo.step(VoteReply(NodeId(3), Term(2), False, Term(2), True)).settle()
    assert solo.core.is_leader


def entries_are_acknowledged_when_durable(core_class: type[RaftCore]) -> None:
    """RF-2: what is in memory only is not acknowledged."""
    solo = Solo(core_class=core_class)
    solo.step(append(2, 1, (1, 1), command(2, 1), command(3, 1)))
    solo.take()
    solo.step(append(2, 1, (3, 1), round_number=2))  # a heartbeat meanwhile
    solo.take()
    assert all(reply.match_index <= 1 for reply in solo.heard(AppendReply))
    solo.settle()
    assert solo.heard(AppendReply)[-1].match_index == 3


def only_verified_entries_are_acknowledged(core_class: type[RaftCore]) -> None:
    """RF-7: durable entries behind what this leader compared may be another leader's."""
    solo = Solo(None, 1, 1, 1, core_class=core_class)
    solo.step(append(2, 2, (2, 1))).settle()
    assert solo.heard(AppendReply)[-1].match_index == 2


def a_leader_counts_itself_when_durable(core_class: type[RaftCore]) -> None:
    """RF-2, thesis 10.2.1: disk and followers in parallel, but each counted when durable."""
    solo = Solo(core_class=core_class).elect().ack(2, 2).settle()
    solo.core.propose(b"x", solo.now)
    effects = solo.take()
    assert [m.entries for _, m in effects.messages if isinstance(m, AppendRequest)], (
        "sent before the disk is done"
    )
    solo.core.tick(solo.now)
    assert solo.core.commit_index == 2
    solo.core._advance_commit()
    assert solo.core.commit_index == 2
    solo.ack(2, 3)
    assert solo.core.commit_index == 2 or solo.core.durable_index == 3
    solo.ack(3, 3)
    assert solo.core.commit_index == 3, "two followers are a quorum without us"
    assert not solo.committed[-1:] or solo.committed[-1].index < 3, "not handed out before it is durable here"


def votes_are_told_when_durable(core_class: type[RaftCore]) -> None:
    """RF-5: term and vote reach the disk BEFORE any message that tells of them."""
    solo = Solo(core_class=core_class).later()
    solo.step(vote(2, 5, (9, 4)))
    effects = solo.take()
    assert effects.hard_state == HardState(Term(5), NodeId(2))
    assert not solo.sent
    solo.step(vote(2, 5, (9, 4)))  # repeated while the disk is busy
    solo.take()
    assert not solo.sent
    solo.write()
    solo.take()
    assert [r.granted for r in solo.heard(VoteReply)] == [True, True]


def an_own_vote_counts_when_durable(core_class: type[RaftCore]) -> None:
    """RF-5: a sole voter must not lead a term that it would forget."""
    solo = Solo(members(1, standbys=(2,)), core_class=core_class)
    solo.core.campaign(0)
    solo.take()
    assert not solo.core.is_leader
    solo.settle()
    assert solo.core.is_leader


def a_snapshot_offer_commits_nothing(core_class: type[RaftCore]) -> None:
    """RF-6: an isolated leader's tail must not be committed by an offer."""
    solo = Solo(None, 1, 1, 1, core_class=core_class)
    solo.step(offer(2, 2, (4, 2), members(1, 2, 3))).settle()
    assert solo.core.commit_index == 0
    assert not solo.committed


def entries_of_earlier_terms_are_not_counted(core_class: type[RaftCore]) -> None:
    """Paper 5.4.2, figure 8: committed only with an entry of the leader's own term."""
    solo = Solo(members(1, 2, 3, 4, 5), 2, term=3, core_class=core_class).elect(2, 3)
    assert solo.core.last_index == 3
    solo.ack(2, 2).ack(3, 2).settle()
    assert solo.core.commit_index == 0, "entry 2 is on a majority and may still be overwritten"
    solo.ack(2, 3).ack(3, 3).settle()
    assert solo.core.commit_index == 3


def nothing_unverified_is_committed(core_class: type[RaftCore]) -> None:
    """Paper figure 2, AppendEntries 5: up to the last entry compared, not to the end of the log."""
    solo = Solo(None, 1, 1, 1, core_class=core_class)
    solo.step(append(2, 2, (2, 1), commit=4)).settle()
    assert solo.core.commit_index == 2


def votes_go_to_complete_logs(core_class: type[RaftCore]) -> None:
    """Paper 5.4.1."""
    for last, granted in (((3, 2), True), ((4, 1), False), ((2, 2), False), ((2, 3), True)):
        solo = Solo(None, 1, 2, core_class=core_class).later()
        solo.step(vote(2, 7, last)).settle()
        assert [r.granted for r in solo.heard(VoteReply)] == [granted], last


def one_change_at_a_time(core_class: type[RaftCore]) -> None:
    """RF-9, thesis 4.1: not while another is pending, not before this term committed something."""
    solo = Solo(core_class=core_class).elect()
    new = solo.core.configuration.with_member(members(4).members[0])
    standby = solo.core.configuration.with_member(members(1, standbys=(4,)).members[1])
    assert new != standby
    _refused(solo, standby)
    solo.ack(2, 2).settle()
    solo.core.propose_configuration(standby, solo.now)
    solo.settle()
    _refused(solo, solo.core.configuration.without(NodeId(4)))
    solo.ack(2, 3).settle()
    solo.core.propose_configuration(solo.core.configuration.without(NodeId(4)), solo.now)


def _refused(solo: Solo, configuration: object) -> None:
    try:
        solo.core.propose_configuration(configuration, solo.now)  # type: ignore[arg-type]
    except MembershipRefused:
        return
    raise AssertionError("the change was not refused")


def a_truncated_configuration_is_rolled_back(core_class: type[RaftCore]) -> None:
    """RF-9: effective when appended, gone when truncated."""
    solo = Solo(core_class=core_class)
    solo.step(append(2, 1, (1, 1), configuration_entry(2, 1, members(1, 2, 3, standbys=(4,))))).settle()
    assert solo.core.configuration.get(NodeId(4)) is not None
    solo.step(append(3, 2, (1, 1), command(2, 2))).settle()
    assert solo.core.configuration.get(NodeId(4)) is None
    assert solo.core.configuration.index == 1


def stand_bys_do_not_count(core_class: type[RaftCore]) -> None:
    """RF-9, thesis 4.2.1."""
    solo = Solo(members(1, 2, 3, standbys=(4, 5)), core_class=core_class).elect()
    solo.ack(4, 2).ack(5, 2).settle()
    assert solo.core.commit_index == 0
    solo.ack(3, 2).settle()
    assert solo.core.commit_index == 2


def reads_wait_for_a_quorum(core_class: type[RaftCore]) -> None:
    """RF-12, thesis 6.4: a round that began after the read, answered by a quorum."""
    solo = Solo(core_class=core_class).elect().ack(2, 2).settle()
    solo.forget()
    solo.core.read_index(7, solo.now)
    solo.settle()
    assert not _ready(solo)
    solo.ack(2, 2, round_number=solo.core._round - 1).settle()
    assert not _ready(solo), "an older round proves nothing"
    solo.ack(2, 2).settle()
    assert _ready(solo) == [(7, 2)]


def _ready(solo: Solo) -> list[tuple[int, LogIndex]]:
    return [ready for effects in solo.effects for ready in effects.reads_ready]


def reads_wait_for_the_own_term(core_class: type[RaftCore]) -> None:
    """RF-12, thesis 6.4: until its no-op is committed a leader does not know the commit index."""
    solo = Solo(None, 1, 1, core_class=core_class).elect()
    solo.core.read_index(7, solo.now)
    solo.settle()
    solo.step(*(solo.reply(peer, match=1) for peer in (2, 3))).settle()
    assert not _ready(solo)
    assert [failed for effects in solo.effects for failed in effects.reads_failed] == [7]


def nothing_is_handed_out_before_it_is_durable(core_class: type[RaftCore]) -> None:
    """A state machine ahead of its own log would have no log to restart from."""
    solo = Solo(core_class=core_class)
    solo.step(append(2, 1, (1, 1), command(2, 1), commit=2))
    solo.take()  # what is committed comes behind the batch on its way to the disk
    solo.take()
    assert solo.core.commit_index == 2
    assert [e.index for e in solo.committed] == [1]
    solo.settle()
    assert [e.index for e in solo.committed] == [1, 2]


def an_installed_snapshot_keeps_what_was_acknowledged(core_class: type[RaftCore]) -> None:
    """RF-7, thesis 5.1: the suffix stays if the log contains the snapshot's last entry."""
    solo = Solo(None, 1, 1, core_class=core_class)
    solo.step(append(2, 1, (3, 1), command(4, 1))).settle()
    assert solo.heard(AppendReply)[-1].match_index == 4
    solo.core.install_snapshot(Snapshot(LogIndex(2), Term(1), members(1, 2, 3).at(LogIndex(1))), solo.now)
    solo.settle()
    assert solo.core.last_index == 4
    assert solo.core.commit_index == 2
    assert all(effects.journal_reset is None for effects in solo.effects)


def a_leader_without_quorum_steps_down(core_class: type[RaftCore]) -> None:
    """RF-11, thesis 6.2: within one maximum election timeout."""
    solo = Solo(core_class=core_class).elect().ack(2, 2).settle()
    solo.wait(SETTLED_MS)
    assert not solo.core.is_leader
    assert any(effects.lost_leadership for effects in solo.effects)


SETTLED_MS = 840.0  # the maximum election timeout and two ticks


def a_live_leader_is_not_disturbed(core_class: type[RaftCore]) -> None:
    """RF-11, thesis 4.2.3: no vote, no pre-vote, no higher term while a leader is heard; a transfer passes."""
    solo = Solo(core_class=core_class)
    solo.step(append(2, 1, (1, 1))).settle().forget()
    solo.tick(300).step(vote(3, 9, (9, 8)), vote(3, 9, (9, 8), pre=True)).settle()
    assert solo.core.term == 1
    assert not solo.sent
    solo.step(vote(3, 9, (9, 8), transfer=True)).settle()
    assert solo.core.term == 9
    assert [r.granted for r in solo.heard(VoteReply)] == [True]


def lost_data_is_noticed(core_class: type[RaftCore]) -> None:
    """A follower whose log is shorter than what it acknowledged is not counted any more."""
    solo = Solo(members(1, 2, 3), core_class=core_class).elect()
    solo.core.propose(b"x", solo.now)
    solo.settle().ack(2, 3).settle()
    solo.wait(80)
    solo.refuse(2, 3, (1, 1)).settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.LOST_DATA
    assert [lost for effects in solo.effects for lost in effects.lost_data] == [2]
    index = solo.core.commit_index
    solo.core.propose(b"y", solo.now)
    solo.settle().ack(2, 4).settle()
    assert solo.core.commit_index == index
    solo.ack(3, 4).settle()
    assert solo.core.commit_index == 4


RULES: tuple[Rule, ...] = (
    matching_entries_are_never_truncated,
    acknowledgements_of_earlier_terms_do_not_count,
    grants_of_earlier_candidacies_do_not_count,
    votes_are_a_set_of_members,
    entries_are_acknowledged_when_durable,
    only_verified_entries_are_acknowledged,
    a_leader_counts_itself_when_durable,
    votes_are_told_when_durable,
    an_own_vote_counts_when_durable,
    a_snapshot_offer_commits_nothing,
    entries_of_earlier_terms_are_not_counted,
    nothing_unverified_is_committed,
    votes_go_to_complete_logs,
    one_change_at_a_time,
    a_truncated_configuration_is_rolled_back,
    stand_bys_do_not_count,
    reads_wait_for_a_quorum,
    reads_wait_for_the_own_term,
    nothing_is_handed_out_before_it_is_durable,
    an_installed_snapshot_keeps_what_was_acknowledged,
    a_leader_without_quorum_steps_down,
    a_live_leader_is_not_disturbed,
    lost_data_is_noticed,
)

__all__ = ["ME", "RULES", "Entry", "EntryKind", "Rule"]
