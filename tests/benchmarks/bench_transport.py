"""Round trips and throughput of the transport between two processes on loopback; its processor time without a socket.

python -m tests.benchmarks.bench_transport [asyncio|uvloop] [tls]
python -m tests.benchmarks.bench_transport cpu
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Coroutine
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from dqlite_py.config import TlsSettings
from dqlite_py.limits import APPEND_BYTES_MAX, MIB
from dqlite_py.model import Address, Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.messages import AppendReply, AppendRequest
from tests.benchmarks import transport_cpu
from tests.support.wire import Station, stations

TLS = Path(__file__).parents[1] / "support" / "tls"
SECONDS = 3.0


def reply(sender: int, message: AppendRequest) -> AppendReply:
    last = LogIndex(message.prev_index + len(message.entries))
    return AppendReply(
        NodeId(sender),
        message.term,
        False,
        message.prev_index,
        last,
        last,
        message.term,
        message.round,
        False,
    )


def append(number: int, size: int) -> AppendRequest:
    entry = Entry(LogIndex(number), Term(1), EntryKind.COMMAND, bytes(size))
    return AppendRequest(
        NodeId(1), Term(1), LogIndex(number - 1), Term(1), (entry,), LogIndex(number - 1), number
    )


def station(node_id: int, tls: bool) -> Station:
    settings = TlsSettings(str(TLS / "node.pem"), str(TLS / "node.key"), str(TLS / "ca.pem")) if tls else None
    return Station(node_id, tls=settings, timing=TransportTiming())


async def follower(pipe: Pipe, tls: bool) -> None:
    """Answers every AppendRequest with a reply."""
    b = station(2, tls)

    async def echo(context: Any, body: Any) -> Any:
        return body

    def answer(sender: NodeId, message: Any) -> None:
        b.transport.send(sender, reply(2, message))

    b.transport.register("echo", echo)
    b.transport._on_message = answer
    async with stations(b):
        pipe.send(b.address)
        await b.reach_id(NodeId(1), Address(pipe.recv()))
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)


async def leader(pipe: Pipe, tls: bool) -> None:
    a = station(1, tls)
    address = Address(pipe.recv())
    async with stations(a):
        pipe.send(a.address)
        await a.reach_id(NodeId(2), address)
        await asyncio.to_thread(pipe.recv)
        for in_flight, size in ((1, 100), (16, 100), (64, 100), (8, APPEND_BYTES_MAX), (1, 60 * MIB)):
            await ping_pong(a, in_flight, size)
        for concurrency in (1, 64):
            await requests(a, concurrency)
        pipe.send("end")


async def ping_pong(a: Station, in_flight: int, size: int) -> None:
    """Keep `in_flight` appends under way; each reply sends the next."""
    sent_at: dict[int, float] = {}
    waits: list[float] = []
    done = asyncio.Event()
    end = time.perf_counter() + SECONDS
    number = 0

    def send_next() -> None:
        nonlocal number
        number += 1
        sent_at[number] = time.perf_counter()
        if not a.transport.send(NodeId(2), append(number, size)):
            raise RuntimeError("the queue is full")

    def received(sender: NodeId, message: Any) -> None:
        now = time.perf_counter()
        waits.append(now - sent_at.pop(message.round))
        if now < end:
            send_next()
        elif not sent_at:
            done.set()

    a.transport._on_message = received
    turns = Turns()
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in range(in_flight):
        send_next()
    await done.wait()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(
        f"append of {size:>9} bytes, {in_flight:>2} in flight: {len(waits) / took:>8.0f} round trips/s, "
        f"{len(waits) * size / took / 1e6:>6.0f} MB/s, median {statistics.median(waits) * 1e6:>7.0f} us, "
        f"cpu here {cpu / len(waits) * 1e6:>6.1f} us{turns.per(len(waits))}"
    )


class Turns:
    """Turns of the running loop since it was made; asyncio's own loop only, uvloop does not tell."""

    def __init__(self) -> None:
        self._count = 0
        selector = getattr(asyncio.get_running_loop(), "_selector", None)
        self._known = selector is not None
        if selector is not None:
            select = type(selector).select

            def counted(timeout: float | None = None) -> Any:
                self._count += 1
                return select(selector, timeout)

            selector.select = counted

    def per(self, operations: int) -> str:
        return f", {self._count / operations:.2f} turns of the loop" if self._known else ""


async def requests(a: Station, concurrency: int) -> None:
    end = time.perf_counter() + SECONDS
    count = 0

    async def ask() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await a.transport.call(NodeId(2), "echo", b"x" * 100, 5.0)
            count += 1

    turns = Turns()
    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask() for _ in range(concurrency)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    print(
        f"requests, {concurrency:>2} at once: {count / took:>8.0f} calls/s, "
        f"cpu here {cpu / count * 1e6:>6.1f} us{turns.per(count)}"
    )


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def child(pipe: Pipe, loop: str, tls: bool) -> None:
    run(follower(pipe, tls), loop)


def main() -> None:
    if "cpu" in sys.argv:
        asyncio.run(transport_cpu.main())
        return
    loop = "uvloop" if "uvloop" in sys.argv else "asyncio"
    tls = "tls" in sys.argv
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(theirs, loop, tls))
    process.start()
    try:
        run(leader(ours, tls), loop)
    finally:
        process.join(10)
        if process.is_alive():
            process.terminate()


if __name__ == "__main__":
    main()
