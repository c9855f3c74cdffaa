"""Rules of the consensus core are switched off one by one: the test of the fault that each rule closes
must fail.

A test that passes on a core without the rule would prove nothing about the rule.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dqlite_py.errors import Error
from dqlite_py.model import LogIndex, NodeId
from dqlite_py.raft import elections
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.durability import Durability
from dqlite_py.raft.journal import recovery
from dqlite_py.raft.log import RaftLog
from dqlite_py.raft.membership import ConfigurationHistory
from dqlite_py.raft.replication import LeaderPart
from dqlite_py.storage.state_folder import StateFolder
from tests.faults import test_rf01_truncation as rf01
from tests.faults import test_rf02_nothing_synced as rf02
from tests.faults import test_rf03_stale_acknowledgement as rf03
from tests.faults import test_rf04_votes_counted as rf04
from tests.faults import test_rf05_vote_not_durable as rf05
from tests.faults import test_rf06_snapshot_moves_commit as rf06
from tests.faults import test_rf07_snapshot_hole as rf07
from tests.faults import test_rf08_compaction_killed as rf08
from tests.faults import test_rf09_membership as rf09
from tests.faults import test_rf11_disruption as rf11
from tests.faults import test_rf12_stale_reads as rf12
from tests.faults import test_rf17_journal_format as rf17
from tests.faults import test_rf18_repair_rounds as rf18
from tests.faults import test_rf21_fail_over as rf21
from tests.faults import test_rf22_livelocks as rf22
from tests.support.faultdisk import FaultDisk, Loss
from tests.support.journals import open_journal

Patch = pytest.MonkeyPatch
Test = Callable[..., Any]
CAUGHT = (AssertionError, Error, pytest.fail.Exception)


def truncate_all_after_prev(patch: Patch) -> None:
    def first_missing(self: Any, prev_index: LogIndex, entries: Any) -> LogIndex:
        if prev_index < self.log.last_index:
            self._drop_conflict(LogIndex(prev_index + 1), entries[0])
        return LogIndex(prev_index + 1)

    patch.setattr(RaftCore, "_first_missing", first_missing)


def leader_counts_itself_at_once(patch: Patch) -> None:
    patch.setattr(RaftCore, "_own_match", lambda self: self.log.last_index)


def acknowledge_before_durable(patch: Patch) -> None:
    patch.setattr(RaftCore, "_durable_match", lambda self: self._verified_index)


def acknowledge_own_log_end(patch: Patch) -> None:
    patch.setattr(RaftCore, "_durable_match", lambda self: self.log.last_index)


def count_replies_of_any_term(patch: Patch) -> None:
    patch.setattr(RaftCore, "_is_current_reply", lambda self, reply: True)


def count_vote_messages(patch: Patch) -> None:
    numbers = itertools.count(1000)
    patch.setattr(
        elections, "is_quorum", lambda voters, agreed: bool(voters) and len(agreed) * 2 > len(voters)
    )
    count_vote = RaftCore._count_vote
    patch.setattr(RaftCore, "_count_vote", lambda self, voter: count_vote(self, NodeId(next(numbers))))


def count_votes_of_anybody(patch: Patch) -> None:
    patch.setattr(
        elections, "is_quorum", lambda voters, agreed: bool(voters) and len(agreed) * 2 > len(voters)
    )

    def on_vote_reply(self: Any, reply: Any) -> None:
        if reply.granted and self._is_current_grant(reply):
            self._count_vote(reply.sender)

    patch.setattr(RaftCore, "_on_vote_reply", on_vote_reply)


def send_before_durable(patch: Patch) -> None:
    def send(self: Any, effects: Any, peer: NodeId, message: Any) -> None:
        effects.messages.append((peer, message))

    patch.setattr(Durability, "send", send)


def own_vote_counts_at_once(patch: Patch) -> None:
    patch.setattr(Durability, "hard_state_durable", property(lambda self: True))
    campaign = RaftCore._campaign

    def campaign_and_count(self: Any, **how: Any) -> None:
        campaign(self, **how)
        self._count_vote(self.node_id)

    patch.setattr(RaftCore, "_campaign", campaign_and_count)
    send_before_durable(patch)


def offer_moves_commit(patch: Patch) -> None:
    on_offer = RaftCore._on_snapshot_offer

    def moves(self: Any, offer: Any) -> None:
        on_offer(self, offer)
        self._commit_to(min(offer.index, self.log.last_index))

    patch.setattr(RaftCore, "_on_snapshot_offer", moves)


def several_changes_at_once(patch: Patch) -> None:
    patch.setattr(RaftCore, "_check_change_may_start", lambda self: None)


def changes_before_own_term_commits(patch: Patch) -> None:
    patch.setattr(RaftCore, "_own_term_committed", lambda self: True)


def changes_are_not_rolled_back(patch: Patch) -> None:
    patch.setattr(ConfigurationHistory, "truncated", lambda self, index: False)


def log_configurations_ignored_at_start(patch: Patch) -> None:
    init = ConfigurationHistory.__init__
    patch.setattr(
        ConfigurationHistory, "__init__", lambda self, base, _later, *earlier: init(self, base, [], *earlier)
    )


def no_stickiness(patch: Patch) -> None:
    patch.setattr(RaftCore, "_hears_leader", lambda self: False)


def no_check_quorum(patch: Patch) -> None:
    patch.setattr(RaftCore, "_has_active_quorum", lambda self: True)


def no_pre_vote(patch: Patch) -> None:
    campaign = RaftCore._campaign
    patch.setattr(RaftCore, "_campaign", lambda self, *, pre, transfer=False: campaign(self, pre=False))


def silent_to_old_leaders(patch: Patch) -> None:
    patch.setattr(RaftCore, "_refuse_old_term", lambda self, *_: None)


def reads_without_quorum(patch: Patch) -> None:
    patch.setattr(RaftCore, "_echoed_round", lambda self, voter: self._round)


def reads_ride_on_rounds_under_way(patch: Patch) -> None:
    def read_index(self: Any, read_id: int, now_ms: float) -> None:
        self._reads.add(read_id)
        self._reads.round_begins(self._round, self.commit_index)
        self._confirm_rounds()

    patch.setattr(RaftCore, "read_index", read_index)


def reads_before_own_term_commits(patch: Patch) -> None:
    patch.setattr(RaftCore, "_own_term_committed", lambda self: True)


def repair_by_single_steps(patch: Patch) -> None:
    patch.setattr(RaftLog, "last_not_after", lambda self, index, term: LogIndex(min(index, self.last_index)))


def keep_all_in_memory(patch: Patch) -> None:
    patch.setattr(RaftLog, "evict", lambda self, upto: None)


def same_timeout_everywhere(patch: Patch) -> None:
    def restart(self: Any) -> None:
        self._timeout_ms = self.settings.election_max_ms
        self._deadline = self._now + self._timeout_ms

    patch.setattr(RaftCore, "_restart_election_timer", restart)


def offer_with_every_message(patch: Patch) -> None:
    feed = LeaderPart._feed
    patch.setattr(
        RaftCore, "_feed", lambda self, progress, heartbeat, shared: feed(self, progress, True, shared)
    )


def next_index_follows_hints(patch: Patch) -> None:
    def on_reject(self: Any, progress: Any, reply: Any) -> None:
        progress.next_index = LogIndex(reply.hint_index + 1)

    patch.setattr(RaftCore, "_on_reject", on_reject)


def disk_forgets_syncs(patch: Patch) -> None:
    patch.setattr(FaultDisk, "fsync", lambda self, fd: None)


def manifest_only_in_memory(patch: Patch) -> None:
    patch.setattr(StateFolder, "write_manifest", lambda self, manifest: setattr(self, "_manifest", manifest))


def log_dropped_first(patch: Patch) -> None:
    write_manifest = StateFolder.write_manifest

    def write_late(self: Any, manifest: Any) -> None:
        journal = open_journal(self._disk, create=False)
        journal.compact(manifest.index)
        write_manifest(self, manifest)

    patch.setattr(StateFolder, "write_manifest", write_late)


def received_files_not_synced(patch: Patch) -> None:
    patch.setattr(StateFolder, "_sync_file", lambda self, path: None)


def damage_is_skipped(patch: Patch) -> None:
    patch.setattr(recovery, "_check_last", lambda *_: None)


MUTANTS: list[tuple[Callable[[Patch], None], Test]] = [
    (truncate_all_after_prev, rf01.test_ours_is_closed),
    (truncate_all_after_prev, rf01.test_ours_truncates_only_from_the_first_conflict),
    (leader_counts_itself_at_once, rf02.test_ours_counts_nothing_that_is_not_durable),
    (acknowledge_before_durable, rf02.test_ours_counts_nothing_that_is_not_durable),
    (count_replies_of_any_term, rf03.test_ours_is_closed),
    (count_vote_messages, rf04.test_ours_is_closed),
    (count_votes_of_anybody, lambda: rf04.test_ours_counts_voters_only(None)),
    (count_votes_of_anybody, lambda: rf04.test_ours_counts_voters_only(rf04.Role.STANDBY)),
    (send_before_durable, rf05.test_ours_is_closed),
    (own_vote_counts_at_once, rf05.test_ours_does_not_count_its_own_vote_before_it_is_durable),
    (offer_moves_commit, rf06.test_ours_is_closed),
    (acknowledge_own_log_end, rf07.test_ours_is_closed),
    (several_changes_at_once, rf09.test_ours_is_closed),
    (changes_are_not_rolled_back, rf09.test_ours_is_closed),
    (changes_before_own_term_commits, rf09.test_ours_waits_for_an_entry_of_its_own_term),
    (log_configurations_ignored_at_start, rf09.test_ours_starts_from_its_log),
    (no_stickiness, rf11.test_ours_is_closed),
    (no_check_quorum, rf11.test_ours_steps_down_within_an_election_timeout),
    (no_check_quorum, rf11.test_ours_never_has_two_leaders_for_long),
    (no_pre_vote, rf11.test_ours_that_returns_deposes_nobody),
    (silent_to_old_leaders, rf11.test_ours_tells_a_deposed_leader),
    (reads_without_quorum, rf12.test_ours_is_closed),
    (reads_without_quorum, rf12.test_ours_answers_reads_that_a_quorum_confirmed),
    (reads_ride_on_rounds_under_way, rf12.test_ours_does_not_count_confirmations_from_before_the_read),
    (reads_before_own_term_commits, rf12.test_ours_refuses_reads_before_its_first_commit),
    (repair_by_single_steps, rf18.test_ours_is_closed),
    (keep_all_in_memory, rf18.test_ours_bounds_what_it_keeps_in_memory),
    (same_timeout_everywhere, rf21.test_ours_is_closed),
    (offer_with_every_message, rf22.test_ours_offers_a_snapshot_with_the_heartbeats),
    (next_index_follows_hints, rf22.test_ours_is_closed),
    (disk_forgets_syncs, lambda: rf02.test_ours_is_closed(Loss.DROP, 0)),
    (manifest_only_in_memory, rf08.test_ours_is_closed),
    (log_dropped_first, rf08.test_ours_is_closed),
    (received_files_not_synced, rf08.test_ours_switches_to_a_received_snapshot_in_one_step),
    (damage_is_skipped, rf17.test_ours_is_closed),
]


def name_of(value: object) -> str:
    if isinstance(value, ModuleType) or not callable(value):
        return str(value)
    return f"{value.__module__.rpartition('.')[2]}.{value.__name__}"


def run(test: Test, folder: Path) -> None:
    """Call a test function as pytest would."""
    folder.mkdir()
    result = test(folder) if "tmp_path" in inspect.signature(test).parameters else test()
    if inspect.iscoroutine(result):
        asyncio.run(result)


@pytest.mark.parametrize(("mutant", "test"), MUTANTS, ids=name_of)
def test_mutant_is_caught(
    mutant: Callable[[Patch], None], test: Test, monkeypatch: Patch, tmp_path: Path
) -> None:
    run(test, tmp_path / "whole")
    mutant(monkeypatch)
    with pytest.raises(CAUGHT):
        run(test, tmp_path / "mutant")
