"""Long fork: two reads that see two independent writes in opposite orders (parallel snapshot isolation allows it).

Keys come in groups; each key is written once, to 1; a read covers a whole group. All states that reads of a group
saw must then be a chain. Judges no real time: stale reads pass, as long as they agree on one order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair
from jepsen.verdict import Verdict

CHECKER: Final = "long-fork"
EXPLAINED_MAX: Final = 8
_EXPECTED: Final = "a single write [[:w key 1]] or reads [[:r key nil-or-1] …] of one whole group"


@dataclass(frozen=True, slots=True)
class _Write:
    pair: Pair

    @property
    def failed(self) -> bool:
        return self.pair.type is OpType.FAIL


@dataclass(frozen=True, slots=True)
class _Read:
    pair: Pair
    op: Op
    seen: dict[int, Any]


def check_long_fork(history: History, *, group_size: int) -> Verdict:
    """Compare all reads of each group of `group_size` keys (group g: keys g * size up to (g + 1) * size - 1).

    `details`: `fork` (two reads, each saw a write that the other did not), `illegal-value` (another value than nil
    or 1, or a value of a key whose write was not begun yet, failed, or never was), and the counts `reads`,
    `early-reads` (saw nothing) and `late-reads` (saw all), which cannot show a fork. `counterexample`: the two reads
    of the first fork, or the bad read, with the writes that they saw. `valid` None: no read saw some, but
    not all of its group.

    Raises HistoryError naming the index: an unknown micro-operation, a second write of a key, a read that does not
    cover exactly one group.
    """
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}: it must be at least 1")
    writes, reads = _parse(history, group_size)
    illegal = [(read, problem) for read in reads if (problem := _illegal(read, writes)) is not None]
    bad = {id(read) for read, _problem in illegal}
    sound = [read for read in reads if id(read) not in bad]
    forks = _forks(sound)
    early = sum(not any(read.seen.values()) for read in sound)
    late = sum(all(read.seen.values()) for read in sound)
    details: dict[str, Any] = {"reads": len(reads), "early-reads": early, "late-reads": late}
    counterexample: list[Op] = []
    if illegal:
        details["illegal-value"] = [
            f"op {read.op.index}: {problem}" for read, problem in illegal[:EXPLAINED_MAX]
        ]
        counterexample = _with_writes([illegal[0][0]], writes)
    if forks:
        details["fork"] = [_fork_text(*fork) for fork in forks[:EXPLAINED_MAX]]
        counterexample = _with_writes(forks[0], writes)
    scope = f"{len(reads)} reads of groups of {group_size} ({early} saw nothing, {late} all)"
    if forks or illegal:
        found = [f"{len(forks)} forks"] * bool(forks) + [f"{len(illegal)} illegal values"] * bool(illegal)
        return Verdict(CHECKER, False, f"{', '.join(found)} in {scope}", details, counterexample)
    if early + late == len(reads):
        return Verdict(CHECKER, None, f"nothing to compare in {scope}", details)
    return Verdict(CHECKER, True, f"one order in {scope}", details)


def _parse(history: History, group_size: int) -> tuple[dict[int, _Write], list[_Read]]:
    writes: dict[int, _Write] = {}
    reads: list[_Read] = []
    for pair in history.pairs():
        asked = _micros(pair.invoke)
        kinds = {kind for kind, _key, _value in asked}
        if kinds == {"w"} and len(asked) == 1:
            key = asked[0][1]
            before = writes.get(key)
            if before is not None and not before.failed:
                raise HistoryError(
                    f"op {pair.invoke.index} writes key {key} again (first by op {before.pair.invoke.index})",
                    expected="each key written once",
                )
            writes[key] = _Write(pair)
        elif kinds == {"r"}:
            op = pair.completion
            if op is not None and op.type is OpType.OK:
                reads.append(_Read(pair, op, _group(op, group_size)))
        else:
            raise HistoryError(
                f"op {pair.invoke.index} has the value {pair.invoke.value!r}", expected=_EXPECTED
            )
    return writes, reads


def _micros(op: Op) -> list[tuple[str, int, Any]]:
    result: list[tuple[str, int, Any]] = []
    for micro in op.value if isinstance(op.value, list | tuple) else [op.value]:
        if (
            not isinstance(micro, list | tuple)
            or len(micro) not in (2, 3)
            or micro[0] not in ("w", "r")
            or not isinstance(micro[1], int)
        ):
            raise HistoryError(f"op {op.index} has the micro-operation {micro!r}", expected=_EXPECTED)
        result.append((micro[0], micro[1], micro[2] if len(micro) == 3 else None))
    return result


def _group(op: Op, group_size: int) -> dict[int, Any]:
    seen: dict[int, Any] = {}
    for _kind, key, value in _micros(op):
        seen[key] = value
    first = min(seen, default=0) // group_size * group_size
    group = list(range(first, first + group_size))
    if sorted(seen) != group or len(op.value) != group_size:
        raise HistoryError(
            f"op {op.index} reads the keys {[micro[1] for micro in op.value]}",
            expected=f"each key of one group of {group_size} once, for example {group}",
        )
    return dict(sorted(seen.items()))


def _illegal(read: _Read, writes: dict[int, _Write]) -> str | None:
    for key, value in read.seen.items():
        if value is None:
            continue
        write = writes.get(key)
        if value != 1:
            return f"read {value!r} from key {key}, where only 1 is ever written"
        if write is None:
            return f"read 1 from key {key}, which nobody wrote"
        if write.failed:
            return f"read 1 from key {key}, whose write (op {write.pair.invoke.index}) failed"
        if write.pair.invoke.index > read.op.index:
            return f"read 1 from key {key} before its write (op {write.pair.invoke.index}) began"
    return None


def _forks(reads: list[_Read]) -> list[tuple[_Read, _Read]]:
    """Pairs of distinct states, one per pair of states: a group has few states, however many reads."""
    groups: dict[int, dict[frozenset[int], _Read]] = {}
    for read in reads:
        state = frozenset(key for key, value in read.seen.items() if value is not None)
        groups.setdefault(min(read.seen), {}).setdefault(state, read)
    forks: list[tuple[_Read, _Read]] = []
    for states in groups.values():
        items = list(states.items())
        forks += [
            (one, other)
            for i, (state, one) in enumerate(items)
            for other_state, other in items[i + 1 :]
            if state - other_state and other_state - state
        ]
    return forks


def _with_writes(reads: Iterable[_Read], writes: dict[int, _Write]) -> list[Op]:
    """The reads with the writes that they saw, in the order of the history."""
    ops: dict[int, Op] = {}
    for read in reads:
        pairs = [
            read.pair,
            *(writes[key].pair for key, value in read.seen.items() if value and key in writes),
        ]
        ops |= {op.index: op for pair in pairs for op in (pair.invoke, pair.completion) if op is not None}
    return [ops[index] for index in sorted(ops)]


def _fork_text(one: _Read, other: _Read) -> str:
    only_one = [key for key, value in one.seen.items() if value and not other.seen[key]]
    only_other = [key for key, value in other.seen.items() if value and not one.seen[key]]
    return (
        f"op {one.op.index} saw the write of key {only_one[0]}, but not that of key {only_other[0]};"
        f" op {other.op.index} saw the write of key {only_other[0]}, but not that of key {only_one[0]}"
    )
