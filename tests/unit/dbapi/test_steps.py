"""Steps that were begun before they are driven are the same steps."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.dbapi.steps import NO_KEYWORDS, Steps, begun, drive


def adds(calls: int, log: list[Any]) -> Steps[int]:
    log.append("begun")
    total = 0
    for number in range(calls):
        try:
            total += yield int, (number,), NO_KEYWORDS
        except ValueError as error:
            log.append(str(error))
    return total


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_the_result_is_the_same(calls: int) -> None:
    log: list[Any] = []
    steps = begun(adds(calls, log))
    assert log == ["begun"]
    assert drive(steps) == sum(range(calls))
    assert log == ["begun"]


def test_what_a_call_raises_reaches_the_steps() -> None:
    log: list[Any] = []
    steps = begun(adds(2, log))
    next(steps)
    assert steps.throw(ValueError("first")) == (int, (1,), NO_KEYWORDS)
    with pytest.raises(StopIteration) as done:
        steps.send(5)
    assert done.value.value == 5
    assert log == ["begun", "first"]


def test_what_the_steps_do_not_take_comes_out() -> None:
    def fails() -> Steps[None]:
        yield int, ("no number",), NO_KEYWORDS

    with pytest.raises(ValueError, match="no number"):
        drive(begun(fails()))

    def at_once() -> Steps[None]:
        raise KeyError("before the first call")
        yield

    with pytest.raises(KeyError, match="before the first call"):
        begun(at_once())
