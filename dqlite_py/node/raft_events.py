"""Raft's results to the parts of the node that deal with them (raft.host.HostListener). Loop thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqlite_py.logs import event
from dqlite_py.model import Configuration, Entry, LogIndex, Term
from dqlite_py.raft.messages import SnapshotOffer

if TYPE_CHECKING:
    from dqlite_py.node.runtime import NodeRuntime

log = logging.getLogger("dqlite_py.node")


class RaftEvents:
    def __init__(self, node: NodeRuntime) -> None:
        self._node = node

    def on_committed(self, entries: Sequence[Entry]) -> None:
        if self._node.snapshot_install.installing:
            return  # read again from the journal by the databases that are being put in place
        self._node.applier().dispatch(entries)

    def on_state_change(self) -> None:
        self._node.sync_peers()
        self._node.view.changed()

    def on_became_leader(self, term: Term) -> None:
        event(log, logging.INFO, "became the leader", term=term)
        self._node.role_manager.start()

    def on_lost_leadership(self) -> None:
        event(log, logging.INFO, "leadership lost", term=self._node.core.term)
        self._node.view.ready_term = None
        self._node.write_path.lost_leadership()
        self._node.view.changed()

    def on_configuration(self, _configuration: Configuration) -> None:
        self._node.sync_peers()
        self._node.view.changed()

    def on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        self._node.snapshot_install.offer(offer)

    def on_read_ready(self, read_id: int, index: LogIndex) -> None:
        self._node.reads.ready(read_id, index)

    def on_read_failed(self, read_id: int) -> None:
        self._node.reads.failed(read_id)

    def on_removed(self) -> None:
        self._node.on_removed()

    def on_fatal(self, error: BaseException) -> None:
        self._node.on_fatal(error)
