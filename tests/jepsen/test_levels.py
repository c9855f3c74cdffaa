"""Reads at several levels: each kind of wrong read is found, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from jepsen.checkers.levels import SLACK_S, check_levels
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType

BOUND_S = 2.0
Event = tuple[float, str, int, str, Any]  # seconds, type, process, f, value


def history(*events: Event) -> History:
    return History(
        Op(index, OpType(kind), process, f, value, int(seconds * 1e9))
        for index, (seconds, kind, process, f, value) in enumerate(events)
    )


def bump(at: float, value: int, process: int = 0) -> list[Event]:
    return [(at, "invoke", process, "bump", None), (at, "ok", process, "bump", value)]


def read(at: float, level: str, value: int, process: int = 1) -> list[Event]:
    return [(at, "invoke", process, "read", [level, None]), (at, "ok", process, "read", [level, value])]


@pytest.mark.parametrize("level", ["linearizable", "leader"])
def test_fresh_levels_see_what_was_acknowledged(level: str) -> None:
    assert check_levels(history(*bump(0, 1), *read(1, level, 1)), BOUND_S).valid is True
    assert check_levels(history(*bump(0, 1), *read(1, level, 0)), BOUND_S).valid is False


@pytest.mark.parametrize("level", ["linearizable", "leader"])
def test_fresh_levels_do_not_go_back(level: str) -> None:
    under_way: Event = (0, "invoke", 0, "bump", None)
    found = check_levels(history(under_way, *read(1, level, 1), *read(2, level, 0, 2)), BOUND_S)
    assert found.valid is False
    assert "too-old" in found.details


def test_a_session_sees_its_own_and_no_other_is_asked_of_it() -> None:
    assert check_levels(history(*bump(0, 1, 5), *read(1, "session", 0)), BOUND_S).valid is True
    assert check_levels(history(*bump(0, 1, 1), *read(1, "session", 0)), BOUND_S).valid is False
    back = [*bump(0, 1, 5), *read(1, "session", 1), *read(2, "session", 0)]
    assert check_levels(history(*back), BOUND_S).valid is False


def test_stale_reads_are_bounded() -> None:
    limit = BOUND_S + SLACK_S
    assert check_levels(history(*bump(0, 1), *read(limit - 0.01, "stale", 0)), BOUND_S).valid is True
    assert check_levels(history(*bump(0, 1), *read(limit + 0.01, "stale", 0)), BOUND_S).valid is False


@pytest.mark.parametrize("level", ["linearizable", "leader", "session", "stale"])
def test_nobody_sees_the_future(level: str) -> None:
    found = check_levels(history(*bump(0, 1), *read(1, level, 2)), BOUND_S)
    assert found.valid is False
    assert "from-the-future" in found.details


def test_nothing_read_is_no_verdict() -> None:
    assert check_levels(history(*bump(0, 1)), BOUND_S).valid is None


@pytest.mark.parametrize("value", [None, ["fresh", 1], ["stale", "1"], ["stale", True]])
def test_wrong_shapes_are_named(value: Any) -> None:
    with pytest.raises(HistoryError, match="op"):
        check_levels(history((0, "invoke", 1, "read", ["stale", None]), (1, "ok", 1, "read", value)), BOUND_S)
