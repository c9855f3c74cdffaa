"""Availability: every figure on a history that can be computed by hand, and the optional limit."""

from __future__ import annotations

import json

import pytest

from jepsen.checkers.availability import FaultWindow, check_availability, fault_windows
from jepsen.history.history import History
from jepsen.history.op import Op, OpType

MS = 1_000_000


class Timeline:
    """Events at given milliseconds, in any order; the history has them by time."""

    def __init__(self) -> None:
        self._events: list[tuple[int, OpType, int | str, str, object]] = []

    def client(
        self, begin_ms: int, end_ms: int, type: OpType = OpType.OK, f: str = "read", process: int = 0
    ) -> None:
        self._events += [(begin_ms, OpType.INVOKE, process, f, None), (end_ms, type, process, f, None)]

    def nemesis(self, at_ms: int, f: str, value: object = None) -> None:
        self._events.append((at_ms, OpType.INFO, "nemesis", f, value))

    def history(self) -> History:
        events = sorted(self._events, key=lambda event: event[0])
        return History(
            Op(i, type, process, f, value, at * MS) for i, (at, type, process, f, value) in enumerate(events)
        )


def outage() -> Timeline:
    """One ok per 100 ms until 1 s and from 3 s to 4 s; a partition from 1 s to 2.5 s in which requests fail."""
    timeline = Timeline()
    for begin in [*range(0, 1000, 100), *range(3000, 4000, 100)]:
        timeline.client(begin, begin + 20)
    timeline.client(1100, 1600, OpType.FAIL)
    timeline.client(1700, 2700, OpType.INFO, "write", process=1)
    timeline.nemesis(1000, "start-partition")
    timeline.nemesis(2500, "stop-partition")
    return timeline


def test_counts_rates_and_latencies() -> None:
    verdict = check_availability(outage().history())
    assert verdict.valid is True
    details = verdict.details
    assert details["counts"] == {
        "read": {"ok": 20, "fail": 1, "info": 0},
        "write": {"ok": 0, "fail": 0, "info": 1},
    }
    assert details["rate"]["read"] == {"fail": [[1.0, 1.0]], "ok": [[0.0, 10.0], [3.0, 10.0]]}
    assert details["latency"]["read"] == [[0.0, 20.0, 20.0, 20.0, 20.0], [3.0, 20.0, 20.0, 20.0, 20.0]]
    assert details["longest-without-ok"] == [0.92, 3.02]
    assert details["recovery"] == pytest.approx(0.52)
    assert verdict.summary == "20 ok, 1 failed, 1 unknown; longest time without ok 2.100 s"
    json.dumps(details)


def test_windows_follow_the_faults() -> None:
    windows = check_availability(outage().history()).details["windows"]
    assert [(w["from"], w["to"], w["faults"], w["ok"], w["fail"], w["info"]) for w in windows] == [
        (0.0, 1.0, [], 10, 0, 0),
        (1.0, 2.5, ["partition"], 0, 1, 0),
        (2.5, 3.92, [], 10, 0, 1),
    ]
    assert windows[0]["ok-per-s"] == 10.0
    assert windows[1]["p50"] is None
    assert windows[1]["longest-without-ok"] == 1.5
    assert windows[2]["longest-without-ok"] == pytest.approx(0.52)


def test_quantiles_and_bucket_size() -> None:
    timeline = Timeline()
    for number in range(100):
        timeline.client(number * 200, number * 200 + number + 1)
    details = check_availability(timeline.history(), bucket_s=100).details
    assert details["latency"]["read"] == [[0.0, 51.0, 96.0, 100.0, 100.0]]
    assert details["rate"]["read"]["ok"] == [[0.0, 1.0]]


def test_recovery_within_the_limit_is_valid_and_beyond_it_is_not() -> None:
    history = outage().history()
    assert check_availability(history, recovers_within_s=0.6).valid is True
    late = check_availability(history, recovers_within_s=0.5)
    assert late.valid is False
    assert [op.time // MS for op in late.counterexample] == [3000, 3020]
    assert late.summary.endswith("served again 0.520 s after the last fault (limit 0.5 s)")


def test_no_answer_after_the_last_fault_is_invalid_once_the_limit_is_over() -> None:
    timeline = Timeline()
    timeline.client(0, 10)
    timeline.nemesis(100, "start-kill")
    timeline.nemesis(200, "stop-kill")
    timeline.client(300, 2300, OpType.FAIL)
    history = timeline.history()
    assert check_availability(history, recovers_within_s=2).valid is False
    assert check_availability(history, recovers_within_s=3).valid is None
    assert check_availability(history).valid is True


def test_an_answer_to_a_request_of_before_is_no_recovery() -> None:
    timeline = Timeline()
    timeline.client(0, 1000)
    timeline.nemesis(900, "stop-pause")
    timeline.client(1100, 1200)
    assert check_availability(timeline.history()).details["recovery"] == pytest.approx(0.3)


def test_fault_windows_pair_starts_with_stops() -> None:
    timeline = Timeline()
    timeline.nemesis(1, "start-kill")
    timeline.nemesis(2, "start-partition")
    timeline.nemesis(3, "start-kill")
    timeline.nemesis(4, "stop-kill", {"error": "no such process"})
    timeline.nemesis(5, "stop-kill")
    timeline.nemesis(6, "bump-clock")
    timeline.nemesis(7, "start")
    timeline.nemesis(8, "stop")
    timeline.nemesis(9, "start-disk", {"error": "no rights"})
    timeline.nemesis(10, "final-partition")
    timeline.nemesis(11, "start-kill")
    assert fault_windows(timeline.history()) == [
        FaultWindow("kill", 1 * MS, 5 * MS),
        FaultWindow("partition", 2 * MS, 10 * MS),
        FaultWindow("bump-clock", 6 * MS, 6 * MS),
        FaultWindow("fault", 7 * MS, 8 * MS),
        FaultWindow("kill", 11 * MS, None),
    ]


def test_a_history_without_clients_is_unknown_and_buckets_are_positive() -> None:
    timeline = Timeline()
    timeline.nemesis(1, "start-kill")
    assert check_availability(timeline.history()).valid is None
    with pytest.raises(ValueError, match="bucket_s is 0: it must be positive"):
        check_availability(History(), bucket_s=0)
