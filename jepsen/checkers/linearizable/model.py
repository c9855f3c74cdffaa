"""What the search knows of a data type: calls, and a sequential model to replay them on. Knows no search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from jepsen.errors import HistoryError
from jepsen.history.edn import dumps
from jepsen.history.op import Op


class _Illegal:
    """The answer of a model that cannot take a call."""

    def __repr__(self) -> str:
        return "ILLEGAL"


ILLEGAL: Final = _Illegal()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One operation as an interval of the history.

    `value`: frozen (hashable); a read's is what it returned. `start`, `end`: indexes of invocation and
    completion; `end` None: outcome unknown, it may take effect at any time after `start`, or never.
    `is_optional`: it may have happened within its interval or not (how shrinking leaves a call out).
    """

    op: Op
    completion: Op | None
    f: str
    value: Any
    start: int
    end: int | None
    is_optional: bool = False


class Model(ABC):
    """A sequential data type. States are hashable; equal states behave alike."""

    name: str = "model"
    initial: Hashable = None

    @abstractmethod
    def step(self, state: Any, call: Call) -> Any:
        """The state after `call` in `state`, or ILLEGAL when the call could not have returned what it did there.

        Raises HistoryError for an operation that the model does not have.
        """

    def is_read(self, call: Call) -> bool:
        """True when the call leaves every state as it is."""
        return call.f == "read"

    def is_blind(self, call: Call) -> bool:
        """True when the call is legal in every state and the state after it does not depend on the one before."""
        return False

    def observed(self, call: Call) -> Iterable[Hashable]:
        """Values that the call saw; used to tell the reader where they came from."""
        return ()

    def produced(self, call: Call) -> Iterable[Hashable]:
        """Values that later calls may see because of this one."""
        return ()

    def prepare(self, calls: Sequence[Call]) -> list[Call]:
        """The calls with what decides nothing dropped or narrowed, such that the verdict stays the same."""
        return list(calls)

    def show(self, state: Any) -> Any:
        """A state as plain data, for reports."""
        return thaw(state)

    def unknown(self, call: Call) -> HistoryError:
        """The error of `step` for an operation it does not have."""
        return HistoryError(
            f"{call.f!r} with value {dumps(thaw(call.value))} at index {call.op.index} is no {self.name} operation",
            expected=self.__doc__.splitlines()[0] if self.__doc__ else self.name,
        )


def thaw(value: Any) -> Any:
    """Frozen data as plain data for JSON again, as far as it can be told."""
    if isinstance(value, tuple):
        if len(value) == 2 and value[0] == "bool":
            return bool(value[1])
        return [thaw(item) for item in value]
    if isinstance(value, frozenset):
        return sorted((thaw(item) for item in value), key=repr)
    return str(value) if isinstance(value, Fraction) else value
