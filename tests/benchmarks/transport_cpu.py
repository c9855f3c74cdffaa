"""Processor time and Python calls of the transport's two directions, without a socket; see bench_transport.py.

Nearly independent of what else the machine does: thread time, the median of several rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from dqlite_py.model import Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.messages import AppendReply, AppendRequest, Message
from dqlite_py.wire.frames import FrameType, encode_frames
from dqlite_py.wire.peer import encode_message
from tests.support.wire import Station, stations, until

ROUNDS = 9
LOOPS = 2000
COUNTED = 100
IDS = (2**62 - 3, 2**61 - 5, 2**60 - 7)  # as large as those of real nodes


class Sink:
    """In the place of a socket's transport."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def measure(name: str, action: Callable[[int], object]) -> None:
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for number in range(LOOPS):
            action(number)
        rounds.append((time.thread_time() - began) / LOOPS * 1e6)
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    for number in range(COUNTED):
        action(number)
    sys.setprofile(None)
    print(f"{statistics.median(rounds):8.2f} us {calls / COUNTED - 1:6.1f} Python calls  {name}")


def request(sender: NodeId, number: int, count: int, size: int) -> AppendRequest:
    entries = tuple(
        Entry(LogIndex(number + n), Term(5), EntryKind.COMMAND, bytes(size)) for n in range(count)
    )
    before = LogIndex(number - 1)
    return AppendRequest(sender, Term(5), before, Term(5), entries, before, number)


def reply(sender: NodeId, number: int) -> AppendReply:
    last = LogIndex(100_000 + number)
    return AppendReply(sender, Term(5), False, LogIndex(0), last, last, Term(5), number, False)


def frames(messages: Sequence[Message]) -> list[bytes]:
    return [encode_frames(FrameType.RAFT, encode_message(message)) for message in messages]


async def main() -> None:
    a, b, c = (Station(number) for number in IDS)
    async with stations(a, b, c):
        a.dial(b, c)
        b.dial(a)
        await until(
            lambda: all(map(a.transport.is_connected, (b.id, c.id))) and b.transport.is_connected(a.id)
        )
        heard = a.transport._incoming_peers[b.id]
        outboxes = [connection.outbox for connection in a.transport._connections if connection.dialled]
        kept = [outbox.transport for outbox in outboxes]
        for outbox in outboxes:
            outbox.transport = cast(asyncio.Transport, Sink())
        _send(a, b.id, c.id)
        _receive(a, b.id, heard.data_received)
        for outbox, transport in zip(outboxes, kept, strict=True):
            outbox.transport = transport


def _send(a: Station, *peers: NodeId) -> None:
    send_all = a.transport.send_all

    def sending(messages: Sequence[Message], peers: Sequence[NodeId]) -> Callable[[int], object]:
        return lambda n: send_all([(peer, messages[n % len(messages)]) for peer in peers])

    for count, size in ((1, 150), (1, 3000), (64, 100), (0, 0)):
        messages = [request(a.id, number, count, size) for number in range(1, 501)]
        measure(f"leader sends {count} entries of {size} bytes to 2 peers", sending(messages, peers))
    replies = [reply(a.id, number) for number in range(1, 501)]
    measure("follower sends an acknowledgement", sending(replies, peers[:1]))


def _receive(a: Station, peer: NodeId, data_received: Callable[[bytes], None]) -> None:
    a.transport._on_message = lambda sender, message: None

    def receiving(chunks: Sequence[bytes]) -> Callable[[int], object]:
        return lambda n: data_received(chunks[n % len(chunks)])

    replies = frames([reply(peer, number) for number in range(1, 501)])
    measure("leader receives an acknowledgement", receiving(replies))
    measure("leader receives 4 in one chunk", receiving([b"".join(replies[n : n + 4]) for n in range(496)]))
    for count, size in ((1, 150), (1, 3000), (64, 100), (0, 0)):
        chunks = frames([request(peer, number, count, size) for number in range(1, 501)])
        measure(f"follower receives {count} entries of {size} bytes", receiving(chunks))
