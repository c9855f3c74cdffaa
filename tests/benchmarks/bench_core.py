"""Processor time that one entry costs in the consensus core and in its host, without network, disk or SQL.

python -m tests.benchmarks.bench_core [asyncio|uvloop]

First three cores in one process, driven by hand; then RaftHost, as leader and as follower, on a real loop with a
transport and a journal thread that only note what they are given. Prints medians of microseconds per entry, and for
the host the Python functions called and the callbacks put on the loop per entry.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dqlite_py.model import Configuration, Entry, EntryKind, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.ports import SystemClock
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.log import LogStart
from dqlite_py.raft.messages import AppendReply, AppendRequest
from dqlite_py.raft.settings import RaftSettings
from tests.faults.ours import configuration
from tests.faults.ours_host import StateMachine

A, B, C = (member.id for member in configuration("ABC").members)
ENTRIES = 4_000
PAYLOAD = bytes(200)
NOW = 1_000_000.0


def new_core(node_id: NodeId, members: Configuration) -> RaftCore:
    return RaftCore(
        node_id=node_id,
        settings=RaftSettings(),
        random=random.Random(1),
        hard_state=HardState(Term(0), NodeId(0)),
        snapshot=Snapshot(LogIndex(0), Term(0), members),
        log=LogStart(),
        applied_index=LogIndex(0),
        now_ms=NOW,
    )


class Trio:
    """Three cores; A leads. `spent` sums nanoseconds by node."""

    def __init__(self) -> None:
        self.cores = {node: new_core(node, configuration("ABC")) for node in (A, B, C)}
        self.spent = dict.fromkeys(self.cores, 0)
        for core in self.cores.values():
            for peer in self.cores:
                core.peer_connected(peer, NOW)
        self.cores[A].campaign(NOW)
        self.settle()

    def settle(self) -> None:
        """Everything is durable, delivered and applied at once, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for node, core in self.cores.items():
                while fx := core.take_effects():
                    moved = True
                    self._perform(node, core, fx)

    def _perform(self, node: NodeId, core: RaftCore, fx: Any) -> None:
        if fx.token:
            core.persisted(fx.token)
        if fx.committed:
            core.applied(fx.committed[-1].index)
        for peer, message in [*fx.messages, *fx.messages_when_durable]:
            self.cores[peer].step(message, NOW)

    def write(self, count: int) -> None:
        """`count` proposals leave together; the way of a group of entries through leader and followers."""
        leader, followers = self.cores[A], {node: self.cores[node] for node in (B, C)}
        clock = time.perf_counter_ns
        start = clock()
        for _ in range(count):
            leader.propose(PAYLOAD, NOW)
        own = leader.take_effects()
        self.spent[A] += clock() - start
        replies = []
        for peer, request in own.messages:
            start = clock()
            follower = followers[peer]
            follower.step(request, NOW)
            fx = follower.take_effects()
            follower.persisted(fx.token)
            answer = follower.take_effects()
            committed = [*fx.committed, *answer.committed]
            if committed:
                follower.applied(committed[-1].index)
            self.spent[peer] += clock() - start
            replies += answer.messages
        start = clock()
        leader.persisted(own.token)
        assert not leader.take_effects()
        for _, reply in replies:
            leader.step(reply, NOW)
            for entry in leader.take_effects().committed:
                leader.applied(entry.index)
        self.spent[A] += clock() - start


def bench_cores(per_write: int) -> None:
    trio = Trio()
    samples: dict[NodeId, list[float]] = {A: [], B: []}
    for _ in range(ENTRIES // per_write):
        trio.spent = dict.fromkeys(trio.cores, 0)
        trio.write(per_write)
        for node in samples:
            samples[node].append(trio.spent[node] / per_write / 1000)
    assert trio.cores[A].commit_index == trio.cores[A].last_index > ENTRIES - per_write
    leader, follower = (statistics.median(samples[node]) for node in (A, B))
    print(f"cores, {per_write:2d} entries at once: leader {leader:6.1f} us/entry, follower {follower:6.1f}")


class NotedJournal:
    """In the place of JournalThread: `sync` makes everything durable."""

    def __init__(self) -> None:
        self._done: list[Callable[[BaseException | None], None]] = []

    def submit(self, batch: Any, done: Callable[[BaseException | None], None]) -> None:
        self._done.append(done)

    def sync(self) -> None:
        waiting, self._done = self._done, []
        for done in waiting:
            done(None)


class NotedTransport:
    """In the place of PeerTransport."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_all(self, messages: list[tuple[NodeId, Any]]) -> None:
        self.sent += messages


class CountingLoop:
    """The part of an event loop that a host uses; counts what is put on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.callbacks = 0

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        self.callbacks += 1
        return self._loop.call_soon(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any:
        self.callbacks += 1
        return self._loop.call_soon_threadsafe(callback, *args)


class Bench:
    """One RaftHost of node A and what surrounds it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.loop = CountingLoop(asyncio.get_running_loop())
        self.core = new_core(A, configuration("ABC"))
        self.journal = NotedJournal()
        self.wire = NotedTransport()
        self.machine = StateMachine()
        self.host = RaftHost(
            loop=self.loop,  # type: ignore[arg-type]
            core=self.core,
            journal=None,  # type: ignore[arg-type]
            journal_thread=self.journal,  # type: ignore[arg-type]
            transport=self.wire,  # type: ignore[arg-type]
            executor=executor,
            clock=SystemClock(),
            listener=self.machine,
            settings=RaftSettings(),
        )
        self.machine.host = self.host

    async def rest(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def lead(self) -> None:
        """Node A leads, with the votes of an equal number of made-up grants."""
        for peer in (B, C):
            self.host.peer_connected(peer)
        core = self.core
        core.campaign(SystemClock().monotonic_ms())
        core._campaign(pre=False)
        core.persisted(core.take_effects().token)
        core._count_vote(B)
        self.host.pump()
        await self.round_trip()
        assert core.is_leader
        assert core.commit_index == core.last_index

    async def round_trip(self) -> None:
        """Everything appended becomes durable here, then with each peer."""
        core, last = self.core, self.core.last_index
        self.wire.sent.clear()
        self.journal.sync()
        await asyncio.sleep(0)
        for peer in (B, C):
            reply = AppendReply(
                peer, core.term, False, LogIndex(0), last, last, core.term, core._round, False
            )
            self.host.receive(peer, reply)
            self.host.pump()

    async def write(self, count: int) -> None:
        def answered(_result: Any, error: Any) -> None:
            assert error is None

        for _ in range(count):
            self.host.propose(PAYLOAD, answered)
        self.host.pump()
        await self.round_trip()

    async def follow(self, count: int) -> None:
        """Node B leads: one message with `count` entries, durable and acknowledged."""
        last = self.core.last_index
        entries = tuple(
            Entry(LogIndex(last + 1 + n), Term(1), EntryKind.COMMAND, PAYLOAD) for n in range(count)
        )
        self.wire.sent.clear()
        request = AppendRequest(B, Term(1), last, Term(1 if last else 0), entries, last, 1)
        self.host.receive(B, request)
        self.host.pump()
        self.journal.sync()
        await asyncio.sleep(0)
        assert self.core.durable_index == last + count


async def measured(step: Callable[[int], Coroutine[Any, Any, None]], here: Bench, per_write: int) -> str:
    rounds = ENTRIES // per_write // 20
    samples = []
    gc.collect()
    for _ in range(20):
        here.machine.handed.clear()
        start = time.thread_time_ns()
        for _ in range(rounds):
            await step(per_write)
        samples.append((time.thread_time_ns() - start) / rounds / per_write / 1000)
    before = here.loop.callbacks
    calls = await counted(step, per_write) / 100 / per_write
    callbacks = (here.loop.callbacks - before) / 100 / per_write
    return f"{statistics.median(samples):6.1f} us/entry, {calls:5.1f} calls, {callbacks:4.1f} callbacks"


async def counted(step: Callable[[int], Coroutine[Any, Any, None]], per_write: int) -> int:
    """Calls of Python functions in a hundred steps, those of this module and of asyncio left out."""
    count = 0

    def note(frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        if event == "call" and "dqlite_py/" in frame.f_code.co_filename:
            count += 1

    sys.setprofile(note)
    try:
        for _ in range(100):
            await step(per_write)
    finally:
        sys.setprofile(None)
    return count


async def bench_hosts() -> None:
    with ThreadPoolExecutor(1) as executor:
        for per_write in (1, 16):
            leader = Bench(executor)
            await leader.lead()
            print(f"host, {per_write:2d} at once: leader   {await measured(leader.write, leader, per_write)}")
            follower = Bench(executor)
            print(
                f"host, {per_write:2d} at once: follower {await measured(follower.follow, follower, per_write)}"
            )


def main() -> None:
    for per_write in (1, 16):
        bench_cores(per_write)
    loop_kind = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
    if loop_kind == "uvloop":
        import uvloop

        uvloop.run(bench_hosts())
    else:
        asyncio.run(bench_hosts())


if __name__ == "__main__":
    main()
