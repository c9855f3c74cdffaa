"""An immutable history and its pairing rules; reading and writing files goes through files.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from jepsen.errors import HistoryError
from jepsen.history.op import Op, OpType, Pair


class History(Sequence[Op]):
    """Operations in the order in which they were observed; slicing gives a tuple of operations."""

    __slots__ = ("_ops", "_pairs")

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._ops = tuple(ops)
        self._pairs: list[Pair] | None = None

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Op, ...]: ...
    def __getitem__(self, index: int | slice) -> Op | tuple[Op, ...]:
        return self._ops[index]

    def __len__(self) -> int:
        return len(self._ops)

    def __iter__(self) -> Iterator[Op]:
        return iter(self._ops)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self._ops == other._ops

    def __hash__(self) -> int:
        return hash(tuple((op.index, op.type, op.process, op.time) for op in self._ops))

    def __repr__(self) -> str:
        return f"History({len(self._ops)} operations)"

    def filter(self, keep: Callable[[Op], bool]) -> History:
        """The operations for which `keep` holds; their `index` stays as it was."""
        return History(op for op in self._ops if keep(op))

    def clients(self) -> History:
        """The events of client processes (numbers)."""
        return self.filter(lambda op: op.is_client)

    def nemesis(self) -> History:
        """The events of the nemesis: everything that is not a client's."""
        return self.filter(lambda op: not op.is_client)

    def pairs(self) -> list[Pair]:
        """Client operations in the order of their invocation, each with its completion (None: none recorded).

        Raises HistoryError when a process invokes while an operation of its own is open, or completes one
        that it never began (a lone INFO, as older suites log crashes, is ignored).
        """
        if self._pairs is None:
            self._pairs = _pair(op for op in self._ops if op.is_client)
        return list(self._pairs)


def _pair(ops: Iterable[Op]) -> list[Pair]:
    begun: list[Op] = []
    ended: dict[int, Op] = {}
    open_at: dict[int | str, int] = {}  # process -> position in `begun`
    for op in ops:
        if op.type is OpType.INVOKE:
            if op.process in open_at:
                first = begun[open_at[op.process]]
                raise HistoryError(
                    f"process {op.process} invokes {op.f} at index {op.index} while its {first.f} of index"
                    f" {first.index} is open",
                    expected="one operation at a time in each process",
                )
            open_at[op.process] = len(begun)
            begun.append(op)
            continue
        position = open_at.pop(op.process, None)
        if position is None:
            if op.type is OpType.INFO:
                continue
            raise HistoryError(
                f"process {op.process} completes {op.f} at index {op.index} without an invocation",
                expected="an :invoke before each :ok or :fail",
            )
        ended[position] = op
    return [Pair(op, ended.get(position)) for position, op in enumerate(begun)]


def read_history(path: Path | str) -> History:
    """Read `history.edn` (one map per line, or one vector of maps) or `.json`/`.jsonl` (one object per line).

    Raises HistoryError naming file, line and what was expected.
    """
    from jepsen.history.files import read

    return History(read(Path(path)))


def write_history(path: Path | str, history: Iterable[Op]) -> None:
    """Write operations as Jepsen does, one EDN map per line; `.json`/`.jsonl`: one JSON object per line."""
    from jepsen.history.files import write

    write(Path(path), history)
