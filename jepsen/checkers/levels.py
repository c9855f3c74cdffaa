"""Reads of a counter at several levels: each returns a value that its level allows.

The counter only grows, so that a value tells which state was read. With `floor` the least value that a read may return:
- linearizable, leader: of the bumps that completed before the read began, and of such reads, the greatest value;
- session: what the same process was told before by a bump or a session read;
- stale with a bound: of the bumps that completed more than the bound before the read began, the greatest.
No read may return more than the bumps that had begun before it ended.
"""

from __future__ import annotations

from typing import Any, Final

from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "levels"
EXPLAINED_MAX: Final = 8
# A follower counts from the arrival of the leader's message, and the leader may have just been cut off: see
# docs/read-levels.md.
SLACK_S: Final = 1.5
_NS: Final = 1_000_000_000
_FRESH: Final = ("linearizable", "leader")
_LEVELS: Final = (*_FRESH, "session", "stale")


def check_levels(history: History, max_staleness_s: float) -> Verdict:
    """Check every completed read.

    `details`: `too-old` and `from-the-future` -> explanations, and reads per level. `counterexample`: the first bad
    read. `valid` None: no read. Raises HistoryError for a value of the wrong shape, naming the index.
    """
    pairs = {pair.invoke.index: pair for pair in history.pairs()}
    counts = dict.fromkeys(_LEVELS, 0)
    bad: dict[str, list[str]] = {}
    first: list[Op] = []
    for pair, floor, ceiling in _bounds(history, pairs, int((max_staleness_s + SLACK_S) * _NS)):
        op = pair.completion
        assert op is not None
        level, value = op.value
        counts[level] += 1
        if floor <= value <= ceiling:
            continue
        kind = "too-old" if value < floor else "from-the-future"
        texts = bad.setdefault(kind, [])
        if len(texts) < EXPLAINED_MAX:
            texts.append(f"op {op.index} read {value} at level {level}; {floor} to {ceiling} were possible")
        first = first or [pair.invoke, op]
    scope = ", ".join(f"{count} {level}" for level, count in counts.items())
    if bad:
        return Verdict(
            CHECKER, False, f"{', '.join(bad)} among reads: {scope}", {**bad, "reads": counts}, first
        )
    return Verdict(CHECKER, True if any(counts.values()) else None, f"reads: {scope}", {"reads": counts})


def _bounds(history: History, pairs: dict[int, Pair], bound_ns: int) -> list[tuple[Pair, int, int]]:
    """(read, floor, ceiling) of each completed read."""
    by_completion = {pair.completion.index: pair for pair in pairs.values() if pair.completion is not None}
    begun = fresh = 0
    told: dict[int | str, int] = {}
    acknowledged: list[tuple[int, int]] = []  # (time, greatest value until then)
    floors: dict[int, int] = {}
    found: list[tuple[Pair, int, int]] = []
    for op in history:
        pair = pairs.get(op.index)
        if pair is not None:
            begun += op.f == "bump"
            if op.f == "read":
                level = _level(op)
                if level in _FRESH:
                    floors[op.index] = fresh
                elif level == "session":
                    floors[op.index] = told.get(op.process, 0)
                else:
                    floors[op.index] = _as_of(acknowledged, op.time - bound_ns)
            continue
        pair = by_completion.get(op.index)
        if pair is None or op.type is not OpType.OK:
            continue
        value = _value(op)
        if op.f == "bump":
            acknowledged.append((op.time, max(value, acknowledged[-1][1] if acknowledged else 0)))
        else:
            found.append((pair, floors[pair.invoke.index], begun))
        if op.f == "bump" or op.value[0] in _FRESH:
            fresh = max(fresh, value)
        if op.f == "bump" or op.value[0] == "session":
            told[op.process] = max(told.get(op.process, 0), value)
    return found


def _as_of(acknowledged: list[tuple[int, int]], time_ns: int) -> int:
    """The greatest value acknowledged until then."""
    low, high = 0, len(acknowledged)
    while low < high:
        middle = (low + high) // 2
        if acknowledged[middle][0] <= time_ns:
            low = middle + 1
        else:
            high = middle
    return acknowledged[low - 1][1] if low else 0


def _level(op: Op) -> str:
    value: Any = op.value
    if not isinstance(value, list) or len(value) != 2 or value[0] not in _LEVELS:
        raise HistoryError(f"op {op.index} reads {value!r}", expected="[level, value]")
    return str(value[0])


def _value(op: Op) -> int:
    value: Any = op.value
    if op.f == "read":
        _level(op)
        value = value[1]
    if not isinstance(value, int) or isinstance(value, bool):
        raise HistoryError(f"op {op.index} tells {value!r}", expected="a whole number")
    return value
