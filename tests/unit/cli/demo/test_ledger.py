"""The demo's bookkeeping: silences, rates, percentiles."""

from __future__ import annotations

import pytest

from dqlite_py.cli.demo.ledger import Ledger, RowKey, percentile


def _ledger(*acks: tuple[float, str]) -> Ledger:
    ledger = Ledger(0.0)
    for number, (at, node) in enumerate(acks):
        ledger.acknowledge(RowKey("w", number), node, at - 0.002, at)
    return ledger


def test_the_silence_counts_from_the_last_row_before_the_kill() -> None:
    ledger = _ledger((1.0, "a"), (1.1, "b"), (1.9, "b"), (1.95, "c"), (3.0, "c"))
    silence = ledger.longest_silence(1.2, excluding="a")
    assert silence is not None
    assert silence.ms == pytest.approx(1050)
    assert ledger.longest_silence(3.5, excluding="a") is None


def test_a_silence_under_way_at_the_kill_counts_whole() -> None:
    ledger = _ledger((1.0, "b"), (2.0, "b"))
    silence = ledger.longest_silence(1.5, excluding="a")
    assert silence is not None
    assert (silence.start_s, silence.end_s) == (1.0, 2.0)


def test_rows_through_the_killed_node_do_not_end_the_silence() -> None:
    ledger = _ledger((1.0, "b"), (1.5, "a"), (2.0, "b"))
    silence = ledger.longest_silence(1.2, excluding="a")
    assert silence is not None
    assert silence.ms == pytest.approx(1000)
    assert ledger.acknowledged_since(1.2, excluding="a") == 1


def test_a_row_is_acknowledged_once() -> None:
    ledger = _ledger((1.0, "a"))
    with pytest.raises(AssertionError):
        ledger.acknowledge(RowKey("w", 0), "b", 1.0, 1.1)


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    ledger = _ledger((1.0, "a"), (2.0, "b"))
    assert ledger.latency_ms(0.5, "b") == pytest.approx(2.0)
    assert ledger.latency_ms(0.5, "c") is None


def test_rate_and_sparkline_show_the_newest_at_the_right() -> None:
    ledger = _ledger(*((i / 100, "a") for i in range(1, 101)))
    assert ledger.rate(1.0) == 100
    line = ledger.sparkline(1.0)
    assert line.endswith("█")
    assert line.startswith(" ")
    assert ledger.sparkline(5.0).endswith(" ")
