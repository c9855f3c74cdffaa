"""Which nodes cannot know how old their state is: what docs/read-levels.md assumes of heartbeats did not hold.

A bound of stale reads hangs on heartbeats that are not long under way, and on leaders that were not stopped for long
and then reach a node that nobody else reaches. Faults here do both; a node that heard such a heartbeat lately has an
excuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from dqlite_py.model import NodeId
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.raft.messages import AppendRequest, Message

UNDER_WAY_S: Final = (
    0.3  # what 920 ms allow beside an old leader's 860, when it was replaced after 400; and drift
)
STOPPED_S: Final = 0.2
LEADS_ON_S: Final = 1.5  # an old leader that goes on notices within less
KEPT: Final = 400  # messages between two nodes
Key = tuple[int, ...]


class FreshnessWatch:
    """`now`: simulated seconds; `stopped`: when the process of a machine went on after its last stop of STOPPED_S."""

    def __init__(self, now: Callable[[], float], stopped: Callable[[str], float]) -> None:
        self._now = now
        self._stopped = stopped
        self._names: dict[int, str] = {}
        self._sent: dict[tuple[int, int], dict[Key, float]] = {}
        self._late: dict[str, float] = {}  # machine -> when it heard what proves nothing

    def excused_since(self, machine: str) -> float:
        """When this machine last heard a heartbeat that was too old."""
        return self._late.get(machine, float("-inf"))

    def watch(self, name: str, runtime: NodeRuntime) -> None:
        """A life begins."""
        host: Any = runtime.host
        transport: Any = runtime.transport
        node = int(runtime.node_id)
        self._names[node] = name
        send_all, receive = transport.send_all, host.receive

        def noted_send_all(messages: Sequence[tuple[NodeId, Message]]) -> None:
            for peer, message in messages:
                if type(message) is AppendRequest:
                    self._sends(node, peer, message)
            send_all(messages)

        def noted_receive(sender: NodeId, message: Message) -> None:
            if type(message) is AppendRequest and self._is_late(sender, node, message):
                self._late[name] = self._now()
            receive(sender, message)

        transport.send_all = host._gate._send_all = noted_send_all
        host.receive = noted_receive

    def _sends(self, node: int, peer: int, message: AppendRequest) -> None:
        sent = self._sent.setdefault((node, peer), {})
        sent.setdefault(_key(message), self._now())
        if len(sent) > KEPT:
            del sent[next(iter(sent))]

    def _is_late(self, sender: int, node: int, message: AppendRequest) -> bool:
        now, sent = self._now(), self._sent.get((sender, node), {}).get(_key(message))
        went_on = self._stopped(self._names.get(sender, ""))
        return sent is None or now - sent > UNDER_WAY_S or sent - LEADS_ON_S < went_on


def _key(message: AppendRequest) -> Key:
    return message.term, message.round, message.prev_index, len(message.entries), message.commit_index
