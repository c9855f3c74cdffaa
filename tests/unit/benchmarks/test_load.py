"""Load from threads: what counts, and from when (on a clock that only the operation moves)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

import dqlite_py
from tests.benchmarks import load
from tests.benchmarks.load import GRACE_S, WARM_S, closed_loop, error_kind, open_loop
from tests.benchmarks.measures import BUSY, Tally, Window


class Clock:
    """Stands in for the module `time`: sleeping and working move it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(load, "time", made)
    return made


def _taking(clock: Clock, durations: list[float], then: float) -> Callable[[], None]:
    """An operation that takes these times, one after the other, then always `then`."""
    left = iter(durations)

    def operation() -> None:
        clock.now_s += next(left, then)

    return operation


def test_closed_loop_counts_only_what_ended_inside(clock: Clock) -> None:
    tally = Tally()
    # Ends at 0.5, 1.25, 2.25 and 3.25: the first is before the window and the last after it.
    closed_loop(_taking(clock, [0.5, 0.75, 1.0], 1.0), Window(1.0, 3.0), tally)
    assert list(tally.ms) == [750.0, 1000.0]
    assert tally.done == 2


def test_errors_are_counted_by_kind_and_have_no_latency(clock: Clock) -> None:
    kinds = itertools.cycle([ValueError("no"), OSError("database is locked")])

    def operation() -> None:
        clock.now_s += 0.5
        raise next(kinds)

    tally = Tally()
    closed_loop(operation, Window(0.0, 2.0), tally)
    assert dict(tally.errors) == {"ValueError": 2, BUSY: 1}
    assert not tally.ms


def test_a_fault_of_the_benchmark_ends_the_run(clock: Clock) -> None:
    def operation() -> None:
        raise dqlite_py.ProgrammingError("wrong thread")

    with pytest.raises(dqlite_py.ProgrammingError, match="wrong thread"):
        closed_loop(operation, Window(0.0, 2.0), Tally())
    with pytest.raises(dqlite_py.ProgrammingError, match="wrong thread"):
        open_loop(operation, Window(WARM_S, 2.0), 10.0, itertools.count(), Tally())


def test_busy_is_known_by_class_and_by_text() -> None:
    class BusyError(Exception):
        pass

    assert error_kind(BusyError()) == BUSY
    assert error_kind(OSError("database is locked")) == BUSY
    assert error_kind(KeyError("x")) == "KeyError"


def test_open_loop_latency_counts_from_when_the_arrival_was_due(clock: Clock) -> None:
    """One caller, ten arrivals a second; the first takes half a second and makes the next four late."""
    start_s = 10.0
    clock.now_s = start_s
    tally = Tally()
    window = Window(start_s, start_s + 1.0)
    numbers = itertools.count(round(WARM_S * 10))  # arrival 0 is due WARM_S before the window
    open_loop(_taking(clock, [0.5], 0.0), window, 10.0, numbers, tally)
    assert [round(ms) for ms in tally.ms] == [500, 400, 300, 200, 100, 0, 0, 0, 0, 0]
    assert tally.done == 10


def test_a_closed_loop_would_have_hidden_them(clock: Clock) -> None:
    tally = Tally()
    closed_loop(_taking(clock, [0.5], 0.1), Window(0.0, 1.05), tally)
    assert [round(ms) for ms in tally.ms] == [500, 100, 100, 100, 100, 100]


def test_arrivals_that_cannot_begin_count_with_the_time_they_waited(clock: Clock) -> None:
    start_s = 10.0
    clock.now_s = start_s
    window = Window(start_s, start_s + 1.0)
    tally = Tally()
    numbers = itertools.count(round(WARM_S * 2))
    # Two a second; the first takes until long after the window: the second is never begun.
    open_loop(_taking(clock, [1.0 + GRACE_S], 0.0), window, 2.0, numbers, tally)
    assert tally.unserved == 1
    assert [round(ms) for ms in tally.ms] == [2000, 1500]
    assert tally.done == 0


def test_arrivals_are_shared_by_callers_and_end_with_the_window() -> None:
    tally, window = load.run_threads(lambda _number: lambda: None, 4, 0.2, rate=100.0)
    assert window.seconds == pytest.approx(0.2)
    assert len(tally.ms) + tally.unserved in (19, 20, 21)


def test_a_failing_caller_is_not_lost() -> None:
    def make(_number: int) -> Callable[[], None]:
        def operation() -> None:
            raise KeyboardInterrupt

        return operation

    with pytest.raises(KeyboardInterrupt):
        load.run_threads(make, 1, 0.05)
