"""List-append histories: from a shorthand, and from a simulated database with concurrent clients and planted faults."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from jepsen.history.history import History
from jepsen.history.op import Op, OpType

Micro = list[Any]


class Builder:
    """Collects events; index and time follow from the order."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def add(self, type: OpType, process: int, value: Any, f: str = "txn") -> None:
        self.ops.append(Op(len(self.ops), type, process, f, value, len(self.ops) * 1_000_000))

    def history(self) -> History:
        return History(self.ops)


def micros(text: str) -> list[Micro]:
    """ "ax1 rx[1,2] ry": append 1 to x, read x = [1 2], read y = nothing."""
    result: list[Micro] = []
    for kind, key, value in re.findall(r"([ar])([a-z])(\d+|\[[\d,]*\])?", text):
        if kind == "a":
            result.append(["append", key, int(value)])
        else:
            result.append(["r", key, [int(part) for part in value.strip("[]").split(",") if part]])
    return result


def asked(done: Sequence[Micro]) -> list[Micro]:
    """The invocation's value: reads are empty."""
    return [[kind, key, None if kind == "r" else value] for kind, key, value in done]


def concurrent(*transactions: str) -> History:
    """All begin before any ends, each in a process of its own. A leading "!" fails, "?" has an unknown outcome."""
    builder = Builder()
    for process, text in enumerate(transactions):
        builder.add(OpType.INVOKE, process, asked(micros(text)))
    for process, text in enumerate(transactions):
        _complete(builder, process, text)
    return builder.history()


def one_after_another(*transactions: str, process: int | None = None) -> History:
    """Each ends before the next begins. `process`: one for all, instead of one each."""
    builder = Builder()
    for number, text in enumerate(transactions):
        own = number if process is None else process
        builder.add(OpType.INVOKE, own, asked(micros(text)))
        _complete(builder, own, text)
    return builder.history()


def _complete(builder: Builder, process: int, text: str) -> None:
    done = micros(text)
    if text[0] == "!":
        builder.add(OpType.FAIL, process, asked(done))
    elif text[0] == "?":
        builder.add(OpType.INFO, process, asked(done))
    else:
        builder.add(OpType.OK, process, done)


class Database:
    """Lists by key; `run` executes a transaction atomically on the newest state."""

    def __init__(self) -> None:
        self.lists: dict[int, list[int]] = {}

    def run(self, transaction: Sequence[Micro]) -> list[Micro]:
        return [self.micro(*micro) for micro in transaction]

    def micro(self, kind: str, key: int, value: Any) -> Micro:
        if kind == "append":
            self.lists.setdefault(key, []).append(value)
            return [kind, key, value]
        return [kind, key, list(self.lists.get(key, []))]


KEYS: Final = 5
KEY_APPENDS: Final = 50


class Load:
    """Clients on a database: transactions of 2 to 4 micro-operations, some of unknown outcome, some failed.

    `plants`: at evenly spread moments each is called with the load and may do what no sound database does.
    """

    def __init__(self, seed: int, clients: int = 10, info: float = 0.01, fail: float = 0.03) -> None:
        self.rng = random.Random(seed)
        self.builder = Builder()
        self.database = Database()
        self.info, self.fail = info, fail
        self.processes = list(range(clients))
        self.next_process = clients
        self.open: dict[int, list[Micro]] = {}  # invoked, not executed yet
        self.done: dict[int, tuple[OpType, list[Micro]]] = {}  # executed, not completed yet
        self.counters = dict.fromkeys(range(KEYS), 0)
        self.next_key = KEYS

    def run(self, transactions: int, plants: Sequence[Callable[[Load], None]] = ()) -> History:
        moments = [transactions * (i + 1) // (len(plants) + 1) for i in range(len(plants))]
        begun = 0
        while begun < transactions or self.open or self.done:
            if moments and begun >= moments[0]:
                plants[len(plants) - len(moments)](self)
                moments.pop(0)
            process = self.rng.choice(self.processes)
            if process in self.open:
                self.execute(process)
            elif process in self.done:
                self.complete(process)
            elif begun < transactions:
                begun += 1
                self.invoke(process, self.transaction())
        for process, key in enumerate(range(self.next_key)):  # a last read of each key
            self.invoke(self.next_process + process, [["r", key, None]])
            self.done[self.next_process + process] = OpType.OK, self.database.run([["r", key, None]])
            self.complete(self.next_process + process)
        return self.builder.history()

    def transaction(self) -> list[Micro]:
        result: list[Micro] = []
        for _ in range(self.rng.randint(2, 4)):
            key = self.rng.choice(list(self.counters))
            result.append(self.append(key) if self.rng.random() < 0.5 else ["r", key, None])
        return result

    def append(self, key: int) -> Micro:
        """A micro-operation that appends the key's next value; full keys are replaced by new ones."""
        self.counters[key] += 1
        value = self.counters[key]
        if value == KEY_APPENDS:
            del self.counters[key]
            self.counters[self.next_key] = 0
            self.next_key += 1
        return ["append", key, value]

    def invoke(self, process: int, transaction: list[Micro]) -> None:
        self.builder.add(OpType.INVOKE, process, transaction)
        self.open[process] = transaction

    def execute(self, process: int) -> None:
        transaction, chance = self.open.pop(process), self.rng.random()
        if chance < self.info / 2 or self.info < chance < self.info + self.fail:
            type = OpType.INFO if chance < self.info / 2 else OpType.FAIL
            self.done[process] = type, transaction
            return
        result = self.database.run(transaction)
        self.done[process] = (OpType.INFO, transaction) if chance < self.info else (OpType.OK, result)

    def complete(self, process: int) -> None:
        type, value = self.done.pop(process)
        self.builder.add(type, process, value)
        if (
            type is OpType.INFO and process in self.processes
        ):  # as Jepsen: the process is replaced by a new one
            self.processes[self.processes.index(process)] = self.next_process
            self.next_process += 1

    # -- for plants ----------------------------------------------------------------------------------------

    def fresh(self, count: int) -> list[int]:
        """Processes of their own for planted transactions."""
        self.next_process += count
        return list(range(self.next_process - count, self.next_process))

    def keys(self) -> tuple[int, int]:
        """Two keys in use, with room for a few appends."""
        roomy = [key for key, count in self.counters.items() if count < KEY_APPENDS - 5]
        while len(roomy) < 2:
            self.counters[self.next_key] = 0
            roomy.append(self.next_key)
            self.next_key += 1
        return roomy[0], roomy[1]

    def plant(self, *transactions: list[Micro], type: OpType = OpType.OK) -> None:
        """Record transactions that ran at the same time; values are those of the completions.

        A first one of another outcome than OK takes `type`.
        """
        processes = self.fresh(len(transactions))
        for process, done in zip(processes, transactions, strict=True):
            self.builder.add(OpType.INVOKE, process, asked(done))
        for number, (process, done) in enumerate(zip(processes, transactions, strict=True)):
            kind = type if number == 0 else OpType.OK
            self.builder.add(kind, process, done if kind is OpType.OK else asked(done))
