"""Programs that hold a node's memory: each is bounded, alone and together, and harms no other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from dqlite_py.errors import Busy
from dqlite_py.node.programs import CallContext
from dqlite_py.server.extended import connection as connection_module
from dqlite_py.wire.dqlite import extension as ext
from tests.support.wire import until
from tests.unit.server.extended.program import Node, Program, call, opened

PIECE = bytes(ext.FRAGMENT_BYTES)
BIG = bytes(8 * 1024 * 1024)


async def big(_context: CallContext, _body: Any) -> Any:
    return BIG


async def another(node: Node) -> Program:
    program = await node.program()
    assert isinstance(await program.hear(), ext.Extended)
    return program


async def gone(node: Node, program: Program) -> None:
    """Return when the node has dropped the program, which goes on to say that it is there."""
    async with asyncio.timeout(20):
        while "gone" not in node.events:
            with contextlib.suppress(ConnectionError):
                await program.send(ext.Ping(1))
            await asyncio.sleep(0.005)


async def test_messages_in_pieces_are_bounded_together_and_hold_up_nobody() -> None:
    async with opened(held_bytes_max=2 * ext.FRAGMENT_BYTES) as (node, hoarder):
        await hoarder.send(ext.Part(1, PIECE), ext.Part(1, PIECE), call(2, "echo"))
        assert await hoarder.answer() is None
        other = await another(node)
        await other.send(call(1, "echo", 5))
        assert await other.answer() == 5
        await other.send(ext.Part(2, PIECE), ext.Part(2, PIECE), call(2, "echo"))
        with pytest.raises(Busy):
            await other.answer()
        assert node.server.pieces_bytes == 2 * ext.FRAGMENT_BYTES
        await hoarder.send(ext.Cancel(1), call(3, "echo"))
        assert await hoarder.answer() is None
        assert node.server.pieces_bytes == 0
        await other.close()


async def test_a_message_that_does_not_end_ends_the_connection() -> None:
    async with opened(stall_ms=50) as (node, program):
        await program.send(ext.Part(1, PIECE))
        await gone(node, program)
        assert node.server.pieces_bytes == 0


async def test_who_takes_no_answers_is_given_up() -> None:
    async with opened(stall_ms=50) as (node, program):
        node.methods.add({"big": big})
        await program.send(*(call(number, "big") for number in range(8)))
        await gone(node, program)
        assert node.server.unsent_bytes == 0


async def test_answers_that_are_not_taken_are_bounded_together() -> None:
    async with opened(held_bytes_max=2 * len(BIG)) as (node, program):
        node.methods.add({"big": big})
        await program.send(*(call(number, "big") for number in range(4)))
        await gone(node, program)
        assert node.server.unsent_bytes == 0


async def test_a_closed_connection_does_not_wait_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_LINGER_S", 0.05)
    async with opened() as (node, program):
        node.methods.add({"big": big})
        [connection] = node.server.connections
        await program.send(*(call(number, "big") for number in range(4)))
        await until(lambda: connection.stalled_since is not None)
        await program.send(ext.Part(9, b"short"))
        async with asyncio.timeout(20):
            await connection.lost.wait()
