"""A list-append history as transactions: who appended what, who read what.

Checks that the history is well-formed; judges nothing. Called first by check.py, everything else here builds on it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from jepsen.checkers.plain import are_hashable
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType, Pair

APPEND: Final = "append"
READ: Final = "r"
_EXPECTED: Final = "a list of micro-operations, [:append key value] or [:r key list-or-nil]"

Key = Hashable
Element = Hashable


@dataclass(frozen=True, slots=True)
class Micro:
    """One micro-operation. `elements`: what a read of a committed transaction returned; empty for a missing key."""

    is_append: bool
    key: Key
    element: Element = None
    elements: list[Element] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Transaction:
    """`number`: dense, in the order of invocation. `completed`: index of the OK completion, None for all others."""

    number: int
    pair: Pair
    type: OpType
    micros: tuple[Micro, ...]

    @property
    def op(self) -> Op:
        """The event to show: the completion, where there is one."""
        return self.pair.completion or self.pair.invoke

    @property
    def invoked(self) -> int:
        return self.pair.invoke.index

    @property
    def completed(self) -> int | None:
        return self.op.index if self.type is OpType.OK else None

    @property
    def is_committed(self) -> bool:
        return self.type is OpType.OK


@dataclass(slots=True)
class Transactions:
    """All transactions of a history.

    `writers[key][element]`: number of the transaction that appends it, whatever became of it.
    `last_appends[number][key]`: the last element that this transaction appends to the key.
    """

    all: list[Transaction]
    writers: dict[Key, dict[Element, int]]
    last_appends: list[dict[Key, Element]]

    def writer(self, key: Key, element: Element) -> Transaction | None:
        number = self.writers.get(key, {}).get(element)
        return None if number is None else self.all[number]


def read_transactions(history: History) -> Transactions:
    """Parse the clients' operations.

    Raises HistoryError naming the operation's index for: a value that is no list of micro-operations, an unknown
    micro-operation, an append without a value, a completion without or unlike its invocation, a value that is
    appended twice to one key.
    """
    found = Transactions([], {}, [])
    for number, pair in enumerate(history.pairs()):
        micros = _parse(pair.invoke, is_result=False)
        if pair.type is OpType.OK and pair.completion is not None:
            results = _parse(pair.completion, is_result=True)
            _check_alike(pair.invoke, micros, pair.completion, results)
            micros = results
        found.all.append(Transaction(number, pair, pair.type, micros))
        last: dict[Key, Element] = {}
        for micro in micros:
            if micro.is_append:
                last[micro.key] = micro.element
                _register(found, number, micro)
        found.last_appends.append(last)
    return found


def _register(found: Transactions, number: int, micro: Micro) -> None:
    writers = found.writers.setdefault(micro.key, {})
    first = writers.setdefault(micro.element, number)
    if first != number:
        indexes = found.all[first].invoked, found.all[number].invoked
        raise HistoryError(
            f"op {indexes[1]} appends {micro.element!r} to {micro.key!r} again (first by op {indexes[0]})",
            expected="each value appended at most once to a key, so that a read names its writer",
        )


def _parse(op: Op, *, is_result: bool) -> tuple[Micro, ...]:
    if not isinstance(op.value, list | tuple):
        raise HistoryError(f"op {op.index} ({op.f}) has the value {op.value!r}", expected=_EXPECTED)
    micros = tuple(_parse_micro(op, micro, is_result) for micro in op.value)
    appends = [(micro.key, micro.element) for micro in micros if micro.is_append]
    if len(set(appends)) < len(appends):
        raise HistoryError(
            f"op {op.index} appends the same value twice to one key: {op.value!r}",
            expected="each value appended at most once to a key, so that a read names its writer",
        )
    return micros


def _parse_micro(op: Op, micro: Any, is_result: bool) -> Micro:
    if not isinstance(micro, list | tuple) or not micro or len(micro) > 3:
        raise HistoryError(f"op {op.index} has the micro-operation {micro!r}", expected=_EXPECTED)
    kind = micro[0]
    if kind not in (APPEND, READ):
        raise HistoryError(
            f"op {op.index} has the unknown micro-operation {kind!r} in {micro!r}", expected=_EXPECTED
        )
    if len(micro) < 2 or not are_hashable(micro[1:2]):
        raise HistoryError(
            f"op {op.index} has a micro-operation without a usable key: {micro!r}", expected=_EXPECTED
        )
    if kind == APPEND:
        if len(micro) < 3 or micro[2] is None or not are_hashable(micro[2:]):
            raise HistoryError(
                f"op {op.index} appends no usable value to {micro[1]!r}: {micro!r}",
                expected="[:append key value] with a number or a string",
            )
        return Micro(True, micro[1], micro[2])
    value = micro[2] if is_result and len(micro) == 3 else None
    if value is None:
        return Micro(False, micro[1])
    if not isinstance(value, list | tuple) or not are_hashable(value):
        raise HistoryError(
            f"op {op.index} reads {value!r} from {micro[1]!r}",
            expected="[:r key [element …]] or [:r key nil]",
        )
    return Micro(False, micro[1], None, list(value))


def _check_alike(invoke: Op, asked: tuple[Micro, ...], completion: Op, got: tuple[Micro, ...]) -> None:
    if len(asked) == len(got) and all(
        (a.is_append, a.key, a.element) == (b.is_append, b.key, b.element)
        for a, b in zip(asked, got, strict=True)
    ):
        return
    raise HistoryError(
        f"op {completion.index} completes op {invoke.index} with other micro-operations: {completion.value!r}"
        f" after {invoke.value!r}",
        expected="the invocation's micro-operations with the reads filled in",
    )
