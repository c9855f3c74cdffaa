"""The simulation really goes through the rare paths: a batch of seeds reaches every mark, or proves little."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.cluster.coverage import MARKS, missing, report
from tests.simulation.cluster.run import run_seed

# Together these reached every mark when they were chosen.
SEEDS = (
    10164,
    20000,
    40006,
    40010,
    20076,
    10240,
    20064,
    10087,
    40004,
    50043,
    50005,
    50343,
    50651,
    60240,
    60900,
)
# When the product or the simulation draws its random numbers differently, others will.
FIRST_MORE, MORE_MAX = 30_000, 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_mark_is_reached() -> None:
    reached: Counter[str] = Counter()
    for count, seed in enumerate((*SEEDS, *range(FIRST_MORE, FIRST_MORE + MORE_MAX)), 1):
        outcome = run_seed(seed)
        assert outcome.violation is None, outcome.message()
        reached += outcome.marks
        if count >= len(SEEDS) and not missing(reached):
            return
    pytest.fail("never reached: " + ", ".join(missing(reached)) + "\n" + report(reached))


def test_marks_are_described() -> None:
    assert all(MARKS.values())
