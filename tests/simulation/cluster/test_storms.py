"""Whole clusters under random faults: fresh seeds for a fixed time, and every seed that ever failed.

DQLITE_SIM_SEEDS=N: so many seeds instead of a fixed time; A-B: these. A failure prints the command that replays it.
"""

from __future__ import annotations

import os
import secrets
import time

import pytest

from tests.simulation.cluster.found import FOUND
from tests.simulation.cluster.run import Outcome, run_seed

CHUNKS = 6
CPU_S_PER_CHUNK = 25.0
SEED_MAX = 10**9


def _fresh(chunk: int) -> list[int] | None:
    """The chunk's share of the seeds asked for; None: as many as the time allows."""
    asked = os.environ.get("DQLITE_SIM_SEEDS")
    if asked is None:
        return None
    first, dash, last = asked.partition("-")
    if dash:
        return list(range(int(first), int(last) + 1))[chunk::CHUNKS]
    base = secrets.randbelow(SEED_MAX)
    return list(range(base, base + int(first)))[chunk::CHUNKS]


def _check(outcome: Outcome) -> None:
    if outcome.violation is not None:
        pytest.fail(outcome.message(), pytrace=False)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_fresh_seeds(chunk: int) -> None:
    """Every promise holds under whatever the seeds bring, and the cluster is live again afterwards."""
    seeds = _fresh(chunk)
    if seeds is not None:
        for seed in seeds:
            _check(run_seed(seed))
        return
    seed = secrets.randbelow(SEED_MAX)
    end = time.process_time() + CPU_S_PER_CHUNK
    while time.process_time() < end:
        _check(run_seed(seed))
        seed += 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", FOUND, ids=lambda seed: f"seed-{seed}")
def test_seeds_that_failed_once(seed: int) -> None:
    _check(run_seed(seed, **FOUND[seed].options))
