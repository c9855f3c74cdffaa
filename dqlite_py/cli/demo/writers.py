"""Writers at a steady rate through every node, each keeping to the rules of outcomes. Loop thread.

A row that certainly was not applied is tried again under the same number. One whose outcome is unknown never
is: it is entered as unknown, and the writer goes on with the next number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from dqlite_py.cli.demo.ledger import Ledger, RowKey
from dqlite_py.errors import Error, Outcome
from dqlite_py.model import Address
from dqlite_py.wire.rpc import RpcLost, RpcNotSent

LANES = 4  # writers per node, so that one write that waits does not hide that others pass
PAUSE_AFTER_REFUSAL_S = 0.02


class Inserter(Protocol):
    async def insert(self, address: Address, row: RowKey) -> None: ...


class Writers:
    def __init__(
        self, inserter: Inserter, ledger: Ledger, nodes: Sequence[tuple[str, Address]], rate: float
    ) -> None:
        """`rate`: rows per second through each node."""
        self._inserter = inserter
        self._ledger = ledger
        self._nodes = nodes
        self._interval_s = LANES / rate
        self._stopping = False

    def stop(self) -> None:
        """No new rows; those under way come to their end."""
        self._stopping = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, address in self._nodes:
                for lane in range(LANES):
                    group.create_task(self._lane(name, address, lane))

    async def _lane(self, name: str, address: Address, lane: int) -> None:
        due_s = time.monotonic() + lane * self._interval_s / LANES
        number = 0
        while not self._stopping:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if await self._write(RowKey(f"{name}.{lane}", number), name, address):
                number += 1
            # Steady, and no burst to catch up after a pause.
            due_s = max(due_s + self._interval_s, time.monotonic())

    async def _write(self, row: RowKey, name: str, address: Address) -> bool:
        """True when the row's number is used up."""
        sent_s = time.monotonic()
        try:
            await self._inserter.insert(address, row)
        except RpcLost:
            self._ledger.lose_sight(row, name)
            return True
        except (RpcNotSent, Error) as error:
            if isinstance(error, Error) and error.outcome is Outcome.UNKNOWN:
                self._ledger.lose_sight(row, name)
                return True
            self._ledger.refuse()
            await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)
            return False
        self._ledger.acknowledge(row, name, sent_s, time.monotonic())
        return True
