"""What is told of dqlite's protocol beside dqlite: medians of rounds, latencies inside a window."""

from __future__ import annotations

import math

from tests.benchmarks.protocol import Load, figures


def load(rate: int, ms: float, errors: int = 0) -> Load:
    return Load(
        1.0, [ms] * rate, [float(n) for n in range(rate)], {"database is locked": errors} if errors else {}
    )


def test_ratios_compare_medians_of_the_rounds() -> None:
    turns = {
        "ours": [{1: load(10, ms), 16: load(rate, 1.0)} for ms, rate in ((2.0, 90), (1.0, 100), (9.0, 7))],
        "dqlite": [
            {1: load(10, ms), 16: load(rate, 1.0, 5)} for ms, rate in ((4.0, 10), (4.0, 10), (1.0, 1))
        ],
    }
    many, lone = figures(turns)
    assert (many.value, many.verdict) == (9.0, "MISSED")
    assert (lone.value, lone.verdict) == (0.5, "ok")
    assert "dqlite: 10/s, p50 1.00 ms, 15 errors" in many.note


def test_a_percentile_of_a_part_of_the_load() -> None:
    found = Load(1.0, [1.0, 5.0, 7.0], [0.5, 1.0, 2.0], {})
    assert found.p99_within(0.0, 2.0) == 5.0
    assert math.isnan(found.p99_within(3.0, 4.0))
