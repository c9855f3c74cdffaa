"""The simulation really goes through the rare paths: a batch of seeds reaches every mark, or proves little."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.cluster.coverage import MARKS, missing, report
from tests.simulation.cluster.run import run_seed

# Together these reached every mark when they were chosen.
SEEDS = (20204, 20000, 10240, 10013, 10248, 10101, 10120, 20076, 20064, 10164, 10087, 20103)
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
