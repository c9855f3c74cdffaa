"""Requests and raft messages while a relay cuts, holds and damages connections at random; seeds replay the faults."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from dqlite_py.limits import FRAME_FRAGMENT_BYTES
from dqlite_py.model import Address, Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.messages import AppendRequest
from dqlite_py.raft.rpc import RpcContext, RpcLost, RpcNotSent
from tests.support.wire import WAIT_S, Relay, Station, stations, until

SIZES = [0, 50, 5_000, FRAME_FRAGMENT_BYTES, 3 * FRAME_FRAGMENT_BYTES]


class Weather:
    """Faults of a relay, in the order that the seed gives."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.clear = False

    def change(self, data: bytes) -> bytes:
        if self.clear or self._rng.random() > 0.01:
            return data
        damaged = bytearray(data)
        damaged[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(damaged)

    async def blow(self, relay: Relay) -> None:
        while not self.clear:
            await asyncio.sleep(self._rng.uniform(0.005, 0.06))
            fault = self._rng.choice(["cut", "hold", "hold and cut"])
            if "hold" in fault:
                relay.hold()
                await asyncio.sleep(self._rng.uniform(0, 0.05))
            if "cut" in fault:
                relay.cut()
            relay.flow()


def pattern(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


@pytest.mark.rf("RF-13")
@pytest.mark.parametrize("seed", range(3))
async def test_what_a_failed_request_says_is_true(seed: int) -> None:
    rng = random.Random(seed)
    a, b = Station(1), Station(2)
    executed: Counter[int] = Counter()
    held: list[asyncio.Event] = []

    async def work(context: RpcContext, body: Any) -> Any:
        number, data = body
        assert data == pattern(number, len(data))
        executed[number] += 1
        await asyncio.sleep(rng.choice([0, 0, 0.01]))
        for waits in held:
            await waits.wait()
        return [number, data]

    async def ask(
        number: int, relay: Relay, target: Address | NodeId | None = None, timeout_s: float | None = None
    ) -> str:
        data = pattern(number, rng.choice(SIZES))
        target = target or rng.choice([b.id, relay.address])
        timeout_s = timeout_s or rng.choice([0.05, 2.0])
        try:
            answer = await a.transport.call(target, "work", [number, data], timeout_s)
        except RpcNotSent:
            return "not sent"
        except RpcLost:
            return "lost"
        assert answer == [number, data]
        return "done"

    async def one_of_each(relay: Relay) -> list[str]:
        """What the weather may not have brought: a connection lost under a running request, and none to be had."""
        waits = asyncio.Event()
        async with Relay(b.address) as own:
            done = await ask(400, relay, own.address, timeout_s=WAIT_S)
            held.append(waits)
            under_way = asyncio.ensure_future(ask(401, relay, own.address, timeout_s=WAIT_S))
            await until(lambda: executed[401] == 1)
            own.cut()
            lost = await under_way
            waits.set()
            nobody = own.address
        return [done, lost, await ask(402, relay, nobody, timeout_s=0.1)]

    async with stations(a, b):
        b.transport.register("work", work)
        weather = Weather(rng)
        async with Relay(b.address, weather.change) as relay:
            a.transport.set_peers({b.id: relay.address})
            blowing = asyncio.ensure_future(weather.blow(relay))
            outcomes: dict[int, str] = {}

            async def worker(first: int) -> None:
                for number in range(first, 400, 8):
                    outcomes[number] = await ask(number, relay)

            async with asyncio.timeout(3 * WAIT_S):
                await asyncio.gather(*(worker(first) for first in range(8)))
            weather.clear = True
            await blowing
            async with asyncio.timeout(WAIT_S):
                made = await one_of_each(relay)
            assert made == ["done", "lost", "not sent"]
            outcomes |= {400 + i: outcome for i, outcome in enumerate(made)}
            await until(lambda: b.transport._server.running_count == 0)
        assert set(outcomes.values()) == {"done", "lost", "not sent"}
        for number, outcome in outcomes.items():
            times = executed[number]
            assert times <= 1, f"request {number} was executed {times} times"
            assert outcome != "not sent" or times == 0, f"request {number}"
            assert outcome != "done" or times == 1, f"request {number}"


@pytest.mark.parametrize("seed", range(3))
async def test_raft_messages_are_lost_at_worst(seed: int) -> None:
    rng = random.Random(seed)
    a, b = Station(1), Station(2)
    sent: dict[int, AppendRequest] = {}
    async with stations(a, b):
        weather = Weather(rng)
        async with Relay(b.address, weather.change) as relay:
            a.transport.set_peers({b.id: relay.address})
            blowing = asyncio.ensure_future(weather.blow(relay))
            for number in range(1, 600):
                payload = pattern(number, rng.choice(SIZES))
                entries = (Entry(LogIndex(number), Term(1), EntryKind.COMMAND, payload),) if payload else ()
                message = AppendRequest(
                    NodeId(1), Term(1), LogIndex(number - 1), Term(1), entries, LogIndex(0), number
                )
                if a.transport.send(b.id, message):
                    sent[number] = message
                await asyncio.sleep(rng.choice([0, 0.004]))
            weather.clear = True
            await blowing
            last = AppendRequest(NodeId(1), Term(1), LogIndex(0), Term(0), (), LogIndex(0), 10_000)
            sent[last.round] = last

            def last_came() -> bool:
                """Sent until then: the connection may be broken already, without its sender knowing."""
                if b.messages and b.messages[-1][1] == last:
                    return True
                a.transport.send(b.id, last)
                return False

            await until(last_came)
        received = [message for _, message in b.messages if isinstance(message, AppendRequest)]
        assert len(received) > 20
        assert all(message == sent[message.round] for message in received)
        with_entries = [message.round for message in received if message.entries]
        assert with_entries == sorted(set(with_entries)), "entries stay in order, across connections too"
