"""The simulation really goes through the rare paths: a batch of seeds reaches every mark, or proves little."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.cluster import addresses as addresses_module
from tests.simulation.cluster import clients
from tests.simulation.cluster import roles as roles_module
from tests.simulation.cluster import world as world_module
from tests.simulation.cluster.coverage import MARKS, missing, report
from tests.simulation.cluster.plans import Mixture
from tests.simulation.cluster.run import Outcome, run_seed
from tests.simulation.cluster.scale import KIB, Scale

# Together these reached every mark when they were chosen.
SEEDS = (
    30195,
    30202,
    30209,
    31007,
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
    104,
    111,
    429305199,
)
# When the product or the simulation draws its random numbers differently, others will.
FIRST_MORE, MORE_MAX = 30_000, 300


def _resets_amid_large_requests(patch: pytest.MonkeyPatch) -> Outcome:
    """Requests of many pieces, and connections that end while some of them are still queued."""
    large = Scale(big_write_bytes=400 * KIB, fragment_bytes=2 * KIB, operations_per_s=40.0, scratch_per_s=0.0)
    with patch.context() as set_to:
        set_to.setattr(clients, "BIG", 0.5)
        set_to.setattr(
            world_module, "mixture", lambda _rng, _only: Mixture({"reset connections": 20.0, "isolate": 0.5})
        )
        for module in (roles_module, addresses_module):
            set_to.setattr(module, "rates", lambda _seed: {})
        set_to.setattr(Scale, "draw", lambda _rng: large)
        return run_seed(1, node_count=3, duration_s=8.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_mark_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = _resets_amid_large_requests(monkeypatch)
    assert outcome.violation is None, outcome.message()
    reached = Counter(outcome.marks)
    for count, seed in enumerate((*SEEDS, *range(FIRST_MORE, FIRST_MORE + MORE_MAX)), 1):
        outcome = run_seed(seed)
        assert outcome.violation is None, outcome.message()
        reached += outcome.marks
        if count >= len(SEEDS) and not missing(reached):
            return
    pytest.fail("never reached: " + ", ".join(missing(reached)) + "\n" + report(reached))


def test_marks_are_described() -> None:
    assert all(MARKS.values())
