"""Raft messages on their way out: which connection, which lane, encoded once for all peers. Loop thread.

The outgoing half of raft/transport.py, which owns it and the links.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from dqlite_py.errors import InterfaceError, RequestTooLarge
from dqlite_py.logs import event
from dqlite_py.model import NodeId
from dqlite_py.raft.connection import ConnectionState
from dqlite_py.raft.links import PeerLink
from dqlite_py.raft.messages import Message
from dqlite_py.raft.outbox import Outbox
from dqlite_py.wire.peer import IDLE_LANES, MessageEncoder, lane_of
from dqlite_py.wire.sendqueue import Lane

log = logging.getLogger(__name__)


class MessageSender:
    """Sends over `links`, which its owner keeps up to date."""

    def __init__(self, links: Mapping[NodeId, PeerLink]) -> None:
        self._links = links
        self._encoder = MessageEncoder()

    def send(self, peer: NodeId, message: Message) -> bool:
        """Queue a message; False when it was dropped (no connection, queue full): raft sends it again."""
        outboxes = self._queue(((peer, message),))
        for outbox in outboxes.values():
            outbox.flush_soon()
        return bool(outboxes)

    def send_all(self, messages: Iterable[tuple[NodeId, Message]]) -> None:
        """Send all of these now, each as `send`, instead of at the end of the loop's turn."""
        for outbox in self._queue(messages).values():
            outbox.flush()

    def forget(self) -> None:
        """Nothing waits to be sent: encoded messages need not be kept."""
        self._encoder.forget()

    def _queue(self, messages: Iterable[tuple[NodeId, Message]]) -> dict[NodeId, Outbox]:
        """Where something was queued."""
        reached: dict[NodeId, Outbox] = {}
        for peer, message in messages:
            link = self._links.get(peer)
            connection = link.connection if link is not None else None
            if connection is None or connection.state is not ConnectionState.ESTABLISHED:
                continue
            try:
                outgoing = self._encoder.encode(message)
            except (RequestTooLarge, InterfaceError) as error:
                event(log, logging.ERROR, "a message cannot be sent", node=peer, reason=error.message)
                continue
            outbox = connection.outbox
            waiting = outbox.lane_bytes[Lane.APPEND]
            lane = lane_of(message, waiting) if waiting else IDLE_LANES[type(message)]
            if outbox.push(lane, outgoing) is not None:
                reached[peer] = outbox
        return reached
