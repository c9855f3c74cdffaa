"""Stale reads: each shows the state after some log entry, and one life of one node never goes back.

A stale read (clients.STATE) shows how many writes a database holds, and all of its registers: both must be those of
one prefix of the database's writes in the log's order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tests.simulation.cluster.checks_consensus import Fail

OpId = tuple[int, int]
Row = tuple[int, int, int]


class _Order:
    """The writes of one database, as the log has them."""

    def __init__(self) -> None:
        self.count = 0
        self.of_register: dict[int, tuple[list[int], list[OpId]]] = {}  # ordinals, and the writes
        self.entries: list[int] = []  # log index of each

    def add(self, op: OpId, register: int, log_index: int) -> None:
        self.count += 1
        self.entries.append(log_index)
        ordinals, ops = self.of_register.setdefault(register, ([], []))
        ordinals.append(self.count)
        ops.append(op)

    def registers_after(self, count: int) -> dict[int, OpId]:
        """Every register's last writer among the first `count` writes."""
        found: dict[int, OpId] = {}
        for register, (ordinals, ops) in self.of_register.items():
            position = bisect_right(ordinals, count)
            if position:
                found[register] = ops[position - 1]
        return found


class StaleFacts:
    """Fed with the log's writes in their order, and with what stale reads showed."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._orders: dict[str, _Order] = {}
        self._floors: dict[
            tuple[str, int, str], int
        ] = {}  # (machine, life, database): seen by reads that ended
        self.reads = 0

    def committed(self, database: str, op: OpId, register: int, log_index: int) -> None:
        self._orders.setdefault(database, _Order()).add(op, register, log_index)

    def count_at(self, database: str, log_index: int) -> int:
        """How many writes a database holds after this entry."""
        order = self._orders.get(database)
        return 0 if order is None else bisect_right(order.entries, log_index)

    def floor(self, machine: str, life: int, database: str) -> int:
        """What a stale read that begins now must show at least."""
        return self._floors.get((machine, life, database), 0)

    def read(self, machine: str, life: int, database: str, state: Sequence[Row], floor: int) -> None:
        """A stale read ended that began when `floor` was so high."""
        self.reads += 1
        count = self.shown(f"a stale read at {machine}", database, state)
        if count < floor:
            self._fail(
                f"stale reads: {machine} shows {count} writes in {database}, in this life it has shown {floor} before"
            )
        place = (machine, life, database)
        self._floors[place] = max(self._floors.get(place, 0), count)

    def shown(self, who: str, database: str, state: Sequence[Row]) -> int:
        """How many writes a state holds, which must be the first so many of the log."""
        order = self._orders.setdefault(database, _Order())
        count = next((client for key, client, _ in state if key == -1), 0)
        held = {key: (client, number) for key, client, number in state if key != -1}
        if count > order.count:
            self._fail(f"reads: {who} shows {count} writes in {database}, the log has {order.count}")
        expected = order.registers_after(count)
        if held != expected:
            self._fail(
                f"reads: {database} with {count} writes shows {held} to {who}, after them it was {expected}"
            )
        return count
