"""The demo's judge must find every kind of wrong."""

from __future__ import annotations

from typing import Any

from dqlite_py.cli.demo.ledger import RowKey
from dqlite_py.cli.demo.verdict import NodeContent, Verdict, judge

ACKED = {RowKey("a", 0), RowKey("a", 1), RowKey("b", 0)}
ROWS = [["a", 0, "now"], ["a", 1, "now"], ["b", 0, "then"]]


def _verdict(
    second: list[Any], *, state_hash: str = "aa", applied: int = 9, unknown: set[RowKey] | None = None
) -> Verdict:
    contents = {"one": NodeContent(9, "aa", ROWS), "two": NodeContent(applied, state_hash, second)}
    return judge(contents, ACKED, unknown or set())


def test_all_alike_is_good() -> None:
    verdict = _verdict(ROWS)
    assert verdict.is_good
    assert verdict.facts[0] == "3 acknowledged rows: each exactly once on all nodes"
    assert "aa" in verdict.facts[-1]


def test_a_lost_row() -> None:
    assert any("two LOST 1 acknowledged rows" in fault for fault in _verdict(ROWS[1:]).faults)


def test_a_double_row() -> None:
    assert any("more than once" in fault for fault in _verdict([*ROWS, ROWS[0]]).faults)


def test_a_refused_row_that_is_there() -> None:
    assert any("refused" in fault for fault in _verdict([*ROWS, ["c", 5, "now"]]).faults)


def test_content_that_differs_in_a_column_nobody_acknowledged() -> None:
    faults = _verdict([*ROWS[:2], ["b", 0, "other"]]).faults
    assert faults == ["the rows of two and one are not the same"]


def test_another_state_hash() -> None:
    assert any("DIVERGENCE" in fault for fault in _verdict(ROWS, state_hash="bb").faults)


def test_a_node_that_lags() -> None:
    assert any("applied the log to 8" in fault for fault in _verdict(ROWS, applied=8).faults)


def test_unknown_rows_may_be_there_or_not() -> None:
    unknown = {RowKey("c", 5), RowKey("c", 6)}
    rows = [*ROWS, ["c", 5, "now"]]
    contents = {"one": NodeContent(9, "aa", rows), "two": NodeContent(9, "aa", rows)}
    verdict = judge(contents, ACKED, unknown)
    assert verdict.is_good
    assert any("1 happened, 1 did not" in fact for fact in verdict.facts)
