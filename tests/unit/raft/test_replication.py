"""raft/replication.py, counting.py: feeding followers within bounds, finding where logs meet, commit, reads."""

from __future__ import annotations

import pytest

from dqlite_py.errors import Busy, NotLeader, RaftInvariantBroken, RequestTooLarge
from dqlite_py.limits import ENTRY_BYTES_MAX
from dqlite_py.model import Entry, LogIndex, NodeId, Role, Snapshot, Term
from dqlite_py.raft.core import RaftSettings
from dqlite_py.raft.messages import AppendReply, AppendRequest, SnapshotOffer
from dqlite_py.raft.progress import ProgressState
from tests.unit.raft.solo import Solo, append, command, member, members

SMALL = RaftSettings(
    append_bytes_max=1000,
    append_entries_max=4,
    inflight_bytes_max=3000,
    inflight_messages_max=3,
    log_cache_bytes_max=2000,
    uncommitted_bytes_max=1000,
)


def leader(*terms: int, settings: RaftSettings = SMALL, **options: object) -> Solo:
    """Leader of nodes 1, 2, 3 whose no-op is committed, with node 2 replicating and node 3 silent."""
    solo = Solo(members(1, 2, 3), *terms, settings=settings, **options).elect()  # type: ignore[arg-type]
    return solo.ack(2, solo.core.last_index).settle().forget()


def spans(requests: list[AppendRequest]) -> list[tuple[int, int]]:
    return [(r.entries[0].index, r.entries[-1].index) for r in requests if r.entries]


def propose(solo: Solo, count: int, size: int = 10) -> None:
    for _ in range(count):
        solo.core.propose(b"x" * size, solo.now)


# -- proposing -------------------------------------------------------------------------------------------


def test_proposals_are_told_their_term_and_index() -> None:
    solo = leader()
    assert solo.core.propose(b"a", 0) == (2, 3)
    assert solo.core.propose(b"b", 0) == (2, 4)


def test_a_follower_names_the_leader() -> None:
    with pytest.raises(NotLeader) as refused:
        Solo().core.propose(b"a", 0)
    assert refused.value.details == {"leader_id": None}


def test_uncommitted_bytes_are_bounded() -> None:
    solo = leader()
    propose(solo, 2, 500)
    with pytest.raises(Busy):
        propose(solo, 1, 1)
    assert solo.core.uncommitted_bytes == 1000
    solo.settle().ack(2, 4).settle()
    assert solo.core.uncommitted_bytes == 0
    propose(solo, 1, 5000)  # one larger than the bound passes when nothing waits


def test_entries_that_the_disk_does_not_take_are_bounded() -> None:
    """Followers may commit without our disk: memory must not grow with it."""
    solo = leader().ack(3, 2).settle()
    while solo.core.log.cache_bytes <= SMALL.log_cache_bytes_max + SMALL.uncommitted_bytes_max:
        propose(solo, 1, 200)
        solo.take()
        solo.ack(2, solo.core.last_index).ack(3, solo.core.last_index)
    with pytest.raises(Busy, match="disk"):
        solo.core.propose(b"x", solo.now)
    assert solo.core.log.cache_first == 3
    assert solo.core.commit_index == solo.core.last_index < 20
    solo.settle()
    propose(solo, 1)


def test_an_entry_over_the_limit_is_refused() -> None:
    with pytest.raises(RequestTooLarge):
        leader().core.propose(b"x" * (ENTRY_BYTES_MAX + 1), 0)


# -- sending ---------------------------------------------------------------------------------------------


def test_followers_with_the_same_next_index_share_one_message() -> None:
    solo = leader().ack(3, 2).settle().forget()
    propose(solo, 3)
    solo.settle()
    (second,), (third,) = solo.heard(AppendRequest, 2), solo.heard(AppendRequest, 3)
    assert second is third
    assert spans([second]) == [(3, 5)]
    assert second.entries[0].payload is solo.journal[2].payload


def test_many_proposals_leave_in_one_message_and_one_batch() -> None:
    solo = leader()
    propose(solo, 4)
    effects = solo.take()
    assert [e.index for e in effects.entries] == [3, 4, 5, 6]
    assert spans(solo.heard(AppendRequest, 2)) == [(3, 6)]


def test_the_window_bounds_what_is_in_flight() -> None:
    solo = leader()
    propose(solo, 30)
    solo.settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(3, 6), (7, 10), (11, 14)]
    solo.forget().ack(2, 6).settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(15, 18)]
    solo.forget().ack(2, 14).settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(19, 22), (23, 26)]


def test_the_window_bounds_bytes_too() -> None:
    solo = leader(settings=RaftSettings(append_bytes_max=1000, inflight_bytes_max=1500))
    propose(solo, 6, 900)
    solo.settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(3, 3), (4, 4)]


def test_an_unknown_follower_is_probed_with_one_message() -> None:
    """No flood towards who does not answer; heartbeats keep asking, empty."""
    solo = leader()
    propose(solo, 30)
    solo.settle()
    assert not spans(solo.heard(AppendRequest, 3))
    solo.wait(200)
    assert not spans(solo.heard(AppendRequest, 3))
    assert {r.prev_index for r in solo.heard(AppendRequest, 3)} == {1}
    assert len(solo.heard(AppendRequest, 3)) <= 4


def test_nothing_is_sent_without_need() -> None:
    """RF-22: no spinning."""
    solo = leader().ack(3, 2).settle().forget()
    for _ in range(50):
        assert not solo.take()
    solo.ack(2, 2).ack(2, 1).ack(3, 2).settle()
    assert not solo.sent


def test_heartbeats_come_in_their_period_and_number_rounds() -> None:
    solo = leader().ack(3, 2).settle().wait(20).forget()
    solo.wait(300)
    rounds = [r.round for r in solo.heard(AppendRequest, 2)]
    assert 4 <= len(rounds) <= 5
    assert rounds == sorted(set(rounds))


def test_idle_followers_learn_the_commit_index_within_a_tick() -> None:
    solo = leader().ack(3, 2).settle()
    solo.wait(60).ack(2, 2).ack(3, 2).settle()
    propose(solo, 1)
    solo.settle().ack(2, 3).ack(3, 3).settle().forget()
    solo.tick().settle()
    assert {(p, m.commit_index) for p, m in solo.sent if isinstance(m, AppendRequest)} == {(2, 3), (3, 3)}
    solo.forget().tick().settle()
    assert not solo.heard(AppendRequest)


def test_a_spare_gets_heartbeats_and_a_stand_by_the_log() -> None:
    solo = Solo(members(1, 2, standbys=(4,), spares=(5,))).elect()
    solo.wait(100)
    assert {peer for peer, _ in solo.sent} == {2, 4, 5}
    heard = solo.heard(AppendRequest, 5)
    assert heard
    assert all((m.prev_index, m.entries) == (0, ()) for m in heard)
    assert solo.core.peers[NodeId(5)].state is ProgressState.SPARE


def test_what_a_spare_answers_counts_for_nothing_but_that_it_is_there() -> None:
    solo = Solo(members(1, 2, 3, spares=(5,))).elect(2)
    before = solo.core.commit_index
    solo.wait(100).ack(5, solo.core.last_index).settle()
    assert solo.core.commit_index == before
    peer = solo.core.peers[NodeId(5)]
    assert (peer.match_index, peer.last_reply_ms) == (0, solo.now)
    solo.refuse(5, 1, (0, 0)).settle()
    assert solo.core.peers[NodeId(5)].state is ProgressState.SPARE


def test_who_becomes_a_spare_is_fed_until_it_can_know() -> None:
    solo = Solo(members(1, 2, standbys=(4,))).elect(2)
    solo.ack(2, solo.core.last_index).ack(4, solo.core.last_index).settle().forget()
    without = members(1, 2, spares=(4,))
    _term, index = solo.core.propose_configuration(without, solo.now)
    solo.settle()
    assert [e.index for m in solo.heard(AppendRequest, 4) for e in m.entries] == [index]
    solo.ack(2, index).settle()
    for _ in range(30):
        solo.ack(2, index).tick(100).settle()
    assert solo.core.peers[NodeId(4)].state is ProgressState.SPARE
    solo.forget()
    solo.core.propose(b"more", solo.now)
    solo.ack(2, index).tick(100).settle()
    assert not any(m.entries for m in solo.heard(AppendRequest, 4))
    assert solo.heard(AppendRequest, 4), "heartbeats go on"


def test_a_spare_that_is_promoted_gets_the_log() -> None:
    solo = Solo(members(1, 2, spares=(5,))).elect(2)
    solo.ack(2, solo.core.last_index).settle().forget()
    solo.core.propose_configuration(members(1, 2, standbys=(5,)), solo.now)
    solo.settle()
    assert solo.core.peers[NodeId(5)].state is ProgressState.PROBE
    assert solo.heard(AppendRequest, 5)[-1].prev_index > 0


def test_a_spare_that_is_removed_is_forgotten() -> None:
    solo = Solo(members(1, 2, spares=(5,))).elect(2)
    solo.ack(2, solo.core.last_index).settle().forget()
    solo.core.propose_configuration(members(1, 2), solo.now)
    solo.settle()
    for _ in range(30):
        solo.ack(2, solo.core.last_index).tick(100).settle()
    assert set(solo.core.peers) == {2}


# -- where the logs meet ---------------------------------------------------------------------------------


def test_a_conflict_costs_one_probe_per_term() -> None:
    """RF-18; paper 5.3, end."""
    solo = leader(1, 1, 1, 2, 2, 2, 3, 3)
    assert solo.core.last_index == 10
    solo.refuse(3, 9, (8, 1)).settle()
    probe = solo.heard(AppendRequest, 3)[-1]
    assert (probe.prev_index, probe.prev_term) == (4, 1), "the last entry of a term not above the hint's"
    assert probe.entries == (), "asked without entries: the answer may be no"
    solo.forget().ack(3, 4).settle()
    assert solo.core.peers[NodeId(3)].state is ProgressState.REPLICATE
    assert spans(solo.heard(AppendRequest, 3)) == [(5, 8), (9, 10)]


def test_old_refusals_change_nothing() -> None:
    """RF-22, audit A9."""
    solo = leader(1, 1, 1)
    solo.ack(3, 5).settle().forget()
    before = solo.core.peers[NodeId(3)]
    solo.refuse(3, 4, (2, 1), 0).refuse(3, 5, (2, 1), 0).settle()
    after = solo.core.peers[NodeId(3)]
    assert (after.state, after.match_index, after.next_index) == (before.state, 5, before.next_index)
    assert not solo.sent


def test_a_refusal_never_moves_next_past_the_log() -> None:
    """RF-22, audit A9: stock fell into a livelock."""
    solo = leader(1, 1, 1)
    solo.refuse(3, 4, (900, 9)).settle()
    assert solo.core.peers[NodeId(3)].next_index <= 4


def test_an_impossible_acknowledgement_is_ignored() -> None:
    """RF-7, audit A4: match beyond our log would commit alone."""
    solo = leader()
    propose(solo, 1)
    solo.settle().ack(2, 99).ack(3, 99).settle()
    assert solo.core.commit_index == 2


def test_a_reconnected_follower_is_probed_anew() -> None:
    solo = leader()
    propose(solo, 8)
    solo.settle().ack(2, 6).settle().forget()
    solo.core.peer_disconnected(NodeId(2))
    propose(solo, 1)
    solo.wait(200)
    assert not solo.heard(AppendRequest, 2)
    solo.core.peer_connected(NodeId(2), solo.now)
    solo.settle()
    assert [(m.prev_index, m.entries) for m in solo.heard(AppendRequest, 2)] == [(6, ())]
    solo.ack(2, 6).settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(7, 10), (11, 11)]


def test_heartbeats_may_overtake_entries() -> None:
    """They travel in a lane of their own: they must not be refused because entries are still under way."""
    solo = leader()
    propose(solo, 8)
    solo.settle().wait(200)
    heartbeats = [m for m in solo.heard(AppendRequest, 2) if not m.entries]
    assert len(heartbeats) >= 3
    assert {m.prev_index for m in heartbeats} == {2}
    assert spans(solo.heard(AppendRequest, 2)) == [(3, 6), (7, 10)]


def test_refusals_of_before_the_logs_met_do_not_count() -> None:
    """Entries behind a lost message are refused one by one: they are sent again once, not once per refusal."""
    solo = leader()
    propose(solo, 12)
    solo.settle().forget()
    solo.refuse(2, 6, (2, 2)).settle().ack(2, 2).settle()
    assert spans(solo.heard(AppendRequest, 2)) == [(3, 6), (7, 10), (11, 14)]
    old = solo.core.peers[NodeId(2)]
    solo.refuse(2, 10, (2, 2), solo.core._round - 1).settle()
    assert solo.core.peers[NodeId(2)] == old


def test_entries_lost_without_a_trace_are_sent_again_ever_more_patiently() -> None:
    solo = leader()
    propose(solo, 4)
    solo.settle().forget()
    sent = []
    for _ in range(100):
        solo.wait(100)
        sent.append(len(spans(solo.heard(AppendRequest, 2))))
        solo.ack(2, 2).settle()  # it lives, and answers heartbeats
    assert sent[14] == 0
    assert 1 <= sent[20] <= 2
    assert 2 <= sent[-1] <= 3, "patience doubles"


# -- entries that left the cache -------------------------------------------------------------------------


def evicted() -> Solo:
    """A leader that committed far more than its cache holds; node 3 silent."""
    solo = leader()
    for _ in range(20):
        propose(solo, 4, 100)
        solo.settle().ack(2, solo.core.last_index).settle()
    assert solo.core.log.cache_first > 30
    return solo.forget()


def test_older_entries_are_fetched_once_and_sent() -> None:
    solo = evicted()
    solo.refuse(3, 1, (0, 0)).settle().ack(3, 0).settle()
    (fetch,) = [f for effects in solo.effects for f in effects.fetch]
    assert (fetch.peer, fetch.first_index) == (3, 1)
    solo.wait(100)
    assert len([f for effects in solo.effects for f in effects.fetch]) == 1, "one at a time"
    solo.core.entries_fetched(fetch.peer, fetch.first_index, solo.journal[:3])
    solo.settle()
    assert spans(solo.heard(AppendRequest, 3)) == [(1, 3)]
    solo.ack(3, 3).settle()
    (_, fetch) = [f for effects in solo.effects for f in effects.fetch]
    assert fetch.first_index == 4


def test_fetched_entries_that_do_not_fit_are_dropped() -> None:
    solo = evicted()
    solo.refuse(3, 1, (0, 0)).settle().ack(3, 0).settle()
    wrong: list[Entry] = [command(1, 1, b"not what our log has at 1")]
    for first, entries in ((5, solo.journal[4:6]), (1, [])):
        solo.core.entries_fetched(NodeId(3), LogIndex(first), entries)
    solo.core.entries_fetched(NodeId(3), LogIndex(1), [wrong[0]._replace(term=Term(9))])
    solo.core.entries_fetched(NodeId(77), LogIndex(1), wrong)
    solo.settle()
    assert not spans(solo.heard(AppendRequest, 3))


def test_an_empty_fetch_does_not_spin() -> None:
    """RF-22: retried with the next answer, not at once."""
    solo = evicted()
    solo.refuse(3, 1, (0, 0)).settle().ack(3, 0).settle().forget()
    solo.core.entries_fetched(NodeId(3), LogIndex(1), [])
    for _ in range(20):
        solo.take()
    assert not any(effects.fetch for effects in solo.effects)


def test_committed_entries_that_left_the_cache_are_fetched() -> None:
    entries = [command(i, 1, b"x" * 100) for i in range(1, 40)]
    solo = Solo(entries=entries, settings=SMALL, applied=0)
    solo.core.log.evict(LogIndex(39))
    solo.step(append(2, 1, (39, 1), commit=39)).settle()
    (wanted,) = [e.fetch_committed for e in solo.effects if e.fetch_committed]
    assert wanted == (1, solo.core.log.cache_first - 1)
    solo.core.committed_fetched(entries[4:6])  # not what follows
    solo.core.committed_fetched(entries[:2])
    solo.settle()
    assert [e.index for e in solo.committed] == [1, 2]
    solo.core.committed_fetched(entries[2 : wanted[1]])
    solo.settle()
    assert [e.index for e in solo.committed] == list(range(1, 40))


def test_the_state_machine_is_not_flooded() -> None:
    settings = RaftSettings(unapplied_bytes_max=250)
    solo = Solo(members(1), settings=settings).elect()
    for _ in range(5):
        propose(solo, 1, 100)
        solo.settle()
    assert solo.committed[-1].index == 5
    solo.core.applied(LogIndex(4))
    solo.settle()
    assert solo.committed[-1].index == 7


# -- snapshots -------------------------------------------------------------------------------------------


def compacted() -> Solo:
    solo = leader()
    propose(solo, 6)
    solo.settle().ack(2, 8).settle()
    solo.core.applied(LogIndex(8))
    solo.core.compacted(solo.core.snapshot_at(LogIndex(6)), LogIndex(5))
    assert solo.core.first_index == 5
    return solo.forget()


def test_a_follower_before_the_log_is_offered_a_snapshot_with_the_heartbeats() -> None:
    solo = compacted()
    solo.refuse(3, 1, (0, 0)).settle()
    (first,) = solo.heard(SnapshotOffer, 3)
    assert (first.index, first.snapshot_term) == (8, 2)
    assert first.configuration == solo.core.committed_configuration
    solo.wait(200)
    assert 3 <= len(solo.heard(SnapshotOffer, 3)) <= 5, "paced by heartbeats (RF-22)"
    assert {o.index for o in solo.heard(SnapshotOffer, 3)} == {8}, "the same while it is fetched"
    solo.forget().ack(3, 8).settle()
    assert solo.core.peers[NodeId(3)].state is ProgressState.REPLICATE
    propose(solo, 1)
    solo.settle()
    assert spans(solo.heard(AppendRequest, 3)) == [(9, 9)]


def test_a_follower_within_the_log_needs_no_snapshot() -> None:
    solo = compacted()
    solo.ack(3, 4).settle()
    assert not solo.heard(SnapshotOffer, 3)
    assert spans(solo.heard(AppendRequest, 3)) == [(5, 8)]


def test_a_quarantined_follower_is_offered_one_and_still_fed() -> None:
    solo = compacted()
    solo.step(solo.reply(2, match=8, needs_snapshot=True)).settle()
    propose(solo, 1)
    solo.wait(80)
    assert spans(solo.heard(AppendRequest, 2)) == [(9, 9)]
    assert [o.index for o in solo.heard(SnapshotOffer, 2)] == [8]
    solo.step(solo.reply(2, match=9)).settle().forget()
    assert solo.core.commit_index == 9
    solo.wait(100)
    assert not solo.heard(SnapshotOffer, 2)


# -- commit, reads ---------------------------------------------------------------------------------------


def test_a_quorum_of_followers_commits_without_our_disk() -> None:
    solo = leader().ack(3, 2).settle()
    propose(solo, 1)
    solo.take()
    solo.ack(2, 3).ack(3, 3)
    solo.take()
    assert solo.core.commit_index == 3
    assert solo.committed[-1].index == 2
    solo.settle()
    assert solo.committed[-1].index == 3


def test_reads_share_rounds() -> None:
    """Thesis 6.4."""
    solo = leader()
    for read_id in (1, 2, 3):
        solo.core.read_index(read_id, solo.now)
    solo.settle()
    assert len(solo.heard(AppendRequest, 2)) == 1
    for read_id in (4, 5):
        solo.core.read_index(read_id, solo.now)
    solo.settle()
    assert len(solo.heard(AppendRequest, 2)) == 1, "gathering while a round is out"
    solo.ack(2, 2).settle()
    assert [e.reads_ready for e in solo.effects if e.reads_ready] == [[(1, 2), (2, 2), (3, 2)]]
    assert len(solo.heard(AppendRequest, 2)) == 2
    solo.ack(2, 2).settle()
    assert [r for e in solo.effects for r in e.reads_ready][3:] == [(4, 2), (5, 2)]


def test_reads_fail_with_the_leadership() -> None:
    solo = leader()
    solo.core.read_index(1, solo.now)
    solo.settle()
    solo.core.read_index(2, solo.now)
    solo.step(solo.reply(3, term=9, reject=True)).settle()
    solo.core.read_index(3, solo.now)
    solo.settle()
    assert sorted(r for e in solo.effects for r in e.reads_failed) == [1, 2, 3]


def test_a_sole_voter_reads_at_once() -> None:
    solo = Solo(members(1, standbys=(2,))).elect().forget()
    solo.core.read_index(1, solo.now)
    solo.settle()
    assert [r for e in solo.effects for r in e.reads_ready] == [(1, 2)]


def test_lost_data_needs_proof() -> None:
    """A refusal that was under way when the acknowledgement came is no proof."""
    solo = leader()
    propose(solo, 1)
    solo.settle().ack(2, 3).settle()
    solo.refuse(2, 3, (1, 1)).settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.REPLICATE
    solo.wait(80).refuse(2, 3, (1, 1)).settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.LOST_DATA


def test_refusing_an_old_term_tells_the_new_leader_nothing_but_the_term() -> None:
    """Node 1 led term 2 before a restart and leads again: its own late request comes back refused. Taken for an
    answer to this term, it would accuse node 2 of lost data, or confirm a read that began later."""
    solo = leader()
    propose(solo, 1)
    solo.settle().ack(2, 3).settle().wait(80).forget()
    solo.core.read_index(1, solo.now)
    solo.settle()
    follower = Solo(term=solo.core.term)
    follower.step(append(2, 1, (1, 1), round_number=solo.core._round)).settle()
    (refusal,) = follower.heard(AppendReply)
    solo.step(refusal._replace(sender=NodeId(2))).settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.REPLICATE
    assert not any(e.reads_ready or e.lost_data for e in solo.effects)


def test_giving_up_on_what_was_compacted_meanwhile_offers_a_snapshot() -> None:
    """Stepping back to what the follower has may step out of the log."""
    solo = leader().ack(3, 2).settle()
    propose(solo, 8)
    solo.settle().ack(3, 10).settle()
    solo.core.applied(LogIndex(10))
    solo.core.compacted(solo.core.snapshot_at(LogIndex(9)), LogIndex(9))
    for _ in range(30):
        solo.wait(100).ack(3, 10).ack(2, 2).settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.SNAPSHOT
    assert solo.heard(SnapshotOffer, 2)[-1].index == 10


def test_who_lost_data_counts_again_only_after_joining_anew() -> None:
    solo = Solo(members(1, 2, 3, 4), settings=SMALL).elect(2, 3)
    solo.ack(2, 2).ack(3, 2).ack(4, 2).settle()
    solo.wait(80).refuse(2, 2, (0, 0)).settle()
    solo.wait(80).ack(3, 2).ack(4, 2).settle()
    without = solo.core.configuration.without(NodeId(2))
    solo.core.propose_configuration(without, solo.now)
    solo.settle().ack(3, 3).ack(4, 3).settle()
    assert solo.core.commit_index == 3
    solo.core.propose_configuration(without.with_member(member(2, Role.STANDBY)), solo.now)
    solo.settle()
    assert solo.core.peers[NodeId(2)].state is ProgressState.PROBE


def test_compaction_that_loses_entries_is_refused() -> None:
    solo = leader()
    for snapshot, first in (
        (Snapshot(LogIndex(1), Term(1), members(1, 2, 3)), 3),
        (Snapshot(LogIndex(9), Term(1), members(1, 2, 3)), 3),
    ):
        with pytest.raises(RaftInvariantBroken):
            solo.core.compacted(snapshot, LogIndex(first))


# -- when the disk may be late in telling ----------------------------------------------------------------


def test_a_leader_whose_disk_is_not_behind_need_not_hear_of_it() -> None:
    solo = leader()
    assert solo.core.disk_may_wait
    propose(solo, 1)
    solo.core.take_effects()
    assert solo.core.disk_may_wait  # a follower's answer decides
    solo.ack(2, solo.core.last_index)
    assert not solo.core.disk_may_wait  # and now this disk's


def test_who_follows_or_is_alone_must_hear_of_its_disk() -> None:
    assert not Solo(members(1, 2, 3)).core.disk_may_wait
    alone = Solo(members(1)).elect().settle()
    assert alone.core.is_leader
    assert not alone.core.disk_may_wait
