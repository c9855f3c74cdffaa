"""Availability: how many operations succeeded, how fast, and how long none did; over time and by fault.

Informative: it judges only when the caller states within which time the cluster must serve again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "availability"
NS_PER_S: Final = 1_000_000_000
QUANTILES: Final = (0.5, 0.95, 0.99, 1.0)
HEALED: Final = "healed"  # an event of the nemesis that is no fault: the suite has found all well again
_BEGIN, _END, _FINAL = "start", "stop", "final"


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """A fault from `begin_ns` to `end_ns` (None: never ended; equal to `begin_ns`: a moment)."""

    name: str
    begin_ns: int
    end_ns: int | None


def fault_windows(history: History) -> list[FaultWindow]:
    """The nemesis' faults in the order of their beginning.

    `start-X` begins X, `stop-X` or `final-X` ends it; plain `start` and `stop` do so for "fault"; anything else is a
    moment. A second start of a running fault belongs to the first. A start or stop whose value holds an `error` did
    not do it.
    """
    windows: list[FaultWindow] = []
    running: dict[str, int] = {}
    for op in history.nemesis():
        kind, _, rest = op.f.partition("-")
        name = rest or "fault"
        did_nothing = isinstance(op.value, dict) and "error" in op.value
        if kind in (_BEGIN, _END) and did_nothing:
            continue
        if kind == _BEGIN:
            if name not in running:
                running[name] = len(windows)
                windows.append(FaultWindow(name, op.time, None))
        elif kind in (_END, _FINAL):
            place = running.pop(name, None)
            if place is not None:
                windows[place] = FaultWindow(name, windows[place].begin_ns, op.time)
        elif op.f != HEALED:
            windows.append(FaultWindow(op.f, op.time, op.time))
    return windows


def check_availability(
    history: History, *, recovers_within_s: float | None = None, bucket_s: float = 1.0
) -> Verdict:
    """Measure rates, latencies and the longest time without success of the clients' operations.

    `details`, times in seconds since the run began, latencies in ms:
    `counts` {f: {ok, fail, info}}; `rate` {f: {type: [[bucket begin, operations per second]]}} by time of completion;
    `latency` {f: [[bucket begin, p50, p95, p99, max]]} of ok operations by time of invocation;
    `longest-without-ok` [from, to]; `windows` by set of active faults: [{from, to, faults, ok, fail, info,
    ok-per-s, p50, p99, longest-without-ok}]; `recovery` seconds from the last fault's event (the run's begin without
    one) to the first ok of an operation invoked after it, None when there was none.

    Valid, unless `recovers_within_s` is given and not met; None when nobody asked anything, or when the history ended
    before that time was over without an answer.
    """
    if bucket_s <= 0:
        raise ValueError(f"bucket_s is {bucket_s}: it must be positive")
    pairs = history.pairs()
    if not pairs:
        return Verdict(CHECKER, None, "no operation of a client")
    end_ns = max(op.time for op in history)
    oks = sorted(pair.completion.time for pair in pairs if pair.completion and pair.type is OpType.OK)
    begin_ns = min(pair.invoke.time for pair in pairs)
    gap = _longest_gap(oks, begin_ns, end_ns)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        counts[pair.invoke.f][pair.type] += 1
    total = Counter(pair.type for pair in pairs)
    fault_end = max((op.time for op in history.nemesis() if op.f != HEALED), default=0)
    recovery = _recovery(pairs, fault_end)
    details: dict[str, Any] = {
        "counts": {f: {str(type): counts[f][type] for type in _OUTCOMES} for f in sorted(counts)},
        "rate": _rates(pairs, bucket_s),
        "latency": _latencies(pairs, bucket_s),
        "longest-without-ok": [_seconds(gap[0]), _seconds(gap[1])],
        "windows": _windows(history, pairs, oks, begin_ns, end_ns),
        "recovery": None if recovery is None else _seconds(recovery[1].time - fault_end),
    }
    summary = (
        f"{total[OpType.OK]} ok, {total[OpType.FAIL]} failed, {total[OpType.INFO]} unknown;"
        f" longest time without ok {_seconds(gap[1] - gap[0]):.3f} s"
    )
    if recovers_within_s is None:
        return Verdict(CHECKER, True, summary, details)
    if recovery is not None:
        took = details["recovery"]
        summary += f"; served again {took:.3f} s after the last fault (limit {recovers_within_s} s)"
        late = took > recovers_within_s
        return Verdict(CHECKER, not late, summary, details, list(recovery) if late else [])
    waited = _seconds(end_ns - fault_end)
    summary += f"; not served again in the {waited:.3f} s after the last fault (limit {recovers_within_s} s)"
    last = [op for pair in pairs[-1:] for op in (pair.invoke, pair.completion) if op is not None]
    failed = waited >= recovers_within_s
    return Verdict(CHECKER, False if failed else None, summary, details, last if failed else [])


_OUTCOMES: Final = (OpType.OK, OpType.FAIL, OpType.INFO)


def _seconds(ns: int) -> float:
    return ns / NS_PER_S


def _longest_gap(oks: list[int], begin_ns: int, end_ns: int) -> tuple[int, int]:
    points = [begin_ns, *(time for time in oks if begin_ns <= time <= end_ns), end_ns]
    return max(pairwise(points), key=lambda gap: gap[1] - gap[0])


def _recovery(pairs: list[Pair], after_ns: int) -> tuple[Op, Op] | None:
    done = [
        (pair.invoke, pair.completion)
        for pair in pairs
        if pair.completion and pair.type is OpType.OK and pair.invoke.time >= after_ns
    ]
    return min(done, key=lambda ops: ops[1].index, default=None)


def _rates(pairs: list[Pair], bucket_s: float) -> dict[str, dict[str, list[list[float]]]]:
    found: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    for pair in pairs:
        if pair.completion is not None:
            found[pair.invoke.f][pair.type][_bucket(pair.completion.time, bucket_s)] += 1
    return {
        f: {
            str(type): [
                [bucket * bucket_s, count / bucket_s] for bucket, count in sorted(found[f][type].items())
            ]
            for type in sorted(found[f])
        }
        for f in sorted(found)
    }


def _latencies(pairs: list[Pair], bucket_s: float) -> dict[str, list[list[float]]]:
    found: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        if pair.completion is not None and pair.type is OpType.OK:
            bucket = _bucket(pair.invoke.time, bucket_s)
            found[pair.invoke.f][bucket].append(pair.completion.time - pair.invoke.time)
    return {
        f: [[bucket * bucket_s, *_quantiles(found[f][bucket])] for bucket in sorted(found[f])]
        for f in sorted(found)
    }


def _bucket(time_ns: int, bucket_s: float) -> int:
    return int(time_ns // int(bucket_s * NS_PER_S))


def _quantiles(latencies_ns: Iterable[int]) -> list[float]:
    ordered = sorted(latencies_ns)
    return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e6 for q in QUANTILES] if ordered else []


def _windows(
    history: History, pairs: list[Pair], oks: list[int], begin_ns: int, end_ns: int
) -> list[dict[str, Any]]:
    """Cut the run wherever a fault begins or ends."""
    faults = fault_windows(history)
    lasting = [fault for fault in faults if fault.end_ns != fault.begin_ns]
    cuts = {begin_ns, end_ns}
    for fault in lasting:
        cuts |= {fault.begin_ns, end_ns if fault.end_ns is None else fault.end_ns}
    points = sorted(time for time in cuts if begin_ns <= time <= end_ns)
    windows: list[dict[str, Any]] = []
    for start, stop in pairwise(points):
        active = sorted(
            {f.name for f in lasting if f.begin_ns <= start and (f.end_ns is None or f.end_ns > start)}
        )
        is_last = stop == end_ns
        inside = [
            pair
            for pair in pairs
            if pair.completion
            and (start <= pair.completion.time < stop or (is_last and pair.completion.time == stop))
        ]
        latencies = _quantiles(
            pair.completion.time - pair.invoke.time
            for pair in inside
            if pair.completion and pair.type is OpType.OK
        )
        outcomes = Counter(pair.type for pair in inside)
        gap = _longest_gap([time for time in oks if start <= time <= stop], start, stop)
        windows.append(
            {
                "from": _seconds(start),
                "to": _seconds(stop),
                "faults": active,
                **{str(type): outcomes[type] for type in _OUTCOMES},
                "ok-per-s": outcomes[OpType.OK] / _seconds(stop - start),
                "p50": latencies[0] if latencies else None,
                "p99": latencies[2] if latencies else None,
                "longest-without-ok": _seconds(gap[1] - gap[0]),
            }
        )
    return windows
