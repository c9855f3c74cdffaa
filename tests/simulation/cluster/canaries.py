"""Do the whole simulation's checks bite? The faults of stock PySyncObj (docs/raft-faults.md), put back one at a time.

A canary is a patch, the mixture of faults that shows it, and a seed that did. `caught` runs seeds with the patch until
one ends in a violation. What cannot be seen in a simulated cluster is in NOT_SIMULATED, with the test that proves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partialmethod
from typing import Any, Final

from dqlite_py.limits import FRAME_FRAGMENT_BYTES
from tests.simulation import raft_mutants as mutants
from tests.simulation.cluster import addresses as addresses_module
from tests.simulation.cluster import canaries_patches as patches
from tests.simulation.cluster import roles as roles_module
from tests.simulation.cluster import world as world_module
from tests.simulation.cluster.canaries_patches import Patch, core, replaced
from tests.simulation.cluster.plans import PROFILES, Mixture
from tests.simulation.cluster.run import Outcome, run_seed
from tests.simulation.cluster.scale import Scale
from tests.simulation.cluster.world import World

SHORT: Final = Scale(segment_bytes=12 * 1024, tail_bytes=0)
DISORDER: Final = ("kill", "pause", "isolate", "reset connections", "slow disk", "transfer", "disturb")
POWER: Final = (
    "power loss",
    "power loss of all",
    "crash at a disk operation",
    "slow disk",
    "disturb",
    "transfer",
)
PARTITIONS: Final = ("isolate", "one way", "halves", "ring", "reset connections", "transfer")
MEMBERS: Final = ("remove and rejoin", "isolate", "kill", "transfer", "slow disk")
AWAY: Final = PROFILES["away"]
CHURN: Final = PROFILES["churn"]
DEPOSED: Final = PROFILES["deposed"]


@dataclass(frozen=True, slots=True)
class Canary:
    """`faults`: kinds (faults.ATLAS) or a whole mixture. `seed`: one that is caught; `seeds_max`: how many from there
    may be tried, should the product draw its random numbers differently one day. `short_log`: small files and no
    tail, so that followers that were away need snapshots."""

    rf: str
    what: str
    patch: Patch
    faults: Sequence[str] | Mixture = DISORDER
    node_count: int | None = None
    seed: int = 0
    seeds_max: int = 12
    duration_s: float = 20.0
    operations_per_s: float = 20.0
    transactions_per_s: float = 0.0
    levels_per_s: float = 0.0
    followers: int = 0
    scratch_per_s: float = 1.5
    short_log: bool = False
    fragment_bytes: int = FRAME_FRAGMENT_BYTES


CANARIES: Final[dict[str, Canary]] = {
    "truncates matching entries": Canary(
        "RF-1", "a follower drops everything behind the request's first index", core(mutants.TruncatesMatching)
    ),
    "nothing synced": Canary(
        "RF-2", "groups are acknowledged without fdatasync", patches.nothing_synced, faults=POWER
    ),
    "acknowledges from memory": Canary(
        "RF-2", "a follower acknowledges before its disk is done", core(mutants.AcksBeforeDurable), faults=POWER
    ),
    "counts itself at once": Canary(
        "RF-2", "a leader counts its own copy before it is durable", core(mutants.CountsItselfBeforeDurable)
    ),
    "counts stale acknowledgements": Canary(
        "RF-3", "acknowledgements of earlier terms count", core(mutants.CountsStaleAcks), faults=CHURN, seed=20,
    ),
    "counts stale grants": Canary(
        "RF-3", "grants of earlier candidacies count", core(mutants.CountsStaleGrants), faults=CHURN, node_count=5,
        seed=16,
    ),
    "counts votes by message": Canary(
        "RF-4", "every answer to a candidate is a vote", core(patches.CountsVotesByMessage), node_count=5, seed=5,
    ),
    "votes from memory": Canary(
        "RF-5", "a vote is told before it is durable", core(mutants.VotesBeforeDurable), faults=POWER
    ),
    "vote not written": Canary(
        "RF-5", "the vote never reaches the disk", patches.vote_in_memory, faults=POWER
    ),
    "own vote at once": Canary(
        "RF-5", "a candidate counts its vote before it is durable", core(mutants.OwnVoteBeforeDurable), faults=POWER
    ),
    "offer moves the commit index": Canary(
        "RF-6", "a snapshot offer commits what the log has", core(mutants.CommitsOnOffer), faults=AWAY, short_log=True
    ),
    "acknowledges its own log end": Canary(
        "RF-7", "what was not compared with the leader's log is acknowledged", core(mutants.AcksUnverified)
    ),
    "log dropped before the state is durable": Canary(
        "RF-8", "compaction without a manifest on the disk", patches.manifest_in_memory, faults=AWAY, short_log=True
    ),
    "counts stand-bys": Canary(
        "RF-9", "members without a vote count for commits", core(mutants.CountsLearners), faults=MEMBERS, seed=4,
    ),
    "configuration of the start": Canary(
        "RF-9", "the log's configurations are ignored at a start", patches.configuration_of_the_start
    ),
    "sizes that wedge": Canary(
        "RF-10", "messages of some sizes never arrive", patches.sizes_that_wedge, fragment_bytes=256
    ),
    "no check-quorum": Canary(
        "RF-11", "a leader without followers leads on", core(mutants.NoCheckQuorum), faults=PARTITIONS, seed=1,
    ),
    "no pre-vote": Canary(
        "RF-11", "an isolated node raises its term", core(patches.NoPreVote), faults=PARTITIONS
    ),
    "reads without a quorum": Canary(
        "RF-12", "a leader serves reads on its word alone", core(mutants.ReadsWithoutQuorum), faults=DEPOSED,
        operations_per_s=60.0, seed=5,
    ),
    "reads before its own commit": Canary(
        "RF-12", "a new leader serves reads before it knows what is committed", patches.reads_of_a_new_leader,
        faults=CHURN, operations_per_s=60.0
    ),
    "lost means not sent": Canary(
        "RF-13", "uncertain writes are sent again", patches.lost_means_not_sent, seed=2,
    ),
    "deposed means not done": Canary(
        "RF-13", "a deposed leader's proposals are said to have failed", patches.deposed_means_not_done, seed=3,
    ),
    "applies again": Canary(
        "RF-14", "the applied index is not kept with what was applied", patches.applied_index_apart
    ),
    "damage is cut": Canary(
        "RF-17", "damage in the middle of the journal ends it", patches.damage_is_cut,
        faults=Mixture({"rot": 1.5, "kill": 0.2}),
    ),
    "no checksums": Canary(
        "RF-17", "every byte of the journal is believed", patches.no_checksums, faults=POWER, seed=18,
    ),
    "one step back at a time": Canary(
        "RF-18", "repair asks for every index", core(patches.StepsBackOneByOne), seed=3,
    ),
    "offers without pause": Canary(
        "RF-22", "snapshots are offered as fast as the leader can", core(patches.OffersWithEveryMessage), faults=AWAY,
        short_log=True,
    ),
}  # fmt: skip

NOT_SIMULATED: Final[dict[str, str]] = {
    "RF-15": "a slow apply on the loop costs the leadership and nothing else: no promise of the cluster is broken, and "
    "how often leaders change is no property here; tests/faults/test_rf15_slow_apply.py",
    "RF-16": "pickle and strangers: all simulated peers are honest nodes; tests/faults/test_rf16_trust.py",
    "RF-19": "the simulated kernel sends a lost SYN again and resets what a dead process left, so no attempt outlives "
    "a blackout for long; tests/faults/test_rf19_connecting.py",
    "RF-20": "there are no code versions in our log that a canary could switch; tests/faults/test_rf20_code_version.py",
    "RF-21": "an election more per fail-over breaks no promise; tests/faults/test_rf21_fail_over.py measures it",
}
"""RF id to the reason and the test that proves the fault closed."""


@contextmanager
def circumstances(canary: Canary) -> Iterator[None]:
    """The canary's faults, load and limits, without its patch."""
    rows: list[tuple[Any, str, Any]] = []
    plan = canary.faults
    if isinstance(plan, Mixture):
        rows.append((world_module, "mixture", lambda _rng, _only: replace(plan)))
        rows += [(module, "rates", lambda _seed: {}) for module in (roles_module, addresses_module)]
    scale = replace(
        SHORT if canary.short_log else Scale(),
        fragment_bytes=canary.fragment_bytes,
        transactions_per_s=canary.transactions_per_s,
        levels_per_s=canary.levels_per_s,
        followers=canary.followers,
        scratch_per_s=canary.scratch_per_s,
    )
    rows.append((Scale, "draw", lambda _rng: scale))
    storm = partialmethod(World.storm, operations_per_s=canary.operations_per_s)
    rows.append((World, "storm", storm))
    with replaced(*rows):
        yield


def run(canary: Canary, seed: int, *, patched: bool = True) -> Outcome:
    """One seed under the canary's circumstances; without the patch nothing may be found."""
    only = None if isinstance(canary.faults, Mixture) else list(canary.faults)
    with circumstances(canary), canary.patch() if patched else nullcontext():
        return run_seed(seed, duration_s=canary.duration_s, node_count=canary.node_count, only=only)


def caught(canary: Canary) -> Outcome | None:
    """The first run that ends in a violation."""
    for seed in range(canary.seed, canary.seed + canary.seeds_max):
        outcome = run(canary, seed)
        if outcome.violation is not None:
            return outcome
    return None
