"""A node's side of an extended connection, byte by byte: the opening, calls side by side, and bounds."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from dqlite_py.errors import Error
from dqlite_py.limits import RPC_RUNNING_MAX
from dqlite_py.node.programs import ProgramMethods
from dqlite_py.wire.dqlite import extension as ext
from dqlite_py.wire.dqlite.frames import Version, encode_handshake
from dqlite_py.wire.handshake import NO_CLUSTER
from dqlite_py.wire.rpc import pack_value, unpack_value
from tests.support.wire import CLUSTER, until
from tests.unit.server.extended.program import OPENING, call, opened, running

# -- the opening --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [CLUSTER, b""])
async def test_an_opening_is_answered(cluster: bytes) -> None:
    async with running() as node:
        program = await node.program(ext.encode_opening(cluster))
        assert await program.hear() == ext.Extended(1, 0, CLUSTER, 5)
        await program.close()
        await until(lambda: node.events == ["gone"])
        assert not node.server.connections


async def test_it_may_come_byte_by_byte() -> None:
    async with running() as node:
        program = await node.program(b"")
        for at in range(len(OPENING)):
            await program.send(OPENING[at : at + 1])
            await asyncio.sleep(0)
        await program.send(call(1, "echo", "x"))
        assert isinstance(await program.hear(), ext.Extended)
        assert await program.answer() == "x"
        await program.close()


REFUSED = [
    (ext.encode_opening(b"some-other-group"), ext.RefusalCode.WRONG_CLUSTER, "belongs to cluster"),
    (
        encode_handshake(Version.V1) + ext.encode_message(ext.Extend(2, 0, b"")),
        ext.RefusalCode.UNKNOWN_VERSION,
        "version 2",
    ),
    (encode_handshake(Version.V1) + ext.encode_message(ext.Extend(1, 0, b"odd")), 1001, "3 bytes"),
    (encode_handshake(Version.V1) + struct.pack("<IBBHQ", 1, 0xD0, 1, 0, 1), 1005, "schema"),
    (encode_handshake(Version.V1) + struct.pack("<IBBH", 0, 0xD0, 0, 0), 1005, "empty message"),
    (encode_handshake(Version.V1) + struct.pack("<IBBH", 2**31, 0xD0, 0, 0), 1005, "at most"),
]


@pytest.mark.parametrize(("opening", "code", "text"), REFUSED)
async def test_refused_openings(opening: bytes, code: int, text: str) -> None:
    async with running() as node:
        program = await node.program(opening)
        failure = await program.failure()
        assert failure.code == code
        assert text in failure.message
        assert node.server.refused_count == 1
        await program.close()


async def test_a_node_without_a_cluster() -> None:
    async with running(cluster=NO_CLUSTER) as node:
        program = await node.program(ext.encode_opening(b""))
        assert (await program.failure()).code == ext.RefusalCode.NO_CLUSTER
        await program.close()


async def test_a_full_node() -> None:
    async with opened() as (node, first):
        node.server.count_max = 1
        second = await node.program()
        assert (await second.failure()).code == ext.RefusalCode.FULL
        await first.send(call(1, "echo", 1))
        assert await first.answer() == 1
        await second.close()


async def test_who_does_not_finish_its_opening_is_closed() -> None:
    async with running(handshake_ms=100) as node:
        program = await node.program(OPENING[:-8])
        assert await program.hear() is None
        await program.close()


async def test_who_falls_silent_is_closed_and_who_pings_is_not() -> None:
    async with running(idle_ms=400) as node:
        silent, alive = await node.program(), await node.program()
        assert isinstance(await silent.hear(), ext.Extended)
        assert isinstance(await alive.hear(), ext.Extended)
        end = asyncio.create_task(silent.hear())
        number = 0
        while not end.done():
            number += 1
            await alive.send(ext.Ping(number))
            while (await alive.hear()).number != number:
                continue
            await asyncio.sleep(0.02)
        assert await end is None
        assert len(node.server.connections) == 1
        await silent.close()
        await alive.close()


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_answers_come_in_any_order() -> None:
    async with opened() as (node, program):
        await program.send(call(1, "wait", "slow"), call(2, "echo", "quick"))
        assert await program.hear() == ext.Answer(2, ext.AnswerKind.OK, pack_value("quick"))
        node.gate.set()
        assert await program.hear() == ext.Answer(1, ext.AnswerKind.OK, pack_value("slow"))


async def test_large_bodies_both_ways() -> None:
    async with opened() as (_, program):
        body = bytes(3 * ext.FRAGMENT_BYTES + 7)
        packed = pack_value(body)
        for at in range(0, len(packed) - ext.FRAGMENT_BYTES, ext.FRAGMENT_BYTES):
            await program.send(ext.Part(9, packed[at : at + ext.FRAGMENT_BYTES]))
        await program.send(ext.Call(9, "echo", packed[at + ext.FRAGMENT_BYTES :]))
        found = b""
        while isinstance(message := await program.hear(), ext.Part):
            found += message.piece
        assert unpack_value(found + message.body) == body


async def test_errors_travel() -> None:
    async with opened() as (_, program):
        await program.send(
            call(1, "fail"), call(2, "fail", 1), call(3, "nothing"), ext.Call(4, "echo", b"\xc1")
        )
        texts = []
        for _ in range(4):
            with pytest.raises(Error) as caught:
                await program.answer()
            texts.append((type(caught.value).__name__, caught.value.message[:20]))
        assert sorted(texts) == [
            ("MalformedMessage", "not valid msgpack: "),
            ("NotSupportedError", "this node has no met"),
            ("OperationalError", "cannot"),
            ("OutcomeUnknown", "fail failed; the nod"),
        ]


async def test_a_starting_node_says_so() -> None:
    async with running() as node:
        node.server.methods = ProgramMethods()
        program = await node.program()
        assert isinstance(await program.hear(), ext.Extended)
        await program.send(call(1, "echo"))
        with pytest.raises(Error, match="starting"):
            await program.answer()
        await program.close()


async def test_cancelling_a_call_ends_what_runs() -> None:
    async with opened() as (node, program):
        await program.send(call(1, "wait", 1), call(2, "last", 2))
        await until(lambda: len(node.events) == 2)
        await program.send(ext.Cancel(1), ext.Cancel(2), ext.Cancel(77))
        with pytest.raises(Error, match="cancelled by the caller"):
            await program.answer()
        assert ("cancelled", 1) in node.events
        node.gate.set()  # the other one is not to be ended in the middle
        assert await program.answer() == 2


async def test_cancelling_one_that_is_not_whole() -> None:
    async with opened() as (_, program):
        await program.send(ext.Part(3, bytes(ext.FRAGMENT_BYTES)), ext.Cancel(3), call(3, "echo", "new"))
        assert await program.answer() == "new"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([call(1, "wait"), call(1, "wait")], "the id 1 is at work"),
        ([call(1, "wait"), ext.Part(1, bytes(ext.FRAGMENT_BYTES))], "the id 1 is at work"),
        ([ext.Part(1, b"short")], "a piece of 5 bytes"),
        ([ext.Extend(1, 0, CLUSTER)], "EXTEND on an extended"),
        ([struct.pack("<IBBHQ", 1, 3, 0, 0, 1)], "request type 0x3"),
    ],
)
async def test_what_makes_no_sense_ends_the_connection(messages: list[Any], text: str) -> None:
    async with opened() as (node, program):
        await program.send(*messages)
        assert text in (await program.failure()).message
        await until(lambda: "gone" in node.events)
        assert not [event for event in node.events if event[0] == "done"]


async def test_calls_at_work_are_bounded() -> None:
    async with opened() as (node, program):
        await program.send(*(call(number, "wait", number) for number in range(RPC_RUNNING_MAX)))
        await program.send(call(RPC_RUNNING_MAX, "echo"))
        with pytest.raises(Error, match="are at work on this connection"):
            await program.answer()
        node.gate.set()
        for _ in range(RPC_RUNNING_MAX):
            await program.answer()
        await program.send(call(0, "echo", "again"))
        assert await program.answer() == "again"


async def test_bytes_at_work_are_bounded_over_all_connections() -> None:
    async with opened(held_bytes_max=1000) as (node, program):
        other = await node.program()
        assert isinstance(await other.hear(), ext.Extended)
        await program.send(call(1, "wait", bytes(2000)))
        await until(lambda: bool(node.events))
        await other.send(call(1, "echo"))
        with pytest.raises(Error, match="of all programs are at work"):
            await other.answer()
        node.gate.set()
        assert await program.answer() == bytes(2000)
        await other.send(call(2, "echo", 5))
        assert await other.answer() == 5
        assert node.server.held_bytes == 0
        await other.close()
