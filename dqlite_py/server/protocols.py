"""The protocols of clients on one node: dqlite's, and our extension of it for our own programs. Loop thread."""

from __future__ import annotations

from dqlite_py.node.inbound import Inbound
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.server.dqlite.server import DqliteServer
from dqlite_py.server.dqlite.settings import ServerSettings
from dqlite_py.server.extended.joined import JoinedExtension
from dqlite_py.server.extended.server import ExtendedServer


class ClientProtocols:
    """`serve`, `started` and `stop` are called in this order; `stop` before the runtime's."""

    def __init__(self) -> None:
        self._extended: ExtendedServer
        self._dqlite: DqliteServer

    def serve(self, transport: PeerTransport, inbound: Inbound) -> None:
        """Before the node listens: programs hear that it is starting."""
        self._extended = ExtendedServer(inbound.programs, inbound.identity)
        self._extended.serve_on(transport)

    def started(self, runtime: NodeRuntime, settings: ServerSettings | None = None) -> None:
        """The runtime has started."""
        extended = self._extended
        self._dqlite = DqliteServer(runtime, settings)
        self._dqlite.extension = lambda channel: JoinedExtension(extended, channel)
        runtime.sections["dqlite"] = self._dqlite.status
        runtime.sections["programs"] = extended.status

    async def stop(self) -> None:
        """The programs' connections end with the transport, when what they asked for is answered."""
        await self._dqlite.stop()
