"""From a history to a verdict: calls by key, a search for each, and the report of a violation."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from jepsen.checkers.linearizable.model import Call, Model, thaw
from jepsen.checkers.linearizable.models import Register
from jepsen.checkers.linearizable.search import Outcome, search
from jepsen.checkers.linearizable.shrink import Shrunk, shrink
from jepsen.errors import HistoryError
from jepsen.history.edn import dumps, freeze
from jepsen.history.history import History
from jepsen.history.op import Op, OpType
from jepsen.verdict import Verdict

TIME_LIMIT_S = 60.0
SHRINK_LIMIT_S = 10.0
AFTER_VIOLATION_S = 5.0  # for the keys that are left once one has failed
LISTED_MAX = 20  # keys and calls listed in details

Partition = Callable[[Any], tuple[Hashable, Any]]


def check_register(
    history: History,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    shrink_limit_s: float = SHRINK_LIMIT_S,
    keyed: bool | None = True,
    initial: Any = None,
    nil_is_unknown: bool = False,
) -> Verdict:
    """Linearizability of compare-and-set registers: read, write, cas with value [key value].

    `keyed` False: one register, plain values (as in Knossos' histories); None: found out from the values.
    `initial`: each register's first value. `nil_is_unknown`: a read of nil saw nothing (Knossos) instead of "absent".
    Raises HistoryError for operations or values that are not a register's.
    """
    model = Register(freeze(initial), nil_is_unknown=nil_is_unknown)
    if keyed is None:
        keyed = _looks_keyed(history)
    return check_model(
        history,
        model,
        time_limit_s=time_limit_s,
        shrink_limit_s=shrink_limit_s,
        partition=by_key if keyed else None,
    )


def check_model(
    history: History,
    model: Model,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    shrink_limit_s: float = SHRINK_LIMIT_S,
    partition: Partition | None = None,
) -> Verdict:
    """Linearizability of `history` under `model`; other processes than clients are ignored.

    `partition`: (value) -> (key, inner value) splits into objects that are checked each for itself, which is exact
    because linearizability is compositional (Herlihy & Wing 1990, theorem 1). Failed operations are dropped.
    Valid is None when the time was up, or when no operation completed. Raises HistoryError for a bad history.
    """
    started = time.monotonic()
    groups = calls_by_key(history, model, partition)
    outcomes = _search_all(model, groups, started + time_limit_s)
    invalid = [key for key, outcome in outcomes.items() if outcome.valid is False]
    unknown = [key for key, outcome in outcomes.items() if outcome.valid is None]
    calls = [call for group in groups.values() for call in group]
    completed = sum(call.end is not None for call in calls)
    details: dict[str, Any] = {
        "model": model.name,
        "operations": len(calls),
        "unknown_outcomes": len(calls) - completed,
        "keys": len(groups),
        "configurations": sum(outcome.explored for outcome in outcomes.values()),
        "seconds": round(time.monotonic() - started, 3),
    }
    if unknown:
        details["unknown_keys"] = [_key_name(key) for key in unknown[:LISTED_MAX]]
    if invalid:
        key = min(invalid, key=lambda key: len(groups[key]))
        blocked = outcomes[key].blocked
        assert blocked is not None, "a search that failed was blocked somewhere"
        shrunk = shrink(model, groups[key], blocked, time.monotonic() + shrink_limit_s)
        details["invalid_keys"] = [_key_name(key) for key in invalid[:LISTED_MAX]]
        details |= _violation(model, key, outcomes[key], blocked, shrunk)
        where = (
            ""
            if partition is None
            else f" for key {_key_name(key)} ({len(invalid)} of {len(groups)} keys fail)"
        )
        blame = f"{_told(blocked)} of index {blocked.start} fits no order of the calls before it"
        summary = f"not linearizable{where}: {blame}"
        return Verdict("linearizable", False, summary, details, _events([*shrunk.core, *shrunk.sources]))
    if unknown:
        summary = f"unknown: {len(unknown)} of {len(groups)} keys were not decided within {time_limit_s:g} s"
        return Verdict("linearizable", None, summary, details)
    if not completed:
        return Verdict("linearizable", None, "unknown: no operation completed", details)
    return Verdict(
        "linearizable", True, f"linearizable: {completed} operations on {len(groups)} keys", details
    )


def by_key(value: Any) -> tuple[Hashable, Any]:
    """Partition of [key value]. Raises ValueError for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(dumps(value))
    return freeze(value[0]), value[1]


def calls_by_key(history: History, model: Model, partition: Partition | None) -> dict[Hashable, list[Call]]:
    """Calls in order of invocation, by key (None without a partition).

    Failed calls and reads of unknown outcome are left out. Raises HistoryError when a value has no key.
    """
    groups: dict[Hashable, list[Call]] = {}
    for pair in history.pairs():
        if pair.type is OpType.FAIL:
            continue
        end = pair.completion.index if pair.completion is not None and pair.type is OpType.OK else None
        value = pair.invoke.value
        if pair.completion is not None and end is not None and pair.completion.value is not None:
            value = pair.completion.value
        key: Hashable = None
        if partition is not None:
            try:
                key, value = partition(value)
            except ValueError as error:
                raise HistoryError(
                    f"{pair.invoke.f} at index {pair.invoke.index} has value {error}",
                    expected="[key value]; a history of a single register is checked with keyed=False",
                ) from None
        call = Call(pair.invoke, pair.completion, pair.invoke.f, freeze(value), pair.invoke.index, end)
        if end is not None or not model.is_read(call):
            groups.setdefault(key, []).append(call)
    return groups


def _search_all(
    model: Model, groups: Mapping[Hashable, list[Call]], deadline: float
) -> dict[Hashable, Outcome]:
    """Search each group; what one leaves of its even share of the time goes to those after it.

    Once a violation is known the others get little more: the verdict stands.
    """
    outcomes: dict[Hashable, Outcome] = {}
    for done, (key, calls) in enumerate(sorted(groups.items(), key=lambda item: len(item[1]))):
        now = time.monotonic()
        outcomes[key] = search(model, calls, now + (deadline - now) / (len(groups) - done))
        if outcomes[key].valid is False:
            deadline = min(deadline, now + AFTER_VIOLATION_S)
    return outcomes


def _looks_keyed(history: History) -> bool:
    """True when every value is a pair, and every cas pair's second part is one."""
    pairs = [op for op in history.clients() if op.value is not None and op.type is not OpType.FAIL]
    return all(
        isinstance(op.value, list) and len(op.value) == 2 and (op.f != "cas" or isinstance(op.value[1], list))
        for op in pairs
    )


def _violation(
    model: Model, key: Hashable, outcome: Outcome, blocked: Call, shrunk: Shrunk
) -> dict[str, Any]:
    prefix = outcome.stuck[0].linearized if outcome.stuck else []
    return {
        "key": _key_name(key),
        "blocked": _described(blocked),
        "linearized": len(prefix),
        "dead_ends": [
            {
                "state": model.show(stuck.state),
                "last": [_described(call) for call in stuck.linearized[-LISTED_MAX:]],
                "impossible_next": [_described(call) for call in stuck.pending[:LISTED_MAX]],
            }
            for stuck in outcome.stuck
        ],
        "core": [_described(call) for call in sorted(shrunk.core, key=lambda call: call.start)],
        "sources": [_described(call) for call in sorted(shrunk.sources, key=lambda call: call.start)],
        "core_is_minimal": shrunk.is_minimal,
    }


def _described(call: Call) -> dict[str, Any]:
    return {
        "index": call.start,
        "process": call.op.process,
        "f": call.f,
        "value": thaw(call.value),
        "completed": call.completion.index if call.completion is not None and call.end is not None else None,
    }


def _told(call: Call) -> str:
    return f"{call.f} {dumps(thaw(call.value))}"


def _key_name(key: Hashable) -> str:
    return dumps(thaw(key))


def _events(calls: Iterable[Call]) -> list[Op]:
    """The events of calls in the order of the history."""
    events: list[Op] = []
    for call in calls:
        events.append(call.op)
        if call.completion is not None and (call.end is not None or call.completion.type is OpType.INFO):
            events.append(call.completion)
    return sorted(events, key=lambda op: op.index)
