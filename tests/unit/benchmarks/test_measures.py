"""The harness's arithmetic: percentiles, windows, series."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks.measures import (
    CURVE_SHARES,
    Sample,
    Tally,
    Window,
    due_s,
    growth,
    median_of,
    percentile,
    summary,
    worst_fall,
)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (0.991, 100), (0.07, 7), (1.0, 100)]
)
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, share) == expected


def test_percentile_of_one_and_of_none() -> None:
    assert percentile([3.0], 0.999) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_summary_counts_what_was_done_and_keeps_the_tail() -> None:
    tally = Tally(done=4)
    tally.ms.extend([1.0, 2.0, 3.0, 100.0])
    tally.errors["BUSY"] += 3
    tally.unserved = 2
    found = summary(tally, 2.0)
    assert (found["rate"], found["p50"], found["p99"]) == (2.0, 2.0, 100.0)
    assert (found["errors"], found["unserved"]) == ({"BUSY": 3}, 2)
    assert len(found["curve"]) == len(CURVE_SHARES)
    assert found["curve"][-1] == 100.0


def test_tallies_merge_and_survive_the_way_between_processes() -> None:
    one, two = Tally(done=1), Tally(done=2, unserved=1)
    one.ms.append(1.5)
    two.ms.append(2.5)
    one.errors["BUSY"] += 1
    two.errors["BUSY"] += 2
    one.merge(Tally.unpacked(two.packed()))
    assert (list(one.ms), one.done, one.errors["BUSY"], one.unserved) == ([1.5, 2.5], 3, 3, 1)


def test_a_window_is_half_open() -> None:
    window = Window(1.0, 2.0)
    assert [window.holds(s) for s in (0.9, 1.0, 1.9, 2.0)] == [False, True, True, False]
    assert window.seconds == 1.0


def test_arrivals_are_due_at_a_fixed_rate() -> None:
    assert [due_s(10.0, 4.0, number) for number in range(3)] == [10.0, 10.25, 10.5]


def _sample(**fields: float | None) -> Sample:
    return Sample("ours", "insert", 1, 3, 1.0, **{"rate": 1.0, **fields})  # type: ignore[arg-type]


def test_the_median_of_rounds_leaves_out_what_was_not_measured() -> None:
    samples = [_sample(rate=5.0, fsyncs=None), _sample(rate=1.0, fsyncs=2.0), _sample(rate=3.0, p50=7.0)]
    assert median_of(samples, "rate") == 3.0
    assert median_of(samples, "fsyncs") == 2.0
    assert median_of(samples, "p50") == 7.0
    assert math.isnan(median_of(samples, "cpu_us"))


def test_growth_compares_quarters() -> None:
    assert growth([50, 90, 100, 100, 100, 100, 100, 100]) == 1.0
    assert growth([50, 90, 100, 100, 110, 120, 130, 130]) == 1.3
    assert math.isnan(growth([1, 2, 3]))


def test_the_worst_fall_looks_back_to_the_best() -> None:
    assert worst_fall([1.0, 4.0, 8.0, 12.0]) == 1.5
    assert worst_fall([10.0, 20.0, 19.0, 15.0, 18.0]) == 0.75
