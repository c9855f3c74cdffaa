"""Transports on loopback for tests, and a relay that can hold, cut and damage what passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from dqlite_py.config import TlsSettings
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.messages import Message
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import LocalIdentity

CLUSTER = b"cluster-of-tests"
FAST = TransportTiming(reconnect_min_ms=10, reconnect_max_ms=100)
IMPATIENT = TransportTiming(handshake_ms=600, idle_ms=1200, reconnect_min_ms=10, reconnect_max_ms=100)
WAIT_S = 20.0


async def until(condition: Callable[[], bool], what: str = "condition") -> None:
    """Wait until it holds; the bound is there to end a broken test, not to measure."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - conditions of any kind
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


class Station:
    """A transport with notes of everything it reported."""

    def __init__(
        self,
        node_id: int,
        *,
        cluster: bytes = CLUSTER,
        tls: TlsSettings | None = None,
        advertise: str | None = None,
        timing: TransportTiming = FAST,
        source_id: str = "test sqlite",
    ) -> None:
        self.id = NodeId(node_id)
        self.cluster = cluster
        self.source_id = source_id
        self.messages: list[tuple[NodeId, Message]] = []
        self.events: list[tuple[str, NodeId]] = []
        self.learned: list[tuple[NodeId, Address]] = []
        self.accepted: set[NodeId] | None = None
        self.transport = PeerTransport(
            identity=lambda: LocalIdentity(self.cluster, self.id, self.source_id, b"\x01" * 8),
            listen=Address("127.0.0.1:0"),
            advertise=None if advertise is None else Address(advertise),
            tls=tls,
            on_message=lambda sender, message: self.messages.append((sender, message)),
            on_connected=lambda peer: self.events.append(("connected", peer)),
            on_disconnected=lambda peer: self.events.append(("disconnected", peer)),
            on_learned=lambda peer, address: self.learned.append((peer, address)),
            accept_sender=lambda peer: self.accepted is None or peer in self.accepted,
            timing=timing,
            rng=random.Random(node_id),
        )

    @property
    def address(self) -> Address:
        return self.transport.bound_address

    def dial(self, *others: Station) -> None:
        self.transport.set_peers({other.id: other.address for other in others})

    async def reach(self, other: Station, address: Address | None = None) -> None:
        await self.reach_id(other.id, address or other.address)

    async def reach_id(self, node_id: NodeId, address: Address) -> None:
        self.transport.set_peers({node_id: address})
        await until(lambda: self.transport.is_connected(node_id), f"{self.id} connected to {node_id}")


@asynccontextmanager
async def stations(*made: Station) -> AsyncIterator[None]:
    """Started, and stopped at the end."""
    try:
        for station in made:
            await station.transport.start()
        yield
    finally:
        for station in made:
            await station.transport.stop()


class Relay:
    """A TCP relay: `change` may alter bytes towards the target; `hold()` stops the flow, `cut()` breaks it."""

    def __init__(self, target: Address, change: Callable[[bytes], bytes] = lambda data: data) -> None:
        self._target = target
        self._change = change
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = Address("")
        self.accepted = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address(f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def hold(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self._target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._writers |= {writer, far_writer}
            await asyncio.gather(
                self._pump(reader, far_writer, self._change),
                self._pump(far_reader, writer, lambda data: data),
            )
            self._writers -= {writer, far_writer}
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
    ) -> None:
        # uvloop raises RuntimeError for a transport that was aborted.
        with suppress(OSError, RuntimeError):
            while True:
                await self._flowing.wait()
                data = await reader.read(64 * 1024)
                await self._flowing.wait()
                if not data:
                    break
                writer.write(change(data))
                await writer.drain()
        writer.transport.abort()
