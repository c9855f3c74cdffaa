"""Which part of the leader's log followers need that fetch a snapshot, or were just given one. Loop thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from dqlite_py.model import LogIndex, NodeId
from dqlite_py.raft.progress import PeerView, ProgressState

_NOT_FED: Final = (ProgressState.SPARE, ProgressState.LOST_DATA)
NEAR_ENTRIES: Final = 256  # whoever is so near the log's end needs no more than its tail


class Leader(Protocol):
    @property
    def peers(self) -> Mapping[NodeId, PeerView]: ...
    @property
    def last_index(self) -> LogIndex: ...


class FetchedLog:
    """`oldest_copy`: index of the oldest copy that is there, or being made; None where nothing is to be kept."""

    def __init__(self, leader: Leader, oldest_copy: Callable[[], LogIndex | None]) -> None:
        self._leader = leader
        self._oldest_copy = oldest_copy
        self._fed: set[NodeId] = set()  # fetch one, or what follows it

    def index(self) -> LogIndex | None:
        """Everything behind it is needed; asked now and then."""
        peers = self._leader.peers
        for node_id, peer in peers.items():
            if peer.state is ProgressState.SNAPSHOT:
                self._fed.add(node_id)
            elif peer.match_index + NEAR_ENTRIES >= self._leader.last_index or peer.state in _NOT_FED:
                self._fed.discard(node_id)
        self._fed &= peers.keys()
        oldest = self._oldest_copy()
        if oldest is None or not self._fed:
            return None
        return min(max(oldest, peers[node_id].match_index) for node_id in self._fed)
