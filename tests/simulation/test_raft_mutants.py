"""Do the checks bite? Every rule taken away is noticed by a directed rule, and most by the plain simulation too."""

from __future__ import annotations

import pytest

from dqlite_py.errors import Error
from dqlite_py.raft.core import RaftCore
from tests.simulation import raft_mutants as mutants
from tests.simulation.raft_world import SafetyViolation, storm
from tests.unit.raft import rules

DIRECTED: dict[type[RaftCore], rules.Rule] = {
    mutants.TruncatesMatching: rules.matching_entries_are_never_truncated,
    mutants.CountsStaleAcks: rules.acknowledgements_of_earlier_terms_do_not_count,
    mutants.CountsStaleGrants: rules.grants_of_earlier_candidacies_do_not_count,
    mutants.CountsDuplicateVotes: rules.votes_are_a_set_of_members,
    mutants.AcksBeforeDurable: rules.entries_are_acknowledged_when_durable,
    mutants.AcksUnverified: rules.only_verified_entries_are_acknowledged,
    mutants.CountsItselfBeforeDurable: rules.a_leader_counts_itself_when_durable,
    mutants.VotesBeforeDurable: rules.votes_are_told_when_durable,
    mutants.CommitsOnOffer: rules.a_snapshot_offer_commits_nothing,
    mutants.CommitsOldTerms: rules.entries_of_earlier_terms_are_not_counted,
    mutants.CommitsUnverified: rules.nothing_unverified_is_committed,
    mutants.VotesForShortLogs: rules.votes_go_to_complete_logs,
    mutants.NoPendingGuard: rules.one_change_at_a_time,
    mutants.NoRollback: rules.a_truncated_configuration_is_rolled_back,
    mutants.CountsLearners: rules.stand_bys_do_not_count,
    mutants.ReadsWithoutQuorum: rules.reads_wait_for_a_quorum,
    mutants.ReadsBeforeOwnTermCommit: rules.reads_wait_for_the_own_term,
    mutants.HandsOutBeforeDurable: rules.nothing_is_handed_out_before_it_is_durable,
    mutants.SnapshotDropsSuffix: rules.an_installed_snapshot_keeps_what_was_acknowledged,
    mutants.NoCheckQuorum: rules.a_leader_without_quorum_steps_down,
    mutants.NoStickiness: rules.a_live_leader_is_not_disturbed,
    mutants.TrustsLostData: rules.lost_data_is_noticed,
    mutants.OwnVoteBeforeDurable: rules.an_own_vote_counts_when_durable,
}
# Found by random faults alone, and a seed that does it. The others need more luck than a test has time for.
BY_STORM: dict[type[RaftCore], int] = {
    mutants.TruncatesMatching: 0,
    mutants.VotesForShortLogs: 0,
    mutants.ReadsBeforeOwnTermCommit: 1,
    mutants.AcksUnverified: 1,
    mutants.CommitsUnverified: 1,
    mutants.AcksBeforeDurable: 3,
    mutants.SnapshotDropsSuffix: 7,
    mutants.ReadsWithoutQuorum: 32,
    mutants.CommitsOnOffer: 20,
}
NEARBY = 12  # the core may draw its random numbers differently one day: look a little further


def _mutants() -> set[type[RaftCore]]:
    found = (value for value in vars(mutants).values() if isinstance(value, type))
    return {value for value in found if issubclass(value, RaftCore) and value is not RaftCore}


def test_no_mutant_is_forgotten() -> None:
    assert set(DIRECTED) == _mutants()
    assert len(set(DIRECTED.values())) == len(rules.RULES)


@pytest.mark.parametrize("mutant", DIRECTED, ids=lambda mutant: mutant.__name__)
def test_a_directed_rule_notices(mutant: type[RaftCore]) -> None:
    with pytest.raises((AssertionError, Error)):
        DIRECTED[mutant](mutant)


@pytest.mark.parametrize("mutant", BY_STORM, ids=lambda mutant: mutant.__name__)
def test_the_simulation_notices(mutant: type[RaftCore]) -> None:
    first = BY_STORM[mutant]
    assert any(_notices(mutant, seed) for seed in range(first, first + NEARBY))


def _notices(mutant: type[RaftCore], seed: int) -> bool:
    try:
        storm(seed, core_class=mutant)
    except SafetyViolation:
        return True
    return False
