"""What the transport reports, before and after the node's runtime exists.

The transport listens first (a joining node must be reachable and know its port); raft messages are refused until the
runtime is attached.
"""

from __future__ import annotations

import logging
from typing import Protocol

from dqlite_py.model import Address, NodeId
from dqlite_py.node.programs import ProgramMethods
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.messages import Message
from dqlite_py.storage.engine import sqlite_identity
from dqlite_py.wire.handshake import LocalIdentity

log = logging.getLogger("dqlite_py.node")


class Receiver(Protocol):
    host: RaftHost

    def accept_sender(self, node_id: NodeId) -> bool: ...

    def sync_peers(self) -> None: ...


class Inbound:
    def __init__(self, cluster_id: bytes, node_id: NodeId) -> None:
        self._receiver: Receiver | None = None
        self._node_id = node_id
        self.programs = ProgramMethods()  # filled by the runtime
        self.learned: dict[NodeId, Address] = {}
        self.set_cluster(cluster_id)

    def set_cluster(self, cluster_id: bytes) -> None:
        """The identity that handshakes show from now on."""
        sqlite = sqlite_identity()
        digest = bytes.fromhex(sqlite["sqlite_options_digest"])
        self._identity = LocalIdentity(cluster_id, self._node_id, sqlite["sqlite_source_id"], digest)

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def identity(self) -> LocalIdentity:
        return self._identity

    def on_message(self, sender: NodeId, message: Message) -> None:
        if self._receiver is not None:
            self._receiver.host.receive(sender, message)

    def on_all_received(self) -> None:
        if self._receiver is not None:
            self._receiver.host.pump()

    def on_connected(self, peer: NodeId) -> None:
        if self._receiver is not None:
            self._receiver.host.peer_connected(peer)

    def on_disconnected(self, peer: NodeId) -> None:
        if self._receiver is not None:
            self._receiver.host.peer_disconnected(peer)

    def on_learned(self, peer: NodeId, address: Address) -> None:
        """A node of our cluster showed its address: all that a new member without a configuration knows."""
        self.learned[peer] = address
        if self._receiver is not None:
            self._receiver.sync_peers()

    def accept_sender(self, node_id: NodeId) -> bool:
        return self._receiver is not None and self._receiver.accept_sender(node_id)
