"""A dial that ends in the very moment in which its socket is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dqlite_py.model import Address, NodeId
from dqlite_py.node.loops import loop_factory
from dqlite_py.raft.connection import Purpose
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import LocalIdentity


def transport() -> PeerTransport:
    return PeerTransport(
        identity=lambda: LocalIdentity(bytes(16), NodeId(1)),
        listen=Address("127.0.0.1:0"),
        on_message=lambda _sender, _message: None,
    )


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, loop_factory()], ids=["asyncio", "node's"])
def test_a_dial_cancelled_before_its_socket_was_announced_says_nothing_on_it(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """uvloop closes such a socket without telling its protocol, which still had its HELLO to send."""
    failures: list[dict[str, Any]] = []

    async def run() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        ours, theirs = transport(), transport()
        await ours.start()
        await theirs.start()
        create = loop.create_connection

        async def created(protocol: Callable[[], Any], *where: Any) -> Any:
            def made() -> Any:
                loop.call_soon(dial.cancel)
                return protocol()

            return await create(made, *where)

        loop.create_connection = created
        dial = asyncio.ensure_future(ours._dialer.dial(theirs.bound_address, Purpose.CLIENT))
        with pytest.raises(asyncio.CancelledError):
            await dial
        for _ in range(5):
            await asyncio.sleep(0)
        await ours.stop()
        await theirs.stop()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
    assert not failures
