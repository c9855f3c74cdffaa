"""What of PySyncObj 0.3.17 we hold on to, and how: the pin, the overridden and bypassed members, the adapters.

All of it is private upstream, so version and file hash are checked at import. Used by raft/host.py only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysyncobj.syncobj as upstream
from pysyncobj import SyncObjConf
from pysyncobj.node import Node as SyncNode
from pysyncobj.transport import Transport as SyncTransport

from dqlite_py.errors import RaftInvariantBroken
from dqlite_py.raft.messages import Message
from dqlite_py.raft.settings import RaftSettings
from dqlite_py.raft.transport import PeerTransport

PINNED_VERSION = "0.3.17"
PINNED_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

OVERRIDDEN_MEMBERS = (
    "_SyncObj__onMessageReceived",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__applyLogEntries",
    "_onTick",
    "_checkCommandsToApply",
    "_doDestroy",
    "getStatus",
    "transferLeadership",
    "_isLeader",
    "_getLeader",
    "isReady",
)
BYPASSED_MEMBERS = (
    "_applyCommand",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__loadDumpFile",
    "_SyncObj__changeCluster",
    "_SyncObj__doChangeCluster",
    "_SyncObj__parseChangeClusterRequest",
    "_SyncObj__updateClusterConfiguration",
    "_SyncObj__doApplyCommand",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__onLeaderChanged",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__deleteEntriesFrom",
    "_SyncObj__deleteEntriesTo",
    "_SyncObj__getEntries",
    "addNodeToCluster",
    "removeNodeFromCluster",
    "setCodeVersion",
    "forceLogCompaction",
    "_autoTickThread",
)


def _check_pin() -> None:
    source = upstream.__file__
    assert source is not None
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    if (upstream.VERSION, digest) != (PINNED_VERSION, PINNED_SHA256):
        raise ImportError(
            f"dqlite_py overrides private members of pysyncobj {PINNED_VERSION} (sha256 {PINNED_SHA256[:12]}…), "
            f"but found {upstream.VERSION} (sha256 {digest[:12]}…): install pysyncobj=={PINNED_VERSION}"
        )


_check_pin()


class TransportAdapter(SyncTransport):  # type: ignore[misc]
    """PySyncObj's Transport interface over PeerTransport; utility messages are never registered (RF-16)."""

    def __init__(self, peers: PeerTransport) -> None:
        super().__init__(None, None, [])
        self.peers = peers

    @property
    def ready(self) -> bool:
        return True

    def setOnUtilityMessageCallback(self, message: str, callback: Any) -> None:
        """Refuse: utility requests are the node's RPC methods, which check who asks (RF-16)."""

    def send(self, node: SyncNode, message: Message) -> bool:
        return self.peers.send(node.id, message)

    def destroy(self) -> None:
        """The node stops PeerTransport itself, after the last message."""


def make_conf(settings: RaftSettings) -> SyncObjConf:
    """SyncObj's configuration: no thread, no files, no pickled membership; our times where it shows them."""
    return SyncObjConf(
        autoTick=False,
        journalFile=None,
        fullDumpFile=None,
        dynamicMembershipChange=False,
        appendEntriesUseBatch=True,  # SyncObj then makes no pipe notifier; the host wakes the loop itself
        raftMinTimeout=settings.election_min_ms / 1000,
        raftMaxTimeout=settings.election_max_ms / 1000,
        appendEntriesPeriod=settings.heartbeat_ms / 1000,
    )


def bypass(host: type) -> None:
    """Make every bypassed member raise, so that nothing can reach the rules that were replaced."""
    for name in BYPASSED_MEMBERS:
        setattr(host, name, _bypassed(name))


def _bypassed(name: str) -> Callable[..., Any]:
    def raiser(*_args: Any, **_kwargs: Any) -> Any:
        raise RaftInvariantBroken(f"SyncObj.{name} is replaced by RaftCore and must not be called")

    raiser.__name__ = name
    return raiser
