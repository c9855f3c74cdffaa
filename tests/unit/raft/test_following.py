"""raft/following.py: appending, conflicts, acknowledging, snapshots."""

from __future__ import annotations

import pytest

from dqlite_py.errors import MalformedMessage, RaftInvariantBroken, UnknownFormat
from dqlite_py.model import Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.messages import AppendReply
from tests.unit.raft.solo import NOTHING, Solo, append, command, configuration_entry, members, offer

THREE = members(1, 2, 3).at(LogIndex(1))


def replies(solo: Solo) -> list[tuple[bool, int]]:
    return [(r.reject, r.hint_index if r.reject else r.match_index) for r in solo.heard(AppendReply)]


def cut(solo: Solo) -> list[int]:
    return [e.truncate_from for e in solo.effects if e.truncate_from is not None]


# -- appending (paper figure 2, AppendEntries) -----------------------------------------------------------


def test_entries_go_to_the_journal_and_are_acknowledged_with_their_round() -> None:
    solo = Solo()
    solo.step(append(2, 3, (1, 1), command(2, 3), command(3, 3), round_number=9))
    effects = solo.take()
    assert [e.index for e in effects.entries] == [2, 3]
    assert effects.hard_state == HardState(Term(3), NodeId(0))
    solo.settle()
    (reply,) = solo.heard(AppendReply, 2)
    assert (reply.reject, reply.match_index, reply.round, reply.term) == (False, 3, 9, 3)


def test_many_requests_share_one_acknowledgement() -> None:
    solo = Solo()
    for index in range(2, 12):
        solo.step(append(2, 1, (index - 1, 1), command(index, 1), round_number=index))
    solo.settle()
    (reply,) = solo.heard(AppendReply)
    assert (reply.match_index, reply.round) == (11, 11)


def test_a_heartbeat_is_answered_at_once_even_while_the_disk_is_busy() -> None:
    """Check-quorum and reads must not wait for a slow disk."""
    solo = Solo()
    solo.step(append(2, 1, (1, 1), command(2, 1)))
    solo.take()
    solo.step(append(2, 1, (2, 1), round_number=5))
    solo.take()
    assert [(r.match_index, r.round) for r in solo.heard(AppendReply)] == [(1, 5)]


def test_a_gap_is_refused_with_where_to_look() -> None:
    solo = Solo(None, 1, 1)
    solo.step(append(2, 2, (9, 2), command(10, 2))).settle()
    assert replies(solo) == [(True, 3)]
    assert solo.core.last_index == 3


def test_another_term_at_prev_is_refused_by_whole_terms() -> None:
    solo = Solo(None, 1, 3, 3, 3)
    solo.step(append(2, 5, (5, 2), command(6, 5))).settle()
    (reply,) = solo.heard(AppendReply)
    assert (reply.reject, reply.prev_index, reply.hint_index, reply.hint_term) == (True, 5, 2, 1)


def test_only_the_conflicting_suffix_goes() -> None:
    solo = Solo(None, 1, 2, 2)
    solo.step(append(2, 4, (1, 1), command(2, 1), command(3, 4))).settle()
    assert cut(solo) == [3]
    assert [solo.core.log.term_at(LogIndex(i)) for i in (1, 2, 3)] == [1, 1, 4]
    assert solo.core.last_index == 3


def test_an_old_request_truncates_nothing() -> None:
    """Reordered: a shorter, older message after a longer one (RF-1)."""
    solo = Solo()
    solo.step(append(2, 1, (1, 1), command(2, 1), command(3, 1), command(4, 1))).settle()
    solo.step(append(2, 1, (1, 1), command(2, 1)), append(2, 1, (1, 1))).settle()
    assert solo.core.last_index == 4
    assert cut(solo) == []
    assert replies(solo)[-1] == (False, 4)


def test_entries_of_a_batch_that_never_left_are_cut_in_memory() -> None:
    """Two leaders within one round of effects: the journal sees one consistent batch."""
    solo = Solo(None, 1)
    solo.step(append(2, 2, (2, 1), command(3, 2), command(4, 2)))
    solo.step(append(3, 3, (3, 2), command(4, 3)))
    effects = solo.take()
    assert effects.truncate_from is None
    assert effects.entries == [command(3, 2), command(4, 3)]
    solo.step(append(2, 4, (1, 1), command(2, 4)))
    solo.step(append(3, 5, (1, 1), command(2, 5)))
    effects = solo.take()
    assert (effects.truncate_from, effects.entries) == (2, [command(2, 5)])


def test_acknowledgements_follow_a_truncation() -> None:
    """The disk holds what was cut when its batch returns: it must not count for the new leader."""
    solo = Solo()
    solo.step(append(2, 2, (1, 1), command(2, 2), command(3, 2)))
    solo.take()
    solo.step(append(3, 3, (1, 1), command(2, 3)))
    solo.take()
    solo.write()
    solo.take()
    assert solo.core.durable_index == 1
    assert all(r.match_index <= 1 for r in solo.heard(AppendReply, 3))
    solo.settle()
    assert solo.heard(AppendReply, 3)[-1].match_index == 2


def test_a_conflict_with_what_is_committed_stops_the_node() -> None:
    solo = Solo(None, 1, 1)
    solo.step(append(2, 1, (3, 1), commit=3)).settle()
    for request in (append(3, 2, (1, 1), command(2, 2)), append(3, 2, (3, 2), command(4, 2))):
        with pytest.raises(RaftInvariantBroken, match="committed"):
            solo.step(request)


def test_two_leaders_in_a_term_stop_the_node() -> None:
    solo = Solo().step(append(2, 2, (1, 1)))
    with pytest.raises(RaftInvariantBroken, match="two leaders in term 2"):
        solo.step(append(3, 2, (1, 1)))
    with pytest.raises(RaftInvariantBroken, match="two leaders in term 2"):
        Solo().elect().step(append(3, 2, (1, 1)))


def test_requests_below_our_base_match_by_being_committed() -> None:
    snapshot = Snapshot(LogIndex(5), Term(2), THREE)
    solo = Solo(entries=[command(6, 2)], base=(5, 2), snapshot=snapshot, applied=5)
    solo.step(append(2, 2, (3, 1), command(4, 2), command(5, 2), command(6, 2), command(7, 2))).settle()
    assert solo.core.last_index == 7
    assert replies(solo) == [(False, 7)]
    solo.step(append(2, 2, (2, 1), command(3, 1))).settle()
    assert replies(solo)[-1] == (False, 7)
    with pytest.raises(RaftInvariantBroken):
        solo.step(append(2, 2, (4, 1), command(5, 1)))


def test_the_commit_index_of_a_restart_is_what_the_state_machine_holds() -> None:
    """RF-2, audit C4."""
    solo = Solo(None, 1, 1, 1, applied=2)
    assert (solo.core.commit_index, solo.core.applied_index) == (2, 2)
    solo.step(append(2, 2, (4, 1), commit=4)).settle()
    assert [e.index for e in solo.committed] == [3, 4]


@pytest.mark.parametrize(
    "request_",
    [
        append(2, 3, (1, 1), command(3, 3)),
        append(2, 3, (1, 1), command(2, 3), command(4, 3)),
        append(2, 3, (1, 1), command(2, 4)),
        append(2, 3, (1, 1), command(2, 3), command(3, 2)),
        append(2, 3, (1, 4)),
        append(2, 3, (0, 1)),
        append(2, 3, (-1, 0)),
        append(2, 3, (1, 1), Entry(LogIndex(2), Term(3), EntryKind.CONFIGURATION, b"nonsense")),
    ],
)
def test_messages_that_contradict_themselves_are_dropped(request_: object) -> None:
    """Audit A14: indexes must follow each other, terms must not sink."""
    solo = Solo()
    solo.step(request_).settle()  # type: ignore[arg-type]
    assert solo.core.dropped_messages == 1
    assert isinstance(solo.core.last_dropped, MalformedMessage)
    assert (solo.core.term, solo.core.last_index, solo.sent) == (1, 1, [])


def test_a_configuration_of_a_later_release_stops_the_node() -> None:
    entry = Entry(LogIndex(2), Term(1), EntryKind.CONFIGURATION, b"\x92\x09\x90")
    with pytest.raises(UnknownFormat):
        Solo().step(append(2, 1, (1, 1), entry))


def test_a_node_without_configuration_takes_the_log() -> None:
    """It waits to be added, and learns who it is with."""
    solo = Solo(entries=[], term=0)
    solo.step(append(2, 1, (0, 0), configuration_entry(1, 1, THREE), command(2, 1), commit=2)).settle()
    assert [e.index for e in solo.committed] == [1, 2]
    assert solo.core.is_voter
    assert [e.configuration for e in solo.effects if e.configuration] == [THREE]


# -- snapshots -------------------------------------------------------------------------------------------


def test_an_offer_starts_one_fetch_and_is_answered() -> None:
    solo = Solo()
    for _ in range(3):
        solo.step(offer(2, 2, (9, 2), THREE)).settle()
    assert [e.snapshot_offer.index for e in solo.effects if e.snapshot_offer] == [9]
    assert replies(solo) == [(False, 0)] * 3, "it lives, but acknowledges nothing"
    solo.core.snapshot_failed(solo.now)
    solo.step(offer(2, 2, (9, 2), THREE)).settle()
    solo.step(offer(3, 3, (11, 3), THREE)).settle()
    assert [e.snapshot_offer.index for e in solo.effects if e.snapshot_offer] == [9, 9, 11]


def test_an_offer_of_what_is_committed_is_acknowledged() -> None:
    """Audit G2: an older snapshot is never installed."""
    solo = Solo(None, 1, 1)
    solo.step(append(2, 1, (3, 1), commit=3)).settle().forget()
    solo.step(offer(3, 2, (2, 1), THREE)).settle()
    assert replies(solo) == [(False, 2)]
    assert not any(e.snapshot_offer for e in solo.effects)


def test_an_offer_of_an_old_term_is_answered_with_ours() -> None:
    solo = Solo(term=4)
    solo.step(offer(2, 3, (9, 2), THREE)).settle()
    assert [(r.term, r.reject) for r in solo.heard(AppendReply)] == [(4, True)]


def test_installing_replaces_a_log_that_lacks_the_entry() -> None:
    solo = Solo(None, 1, 1)
    snapshot = Snapshot(LogIndex(9), Term(2), members(1, 2, 4).at(LogIndex(7)))
    solo.step(offer(2, 3, (9, 2), THREE)).settle().forget()
    solo.core.install_snapshot(snapshot, solo.now)
    effects = solo.take()
    assert effects.journal_reset == snapshot
    assert effects.configuration == snapshot.configuration
    assert all(r.match_index == 0 for r in solo.heard(AppendReply)), "not durable yet"
    assert (solo.core.first_index, solo.core.last_index, solo.core.commit_index) == (10, 9, 9)
    solo.settle()
    assert replies(solo)[-1] == (False, 9)
    solo.step(append(2, 3, (9, 2), command(10, 3), commit=10)).settle()
    assert [e.index for e in solo.committed] == [10]


def test_installing_drops_entries_on_their_way_to_the_journal() -> None:
    solo = Solo()
    solo.step(append(2, 1, (1, 1), command(2, 1)))
    solo.core.install_snapshot(Snapshot(LogIndex(9), Term(1), THREE), solo.now)
    effects = solo.take()
    assert effects.journal_reset is not None
    assert effects.entries == []


def test_a_snapshot_of_a_later_leader_is_not_acknowledged_to_ours() -> None:
    """Its entries may contradict the present leader's tail: only an offer of this term vouches for it."""
    solo = Solo(None, 1)
    solo.step(offer(2, 3, (9, 3), THREE)).settle().forget()
    solo.core.install_snapshot(Snapshot(LogIndex(12), Term(3), THREE), solo.now)
    solo.settle()
    assert replies(solo)[-1] == (False, 9)
    other = Solo(None, 1)
    other.core.install_snapshot(Snapshot(LogIndex(12), Term(5), THREE), other.now)
    other.settle()
    assert (other.core.term, other.core.leader_id) == (5, None)


def test_entries_behind_an_installed_snapshot_are_handed_out_once() -> None:
    solo = Solo(None, 1, 1, 1)
    solo.step(append(2, 1, (4, 1), commit=4))
    solo.core.install_snapshot(Snapshot(LogIndex(3), Term(1), THREE), solo.now)
    solo.settle()
    assert [e.index for e in solo.committed] == [4]
    solo.core.applied(LogIndex(4))


@pytest.mark.parametrize(("index", "term"), [(4, 1), (3, 2)], ids=["before the log", "contradicts"])
def test_an_impossible_snapshot_is_refused(index: int, term: int) -> None:
    base = (5, 1) if index == 4 else (0, 0)
    snapshot = Snapshot(LogIndex(5), Term(1), THREE) if index == 4 else NOTHING
    entries = [command(base[0] + i, 1) for i in range(1, 5)]
    solo = Solo(entries=entries, base=base, snapshot=snapshot, applied=base[0], term=2)
    solo.step(append(2, 2, (base[0] + 4, 1), commit=base[0] + 4)).settle()
    with pytest.raises(RaftInvariantBroken):
        solo.core.install_snapshot(Snapshot(LogIndex(index), Term(term), THREE), solo.now)


def test_a_start_between_state_and_journal_resets_the_journal() -> None:
    """The state folder was switched, then the process ended before the journal was reset."""
    snapshot = Snapshot(LogIndex(9), Term(2), THREE)
    solo = Solo(None, 1, 1, snapshot=snapshot, applied=9)
    effects = solo.take()
    assert effects.journal_reset == snapshot
    assert (solo.core.commit_index, solo.core.last_index) == (9, 9)
    solo.settle().step(append(2, 2, (9, 2), command(10, 2), commit=10)).settle()
    assert [e.index for e in solo.committed] == [10]


def test_a_start_with_a_hole_or_without_the_log_is_refused() -> None:
    with pytest.raises(RaftInvariantBroken):
        Solo(entries=[command(6, 1)], base=(5, 1), snapshot=Snapshot(LogIndex(3), Term(1), THREE), applied=3)
    with pytest.raises(RaftInvariantBroken):
        Solo(None, 1, applied=9)


# -- quarantine ------------------------------------------------------------------------------------------


def test_quarantine_hands_out_nothing_until_installed() -> None:
    solo = Solo(None, 1, 1)
    solo.step(append(2, 1, (3, 1), commit=2)).settle()
    solo.core.request_snapshot()
    solo.step(append(2, 1, (3, 1), command(4, 1), commit=4)).settle()
    assert [e.index for e in solo.committed] == [1, 2]
    assert solo.heard(AppendReply)[-1].needs_snapshot
    assert solo.heard(AppendReply)[-1].match_index == 4, "the log is sound"
    solo.step(offer(2, 1, (2, 1), THREE)).settle()
    assert [e.snapshot_offer.index for e in solo.effects if e.snapshot_offer] == [2]
    assert solo.core.wants_snapshot(LogIndex(2))
    solo.core.install_snapshot(Snapshot(LogIndex(2), Term(1), THREE), solo.now)
    solo.settle()
    assert [e.index for e in solo.committed] == [1, 2, 3, 4]
    assert not solo.heard(AppendReply)[-1].needs_snapshot
    assert not solo.core.is_quarantined


def test_configurations_follow_an_installed_snapshot() -> None:
    log = [configuration_entry(1, 1, THREE), command(2, 1), configuration_entry(3, 1, members(1, 2, 3, 4))]
    solo = Solo(entries=log)
    kept = Snapshot(LogIndex(2), Term(1), THREE)
    solo.core.install_snapshot(kept, solo.now)
    assert solo.core.configuration.index == 3
    assert solo.core.committed_configuration == THREE
    solo.core.install_snapshot(Snapshot(LogIndex(9), Term(1), Configuration(THREE.members, LogIndex(8))), 0)
    assert solo.core.configuration.index == 8
