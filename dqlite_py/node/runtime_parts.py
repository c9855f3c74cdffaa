"""What the RPC services need of the running node (implemented by node.runtime.NodeRuntime)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from dqlite_py.model import NodeId
from dqlite_py.node.applier import Applier
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.divergence import Divergence
from dqlite_py.node.local_gateway import LocalGateway
from dqlite_py.node.membership import Membership
from dqlite_py.node.presence import Presence
from dqlite_py.node.programs import ProgramMethods
from dqlite_py.node.reads import ReadBarriers
from dqlite_py.node.startup import OpenFolder
from dqlite_py.node.transactions import Transactions
from dqlite_py.node.writes import Writes
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.transport import PeerTransport

if TYPE_CHECKING:
    from dqlite_py.node.dump_services import DumpServices


class Parts(Protocol):
    loop: asyncio.AbstractEventLoop
    core: RaftCore
    transport: PeerTransport
    programs: ProgramMethods
    writes: Writes
    reads: ReadBarriers
    membership: Membership
    presence: Presence
    divergence: Divergence
    gateway: LocalGateway
    transactions: Transactions
    view: ClusterView
    dumps: DumpServices
    cluster_id: bytes
    opened: OpenFolder

    def applier(self) -> Applier: ...
    def status(self) -> dict[str, Any]: ...
    def hash_at(self, database: str, index: int) -> int | None: ...
    def on_worker(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]: ...
    async def transfer(self, target: NodeId | None, timeout_s: float) -> NodeId | None: ...
