"""The sequential data types that histories are checked against."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from jepsen.checkers.linearizable.model import ILLEGAL, Call, Model


class Register(Model):
    """read -> value, write value, cas [old new] (a successful compare-and-set); None when absent.

    `initial`: the value before the first write. `nil_is_unknown`: a read that returned nil saw nothing
    at all (Knossos' convention) rather than an absent value.
    """

    name = "register"

    def __init__(self, initial: Hashable = None, *, nil_is_unknown: bool = False) -> None:
        self.initial = initial
        self.nil_is_unknown = nil_is_unknown

    def step(self, state: Any, call: Call) -> Any:
        f, value = call.f, call.value
        if f == "read":
            return state if value == state or (value is None and self.nil_is_unknown) else ILLEGAL
        if f == "write":
            return value
        if f == "cas" and isinstance(value, tuple) and len(value) == 2:
            return value[1] if value[0] == state else ILLEGAL
        raise self.unknown(call)

    def is_blind(self, call: Call) -> bool:
        return call.f == "write"

    def observed(self, call: Call) -> Iterable[Hashable]:
        if call.f == "read":
            return () if call.value is None and self.nil_is_unknown else (call.value,)
        return (call.value[0],) if call.f == "cas" else ()

    def produced(self, call: Call) -> Iterable[Hashable]:
        if call.f == "write":
            return (call.value,)
        return (call.value[1],) if call.f == "cas" else ()

    def prepare(self, calls: Sequence[Call]) -> list[Call]:
        """Settle calls of unknown outcome where the history tells: they are what makes the search wide.

        A value that nobody observed: whether it was there is all the same, so the call never happened.
        A value that only this call can have produced and that was certainly observed: it happened before then.
        """
        for call in calls:
            if call.f == "cas" or call.f not in ("read", "write"):
                self.step(ILLEGAL, call)  # a malformed value is told before anything takes it apart
        observed = Multiset(value for call in calls for value in self.observed(call))
        needed: list[Call] = []
        for call in reversed(calls):  # so that the last of a chain of compare-and-sets goes first
            if call.f == "read":
                if call.end is not None and self.observed(call):
                    needed.append(call)
                continue
            (made,) = self.produced(call)
            seen = tuple(self.observed(call))
            if (call.end is None or call.is_optional) and observed[made] <= (made in seen):
                observed.subtract(seen)
            else:
                needed.append(call)
        needed.reverse()
        return self._settled(needed)

    def _settled(self, calls: Sequence[Call]) -> list[Call]:
        """Give an end to those calls of unknown outcome that certainly happened."""
        producers = Multiset(value for call in calls for value in self.produced(call))
        seen_at: dict[Hashable, int] = {}
        for call in calls:
            if call.end is not None and not call.is_optional:
                for value in self.observed(call):
                    seen_at[value] = min(call.end, seen_at.get(value, call.end))
        settled: list[Call] = []
        for call in calls:
            end = None
            if call.end is None:
                (made,) = self.produced(call)
                if producers[made] == 1 and made != self.initial:
                    end = seen_at.get(made)
            settled.append(call if end is None or end <= call.start else replace(call, end=end))
        return settled


class GrowSet(Model):
    """add element, read -> all elements in any order."""

    name = "set"
    initial: Hashable = frozenset()

    def step(self, state: Any, call: Call) -> Any:
        if call.f == "add":
            return state | {call.value}
        if call.f == "read":
            return state if frozenset(call.value or ()) == state else ILLEGAL
        raise self.unknown(call)

    def observed(self, call: Call) -> Iterable[Hashable]:
        return (call.value or ()) if call.f == "read" else ()

    def produced(self, call: Call) -> Iterable[Hashable]:
        return (call.value,) if call.f == "add" else ()

    def prepare(self, calls: Sequence[Call]) -> list[Call]:
        """An add of unknown outcome that no read saw never happened; one that a read saw happened before its end."""
        seen_at: dict[Hashable, int] = {}
        adds = Multiset(call.value for call in calls if call.f == "add")
        for call in calls:
            if call.f == "read" and call.end is not None:
                for value in call.value or ():
                    seen_at[value] = min(call.end, seen_at.get(value, call.end))
        kept: list[Call] = []
        for call in calls:
            if call.end is not None or call.f != "add":
                kept.append(call)
            elif call.value in seen_at:
                end = seen_at[call.value]
                single = adds[call.value] == 1 and end > call.start
                kept.append(replace(call, end=end) if single else call)
        return kept


class Counter(Model):
    """add delta, read -> sum."""

    name = "counter"
    initial: Hashable = 0

    def step(self, state: Any, call: Call) -> Any:
        if call.f == "add" and isinstance(call.value, int):
            return state + call.value
        if call.f == "read":
            return state if call.value == state else ILLEGAL
        raise self.unknown(call)


class FifoQueue(Model):
    """enqueue value, dequeue -> value (nil: the queue was empty)."""

    name = "fifo-queue"
    initial: Hashable = ()

    def step(self, state: Any, call: Call) -> Any:
        if call.f == "enqueue":
            return (*state, call.value)
        if call.f == "dequeue":
            if call.end is None:
                return state[1:]  # nobody knows what it took
            if call.value is None:
                return state if not state else ILLEGAL
            return state[1:] if state and state[0] == call.value else ILLEGAL
        raise self.unknown(call)

    def observed(self, call: Call) -> Iterable[Hashable]:
        return (call.value,) if call.f == "dequeue" and call.value is not None else ()

    def produced(self, call: Call) -> Iterable[Hashable]:
        return (call.value,) if call.f == "enqueue" else ()

    def is_read(self, call: Call) -> bool:
        return False


class Mutex(Model):
    """acquire when free, release when held."""

    name = "mutex"
    initial: Hashable = "free"

    def step(self, state: Any, call: Call) -> Any:
        if call.f == "acquire":
            return "held" if state == "free" else ILLEGAL
        if call.f == "release":
            return "free" if state == "held" else ILLEGAL
        raise self.unknown(call)

    def is_read(self, call: Call) -> bool:
        return False


class MultiRegister(Model):
    """txn of ["r" key value] and ["w" key value] (also "read", "write"): all at one point in time; nil when absent."""

    name = "multi-register"

    def __init__(self, initial: dict[Any, Any] | None = None) -> None:
        self.initial = frozenset((initial or {}).items())

    def step(self, state: Any, call: Call) -> Any:
        if call.f not in ("txn", "read", "write") or not isinstance(call.value, tuple):
            raise self.unknown(call)
        values = dict(state)
        for micro in call.value:
            if not isinstance(micro, tuple) or len(micro) != 3 or micro[0] not in ("r", "read", "w", "write"):
                raise self.unknown(call)
            f, key, value = micro
            if f in ("w", "write"):
                values[key] = value
            elif call.end is not None and values.get(key) != value:
                return ILLEGAL
        return frozenset(values.items())

    def is_read(self, call: Call) -> bool:
        return isinstance(call.value, tuple) and all(
            isinstance(micro, tuple) and micro[:1] in (("r",), ("read",)) for micro in call.value
        )

    def observed(self, call: Call) -> Iterable[Hashable]:
        return [(key, value) for f, key, value in call.value if f in ("r", "read")]

    def produced(self, call: Call) -> Iterable[Hashable]:
        return [(key, value) for f, key, value in call.value if f in ("w", "write")]
