"""A node's side of an extended connection: streams and their credit, and the end of either side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.errors import Error
from dqlite_py.node.programs import CallContext
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.rpc import pack_value, unpack_value
from tests.support.wire import until
from tests.unit.server.extended.program import call, opened

# -- streams ------------------------------------------------------------------------------------------------------


async def test_a_stream_waits_for_credit() -> None:
    async with opened() as (node, program):
        await program.send(call(1, "count", 4), call(2, "echo"))
        assert (await program.hear()).id == 2
        assert node.events == []
        await program.send(ext.Credit(1, 2), ext.Credit(99, 1))
        for number in range(2):
            assert await program.hear() == ext.Answer(1, ext.AnswerKind.MORE, pack_value(number))
        await program.send(call(3, "echo"))
        assert (await program.hear()).id == 3
        assert node.events == [0, 1]
        await program.send(ext.Credit(1, 2**64 - 1))
        for number in range(2, 4):
            assert await program.hear() == ext.Answer(1, ext.AnswerKind.MORE, pack_value(number))
        assert await program.answer() == "over"


async def test_pieces_stay_in_order_whatever_their_size() -> None:
    pieces = [bytes(5 * ext.FRAGMENT_BYTES), b"small", bytes(2 * ext.FRAGMENT_BYTES), b"end"]

    async def tell(context: CallContext, _body: Any) -> Any:
        for piece in pieces:
            await context.more(piece)
        return "over"

    async with opened() as (node, program):
        node.methods.add({"tell": tell}, ends_when_cancelled=True)
        await program.send(call(1, "tell"), ext.Credit(1, 4))
        found: list[Any] = []
        parts = b""
        while not found or found[-1] != "over":
            message = await program.hear()
            if isinstance(message, ext.Part):
                parts += message.piece
            else:
                found.append(unpack_value(parts + message.body))
                parts = b""
        assert found == [*pieces, "over"]


async def test_a_stream_is_cancelled_while_it_waits() -> None:
    async with opened() as (_, program):
        await program.send(call(1, "count", 4), ext.Cancel(1))
        with pytest.raises(Error, match="cancelled by the caller"):
            await program.answer()


# -- the end ------------------------------------------------------------------------------------------------------


async def test_what_runs_ends_with_the_connection() -> None:
    async with opened() as (node, program):
        await program.send(call(1, "wait", 1), call(2, "last", 2), call(3, "count", 1))
        await until(lambda: len(node.events) == 2)
        await program.close()
        await until(lambda: len(node.events) == 4)
        assert node.events[2:] == ["gone", ("cancelled", 1)]
        node.gate.set()
        await until(lambda: ("done", 2) in node.events)
        await until(lambda: node.server.held_bytes == 0)


async def test_a_node_that_stops_says_so() -> None:
    async with opened() as (node, program):
        await program.send(call(1, "wait", 1), call(2, "last", 2))
        await until(lambda: len(node.events) == 2)
        stopping = asyncio.create_task(node.station.transport.stop())
        for _ in range(2):
            with pytest.raises(Error, match="the node stopped"):
                await program.answer()
        assert await program.hear() is None
        await stopping


async def test_a_program_that_does_not_read_holds_no_node_up() -> None:
    async with opened() as (node, program):
        big = bytes(8 * 1024 * 1024)
        await program.send(call(0, "status", "x"))
        await program.answer()

        async def answer(_context: CallContext, _body: Any) -> Any:
            return big

        node.methods.add({"big": answer})
        await program.send(*(call(number, "big") for number in range(20)))
        other = await node.program()
        assert isinstance(await other.hear(), ext.Extended)
        await other.send(call(1, "echo", 1))
        assert await other.answer() == 1
        await other.close()
