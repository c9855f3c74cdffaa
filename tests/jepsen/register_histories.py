"""Histories of real registers under simulated concurrency, and an obviously right checker for small ones."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jepsen.history.edn import read_one
from jepsen.history.history import History
from jepsen.history.op import Op, OpType


def simulated(
    seed: int,
    *,
    operations: int,
    clients: int = 10,
    keys: int = 10,
    values: int | None = None,
    info_rate: float = 0.05,
    cas_rate: float = 0.2,
    read_rate: float = 0.4,
) -> History:
    """A linearizable history: each operation takes effect on real registers at one moment within its interval.

    `values`: written values are drawn from so many (None: each is unique). Of the operations whose outcome
    stays unknown a third never happens, a third happens in time, and a third long after.
    """
    rng = random.Random(seed)
    registers: dict[int, Any] = {}
    events: list[Op] = []
    agenda: list[tuple[float, int, str, Any]] = []
    tick = 0
    written = 0

    def at(when: float, what: str, data: Any) -> None:
        nonlocal tick
        tick += 1
        heapq.heappush(agenda, (when, tick, what, data))

    def emit(op_type: OpType, process: int, f: str, value: Any, now: float) -> None:
        events.append(Op(len(events), op_type, process, f, value, int(now * 1e9)))

    for client in range(clients):
        at(rng.random(), "begin", client)
    begun = 0
    next_process = clients
    while agenda:
        now, _, what, data = heapq.heappop(agenda)
        if what == "begin":
            if begun == operations:
                continue
            begun += 1
            key = rng.randrange(keys)
            written += 1
            new = written if values is None else rng.randrange(values)
            kind = rng.random()
            if kind < read_rate:
                f, argument = "read", None
            elif kind < read_rate + cas_rate:
                old = registers.get(key) if rng.random() < 0.7 else rng.randrange(1 + (values or written))
                f, argument = "cas", [old, new]
            else:
                f, argument = "write", new
            emit(OpType.INVOKE, data, f, [key, argument], now)
            length = rng.expovariate(1.0)
            call = {"process": data, "f": f, "key": key, "argument": argument, "ok": None}
            fate = rng.random() if rng.random() < info_rate else None
            if fate is None or fate > 1 / 3:
                moment = now + rng.random() * length
                at(
                    moment if fate is None or fate > 2 / 3 else now + length + 20 * rng.random(),
                    "effect",
                    call,
                )
            at(now + length, "crash" if fate is not None else "end", call)
        elif what == "effect":
            key, argument = data["key"], data["argument"]
            data["ok"] = True
            if data["f"] == "read":
                data["argument"] = registers.get(key)
            elif data["f"] == "write":
                registers[key] = argument
            elif registers.get(key) == argument[0]:
                registers[key] = argument[1]
            else:
                data["ok"] = False
        elif what == "crash":
            process = data["process"]
            emit(
                OpType.INFO,
                process,
                data["f"],
                [data["key"], None if data["f"] == "read" else data["argument"]],
                now,
            )
            at(now + rng.random(), "begin", next_process)
            next_process += 1
        else:
            ended = OpType.OK if data["ok"] else OpType.FAIL
            emit(ended, data["process"], data["f"], [data["key"], data["argument"]], now)
            at(now + rng.expovariate(10.0), "begin", data["process"])
    return History(events)


def told(text: str) -> History:
    """A history from lines "process type f value" (value in EDN, nil when left out)."""
    ops = []
    for line in text.strip().splitlines():
        process, kind, f, *value = line.split(maxsplit=3)
        ops.append(
            Op(len(ops), OpType(kind), int(process), f, read_one(value[0]) if value else None, len(ops))
        )
    return History(ops)


def with_one_read_changed(history: History, seed: int, values: Sequence[Any]) -> History:
    """The same history with another value in one completed read (the history itself when there is no read)."""
    rng = random.Random(seed)
    ops = list(history)
    reads = [position for position, op in enumerate(ops) if op.f == "read" and op.type is OpType.OK]
    if reads:
        position = rng.choice(reads)
        key, value = ops[position].value
        others = [other for other in values if other != value]
        ops[position] = replace(ops[position], value=[key, rng.choice(others)])
    return History(ops)


def is_linearizable(history: History, initial: Any = None) -> bool:
    """Try every order of every subset of the possible; for single-key histories of about eight operations."""
    calls = []
    for pair in history.pairs():
        if pair.type is OpType.FAIL or (pair.invoke.f == "read" and pair.type is not OpType.OK):
            continue
        op = pair.completion if pair.completion is not None and pair.type is OpType.OK else pair.invoke
        end = (
            pair.completion.index if pair.completion is not None and pair.type is OpType.OK else float("inf")
        )
        calls.append((pair.invoke.index, end, pair.invoke.f, op.value[1]))

    def extend(left: list[tuple[int, float, str, Any]], state: Any) -> bool:
        if all(end == float("inf") for _, end, _, _ in left):
            return True
        for position, (start, _, f, value) in enumerate(left):
            if any(other[1] < start for other in left):
                continue
            if f == "read" and value == state:
                after = state
            elif f == "write":
                after = value
            elif f == "cas" and value[0] == state:
                after = value[1]
            else:
                continue
            if extend(left[:position] + left[position + 1 :], after):
                return True
        return False

    return extend(calls, initial)
