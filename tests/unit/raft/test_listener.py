"""What the listener does with connections at its edges."""

from __future__ import annotations

import asyncio
import gc
import socket

from dqlite_py.model import Address, NodeId
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.address import split_address
from dqlite_py.wire.handshake import LocalIdentity


def test_a_connection_accepted_at_the_stop_is_closed() -> None:
    """Whose accept() was in the very turn of the loop before; asyncio has told nobody of it yet."""

    async def run() -> None:
        transport = PeerTransport(
            identity=lambda: LocalIdentity(bytes(16), NodeId(1)),
            listen=Address("127.0.0.1:0"),
            on_message=lambda _sender, _message: None,
        )
        await transport.start()
        with socket.create_connection(split_address(transport.bound_address), 20) as client:
            listener = transport._listener
            await asyncio.sleep(0)  # here it is accepted, and what goes on with it comes after us
            await asyncio.sleep(0)
            await listener.stop()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            client.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 20) == b""
        await transport.stop()

    asyncio.run(run())
    gc.collect()  # a socket that nobody closed would warn
