"""RF-10: stock decides which chunk of a big entry is the last by the wrong length, so some sizes near a
multiple of 64 KiB raise on the follower. Ours frames carry the length and a CRC; every size comes out
as it went in."""

from __future__ import annotations

import pickle
import random
import struct

import pytest

from dqlite_py.limits import FRAME_FRAGMENT_BYTES
from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.messages import AppendRequest
from dqlite_py.wire.frames import FrameDecoder, Received
from dqlite_py.wire.peer import MessageEncoder, decode_message
from tests.faults.stock import StockWorld
from tests.support.wire import Station, stations, until

pytestmark = pytest.mark.rf("RF-10")

BOUNDARY = 2 * 64 * 1024
UNPICKLING = (EOFError, IndexError, ValueError, struct.error, pickle.UnpicklingError)  # of a cut entry


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    wedged = []
    for size in range(BOUNDARY - 80, BOUNDARY + 8, 4):
        stock_world.reset()
        a = stock_world.start("AB")[0]
        stock_world.elect("A")
        a._applyCommand(b"x" * size, None, 1)  # 1: a no-op, its content does not matter
        a.doTick(0)
        try:
            stock_world.pump()
        except UNPICKLING:
            wedged.append(size)
    assert wedged
    assert all(BOUNDARY - 60 < size < BOUNDARY for size in wedged)


def request_of(payload: bytes) -> AppendRequest:
    entry = Entry(LogIndex(8), Term(2), EntryKind.COMMAND, payload)
    return AppendRequest(NodeId(1), Term(2), LogIndex(7), Term(1), (entry,), LogIndex(7), 3)


def received(data: bytes, chunk: int) -> list[Received]:
    """What arrives when the stream is read in pieces of `chunk` bytes."""
    decoder = FrameDecoder()
    decoder.established()
    messages = []
    for start in range(0, len(data), chunk):
        decoder.feed(data[start : start + chunk])
        while (message := decoder.next_message()) is not None:
            messages.append(message)
    assert decoder.pending_bytes == 0
    return messages


@pytest.mark.parametrize("fragments", [1, 2, 3])
@pytest.mark.parametrize("boundary", [64 * 1024, FRAME_FRAGMENT_BYTES])
def test_ours_is_closed(boundary: int, fragments: int) -> None:
    """Every size of entry around every boundary comes out as it went in."""
    noise = random.Random(10).randbytes(fragments * boundary + 100)
    for size in range(fragments * boundary - 90, fragments * boundary + 10):
        request = request_of(noise[:size])
        message = MessageEncoder().encode(request)
        stream = b"".join(bytes(part) for n in range(message.frame_count) for part in message.frame(n))
        (arrived,) = received(stream, chunk=70_001)
        assert decode_message(arrived.body) == request


async def test_ours_carries_big_entries_over_sockets() -> None:
    one, two = Station(1), Station(2)
    async with stations(one, two):
        await one.reach(two)
        noise = random.Random(10).randbytes(3 * FRAME_FRAGMENT_BYTES)
        sizes = [
            boundary + offset
            for boundary in (128 * 1024, FRAME_FRAGMENT_BYTES, 2 * FRAME_FRAGMENT_BYTES)
            for offset in range(-60, 20, 20)
        ]
        for size in sizes:
            assert one.transport.send(NodeId(2), request_of(noise[:size]))
        await until(lambda: len(two.messages) == len(sizes), "all entries arrived")
        assert [len(message.entries[0].payload) for _, message in two.messages] == sizes
