"""The outbox of a connection: one write for all that is queued, nothing into a full socket."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from dqlite_py.limits import FRAME_FRAGMENT_BYTES, WRITE_BUFFER_BYTES_MAX
from dqlite_py.raft.outbox import Outbox
from dqlite_py.wire.frames import FrameDecoder, FrameType, OutgoingMessage
from dqlite_py.wire.sendqueue import Lane


class Socket:
    """Takes what is written; its buffer drains only when told to."""

    def __init__(self, outbox: Outbox) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0
        self.largest = 0
        self.closing = False
        self._high = 0
        self._outbox = outbox
        outbox.attach(cast(asyncio.Transport, self))

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.buffered += len(data)
        self.largest = max(self.largest, self.buffered)
        if self.buffered > self._high:
            self._outbox.pause()

    def drain(self) -> None:
        self.buffered = 0
        self._outbox.resume()

    def marks(self) -> list[bytes]:
        decoder = FrameDecoder()
        decoder.established()
        found = []
        for data in self.writes:
            decoder.feed(data)
            while (message := decoder.next_message()) is not None:
                found.append(bytes(message.body[:1]))
        return found


class Loop:
    def __init__(self) -> None:
        self.planned: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.planned.append(callback)

    def turn(self) -> None:
        planned, self.planned = self.planned, []
        for callback in planned:
            callback()


def outbox() -> tuple[Outbox, Socket, Loop]:
    loop = Loop()
    made = Outbox(cast(asyncio.AbstractEventLoop, loop))
    return made, Socket(made), loop


def message(mark: bytes, size: int = 100) -> OutgoingMessage:
    return OutgoingMessage(FrameType.RAFT, mark + bytes(size - 1))


def test_all_lanes_leave_in_one_write_control_first() -> None:
    box, socket, loop = outbox()
    for lane, mark in ((Lane.RPC, b"r"), (Lane.APPEND, b"a"), (Lane.CONTROL, b"c")):
        box.push(lane, message(mark))
    box.flush()
    assert len(socket.writes) == 1
    assert socket.marks() == [b"c", b"a", b"r"]
    assert box.size_bytes == 0
    assert box.lane_bytes == [0, 0, 0, 0]
    assert box.has_sent
    assert not loop.planned
    box.flush()
    assert len(socket.writes) == 1


def test_what_is_queued_in_one_turn_leaves_at_its_end() -> None:
    box, socket, loop = outbox()
    for mark in (b"1", b"2"):
        box.push(Lane.APPEND, message(mark))
        box.flush_soon()
    assert not socket.writes
    assert len(loop.planned) == 1
    loop.turn()
    assert len(socket.writes) == 1
    assert socket.marks() == [b"1", b"2"]


def test_a_full_socket_gets_nothing_until_it_has_drained() -> None:
    box, socket, loop = outbox()
    box.push(Lane.APPEND, message(b"L", 3 * FRAME_FRAGMENT_BYTES))
    box.flush()
    written = len(socket.writes)
    box.push(Lane.CONTROL, message(b"c"))
    box.flush()
    box.flush_soon()
    loop.turn()
    assert len(socket.writes) == written
    while box.size_bytes:
        socket.drain()
        loop.turn()
    assert socket.marks() == [b"c", b"L"]
    assert socket.largest <= WRITE_BUFFER_BYTES_MAX + FRAME_FRAGMENT_BYTES + 100


def test_a_buffer_that_is_not_paused_has_room_for_a_small_queue() -> None:
    box, socket, _ = outbox()
    for _ in range(200):
        box.push(Lane.APPEND, message(b"s", FRAME_FRAGMENT_BYTES // 2))
        box.flush()
    assert socket.largest <= WRITE_BUFFER_BYTES_MAX
    assert box.size_bytes > 0


def test_a_closing_socket_gets_nothing() -> None:
    box, socket, _ = outbox()
    socket.closing = True
    box.push(Lane.CONTROL, message(b"c"))
    box.flush()
    assert not socket.writes
    assert not box.has_sent


async def test_who_waits_for_space_is_woken_by_a_flush_and_by_the_end() -> None:
    box, _socket, _ = outbox()
    for end in (box.flush, box.clear):
        box.push(Lane.RPC, message(b"r"))
        waiting = asyncio.create_task(box.wait_space())
        await asyncio.sleep(0)
        assert not waiting.done()
        end()
        await waiting
