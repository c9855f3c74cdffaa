"""Serializability by trying every order: the yardstick for Elle on histories of a few transactions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

from jepsen.history.history import History
from jepsen.history.op import OpType, Pair


def is_serializable(history: History, *, real_time: bool) -> bool:
    """Whether some order of all committed and some of the unknown transactions explains every committed read."""
    pairs = [pair for pair in history.pairs() if pair.type is not OpType.FAIL]
    committed = [pair for pair in pairs if pair.type is OpType.OK]
    unknown = [pair for pair in pairs if pair.type is not OpType.OK]
    return any(
        _explains(order, real_time)
        for count in range(len(unknown) + 1)
        for chosen in combinations(unknown, count)
        for order in permutations([*committed, *chosen])
    )


def _explains(order: Sequence[Pair], real_time: bool) -> bool:
    if real_time and any(_precedes(later, order[i]) for i in range(len(order)) for later in order[i + 1 :]):
        return False
    lists: dict[object, list[object]] = {}
    for pair in order:
        done = pair.completion if pair.type is OpType.OK else None
        for kind, key, value in (done or pair.invoke).value:
            if kind == "append":
                lists.setdefault(key, []).append(value)
            elif done is not None and lists.get(key, []) != (value or []):
                return False
    return True


def _precedes(a: Pair, b: Pair) -> bool:
    return a.type is OpType.OK and a.completion is not None and a.completion.index < b.invoke.index
