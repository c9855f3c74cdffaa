"""Every fault of docs/raft-faults.md, switched back on in whole clusters, is noticed, and so are mistakes of
our own; without them nothing is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation.cluster.canaries import (
    AWAY,
    CANARIES,
    CHURN,
    DEPOSED,
    NOT_SIMULATED,
    Canary,
    caught,
    run,
)
from tests.simulation.cluster.canaries_changes import CHANGES
from tests.simulation.cluster.canaries_own import OWN
from tests.simulation.cluster.canaries_reads import READS
from tests.simulation.cluster.canaries_roles import JOINING, KEPT, ROLES
from tests.simulation.cluster.plans import Mixture

OURS = {**OWN, **READS, **CHANGES, **ROLES}
ROOT = Path(__file__).parents[3]


def test_every_fault_has_a_canary_or_a_reason() -> None:
    assert not {canary.rf for canary in OURS.values()} - {""}
    assert not CANARIES.keys() & OURS.keys()
    shown = {canary.rf for canary in CANARIES.values()}
    assert not shown & set(NOT_SIMULATED)
    assert shown | set(NOT_SIMULATED) == {f"RF-{number}" for number in range(1, 23)}


@pytest.mark.parametrize("rf", NOT_SIMULATED)
def test_a_reason_names_the_test_that_proves_it(rf: str) -> None:
    named = re.search(r"tests/faults/\w+\.py", NOT_SIMULATED[rf])
    assert named is not None
    assert (ROOT / named[0]).read_text().startswith(f'"""{rf}: ')


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CANARIES, *OURS])
def test_a_canary_is_caught(name: str) -> None:
    canary = {**CANARIES, **OURS}[name]
    outcome = caught(canary)
    assert outcome is not None, f"no seed of {canary.seeds_max} noticed"
    assert outcome.violation is not None
    assert outcome.violation.startswith("SafetyViolation: "), outcome.message()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "short_log"),
    [(AWAY, True), (CHURN, False), (DEPOSED, False), (KEPT, False), (JOINING, True)],
    ids=["away", "churn", "deposed", "kept", "joining"],
)
def test_without_a_fault_nothing_is_noticed(plan: Mixture, short_log: bool) -> None:
    """The mixtures that only canaries use; those of ordinary seeds are run by the storms."""
    canary = Canary("-", "the product as it is", lambda: pytest.fail("not used"), plan, short_log=short_log)
    for seed in range(3):
        outcome = run(canary, seed, patched=False)
        assert outcome.violation is None, outcome.message()
