"""What several checkers ask of plain values and of operations that add. Knows no checker."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from jepsen.errors import HistoryError
from jepsen.history.op import Pair


def are_hashable(values: Iterable[Any]) -> bool:
    """Whether all can be elements or keys (numbers, strings; not lists or maps). Fast for long lists."""
    try:
        set(values)
    except TypeError:
        return False
    return True


def note_add(adds: dict[Any, Pair], pair: Pair, once: str) -> None:
    """Enter an "add" under its element. Raises HistoryError without one, or for its second add: expected is `once`."""
    op = pair.invoke
    element = op.value
    if element is None or not isinstance(element, Hashable):
        raise HistoryError(f"op {op.index} adds {element!r}", expected="a number or a string")
    if element in adds:
        first = adds[element].invoke.index
        raise HistoryError(f"op {op.index} adds {element!r} again (first by op {first})", expected=once)
    adds[element] = pair
