"""Before a stop for long: another member takes over this node's vote and leadership. Loop thread of that node.

That a member is leaving is kept in the leader's memory only. So the request is short and repeated: the leader that
comes after one that died hears it, too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from dqlite_py.errors import Error
from dqlite_py.logs import event
from dqlite_py.model import NodeId
from dqlite_py.node.membership import Membership
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.raft.core import RaftCore

log = logging.getLogger("dqlite_py.membership")

ATTEMPT_S: Final = 2.0
_PAUSE_S: Final = 0.2


class Leaver(Protocol):
    """What is needed of a node (node.runtime.NodeRuntime)."""

    node_id: NodeId
    core: RaftCore
    membership: Membership
    writes: Writes


async def leave(node: Leaver, limit_s: float) -> bool:
    """Return True when this node has no vote and does not lead; False when the time is over, with the reason logged.

    Alone in its cluster there is nobody to take over: False at once.
    """
    if limit_s <= 0 or len(node.core.configuration.members) < 2:
        return False
    event(log, logging.INFO, "leaving: vote and leadership are handed over", limit_s=limit_s)
    deadline = Deadline(limit_s)
    while True:
        try:
            await _ask(node, min(ATTEMPT_S, deadline.left_s), deadline)
        except (Error, TimeoutError) as error:
            reason = str(error) or "no answer"
        else:
            event(log, logging.INFO, "left: another member has the vote")
            return True
        if deadline.passed:
            event(log, logging.WARNING, "stopping with the vote", reason=reason)
            return False
        await asyncio.sleep(min(_PAUSE_S, deadline.left_s))


async def _ask(node: Leaver, timeout_s: float, last: Deadline) -> None:
    end = Deadline(timeout_s)

    def body() -> dict[str, Any]:
        return {"id": node.node_id, "timeout_s": max(0.001, end.left_s), "asks_again_s": last.left_s}

    async with asyncio.timeout(timeout_s + ATTEMPT_S):  # whatever it hangs on, there is another attempt
        await node.writes.on_leader(
            "leader.leave",
            body,
            end,
            lambda: node.membership.leave(node.node_id, end, asks_again_s=last.left_s),
        )
