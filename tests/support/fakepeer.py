"""A node as commands see it over the network: the real transport on loopback, with made-up answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error
from dqlite_py.model import Address, NodeId
from dqlite_py.node.programs import ProgramMethods
from dqlite_py.raft.rpc import RpcContext
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.server.extended import ExtendedServer
from dqlite_py.wire.handshake import LocalIdentity

CLUSTER_ID = bytes(range(16))


Answer = Callable[[Any], Awaitable[Any]]


class FakePeer:
    """Answers `status` with `self.status` and notes what else it is asked; `self.error` is raised by those.

    `methods`: further ones, each with the coroutine that answers it, on the peer's own thread.
    """

    def __init__(
        self,
        node_id: int,
        *,
        cluster_id: bytes = CLUSTER_ID,
        tls: TlsSettings | None = None,
        methods: Mapping[str, Answer] | None = None,
    ) -> None:
        self.methods = dict(methods or {})
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.status: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.error: Error | None = None
        self.address = Address("")
        self._tls = tls

    @contextmanager
    def running(self) -> Iterator[FakePeer]:
        """Serve on a thread of its own until the block ends."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fake-peer")
        thread.start()
        try:
            transport = asyncio.run_coroutine_threadsafe(self._start(), loop).result(30)
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(_end(transport), loop).result(30)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()

    async def _start(self) -> PeerTransport:
        transport = PeerTransport(
            identity=lambda: LocalIdentity(self.cluster_id, NodeId(self.node_id)),
            listen=Address("127.0.0.1:0"),
            tls=self._tls,
            on_message=lambda _sender, _message: None,
        )
        transport.register("status", self._status, open_to_joiners=True)
        for method in ("join", "remove", "transfer"):
            transport.register(method, self._changing(method), open_to_joiners=True)
        for method in self.methods:
            transport.register(method, self._answering(method), open_to_joiners=True)
        self.programs = ExtendedServer(ProgramMethods(), transport.local_identity)
        self.programs.serve_on(transport)
        await transport.start()
        self.transport = transport
        self.transport_loop = asyncio.get_running_loop()
        self.address = transport.bound_address
        return transport

    async def _status(self, _context: RpcContext, _body: Any) -> Any:
        return {
            "node_id": self.node_id,
            "cluster_id": self.cluster_id.hex(),
            "address": self.address,
            **self.status,
        }

    def _changing(self, method: str) -> Any:
        async def answer(_context: RpcContext, body: Any) -> Any:
            self.asked.append((method, body))
            if self.error is not None:
                raise self.error
            return {"target": 7}

        return answer

    def _answering(self, method: str) -> Any:
        async def answer(_context: RpcContext, body: Any) -> Any:
            self.asked.append((method, body))
            return await self.methods[method](body)

        return answer

    def cut(self) -> None:
        """Break all connections; on the peer's own thread."""
        self.transport.identity_changed()
        for connection in list(self.programs.connections):
            connection.abort("cut")


async def _end(transport: PeerTransport) -> None:
    """A connection that was about to be accepted is closed, too."""
    await transport.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def member(peer: FakePeer, role: str = "voter", **more: Any) -> dict[str, Any]:
    """The peer's entry in a status's list of members."""
    return {"id": peer.node_id, "address": peer.address, "role": role, "connected": True, **more}
