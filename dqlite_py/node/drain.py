"""Before a stop that somebody asked for: what runs on this leader may end by itself. Loop thread.

Only what is open at the beginning is waited for. What begins meanwhile is ended by the hand-over of leadership, with
an error that may be tried again: else a busy leader would never stop.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from dqlite_py.logs import event
from dqlite_py.node.leaving import Leaver, leave
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transactions import Transactions

log = logging.getLogger("dqlite_py.node")

_LOOK_S: Final = 0.02


class Stopping(Leaver, Protocol):
    """What is needed of a node (node.runtime.NodeRuntime)."""

    transactions: Transactions
    failed: BaseException | None


async def before_stop(node: Stopping, drain_s: float, leave_s: float) -> None:
    """Let transactions end, in `drain_s`; then, in `leave_s`, hand over the vote. 0: not at all."""
    await drain(node.transactions, drain_s)
    if node.failed is None:
        await leave(node, leave_s)


async def drain(transactions: Transactions, limit_s: float) -> None:
    """Return when the transactions that are open now have ended, or when the time is over."""
    running = set(transactions.running())
    if not running or limit_s <= 0:
        return
    event(log, logging.INFO, "waiting for open transactions", count=len(running), limit_s=limit_s)
    deadline = Deadline(limit_s)
    while left := running & transactions.running():
        if deadline.passed:
            event(log, logging.WARNING, "open transactions are rolled back", count=len(left))
            return
        await asyncio.sleep(_LOOK_S)
