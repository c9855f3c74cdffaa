"""The product's transport, unmodified, on the simulated network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from dqlite_py.model import Address, Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.messages import AppendRequest, Message
from dqlite_py.raft.rpc import RpcContext, RpcLost, RpcNotSent
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import LocalIdentity
from tests.simulation.cluster.network_world import A, B, World, worlds
from tests.simulation.cluster.simloop import SimLoop

CLUSTER = b"cluster-of-tests"
TIMING = TransportTiming(reconnect_min_ms=10, reconnect_max_ms=100)
IPS = {1: A, 2: B}


def numbered(sender: int, number: int, size: int = 20) -> AppendRequest:
    content = number.to_bytes(4, "big") * (size // 4)
    entry = Entry(LogIndex(number), Term(5), EntryKind.COMMAND, content)
    return AppendRequest(
        NodeId(sender), Term(5), LogIndex(number - 1), Term(0), (entry,), LogIndex(0), number
    )


class Station:
    """One life of a transport, and what it reported."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.loop: SimLoop = world.live(IPS[number])
        self.messages: list[Message] = []
        self.events: list[str] = []
        self.transport: PeerTransport = world.run(self.loop, self._start())

    async def _start(self) -> PeerTransport:
        transport = PeerTransport(
            identity=lambda: LocalIdentity(CLUSTER, NodeId(self.number), "test sqlite", bytes(8)),
            listen=Address(f"{IPS[self.number]}:7000"),
            on_message=lambda _, message: self.messages.append(message),
            on_connected=lambda _: self.events.append("connected"),
            on_disconnected=lambda _: self.events.append("disconnected"),
            timing=TIMING,
            rng=random.Random(self.number),
        )
        transport.register("echo", self._echo)
        await transport.start()
        other = 3 - self.number
        transport.set_peers({NodeId(other): Address(f"{IPS[other]}:7000")})
        return transport

    async def _echo(self, _: RpcContext, body: Any) -> Any:
        return body

    def is_connected(self) -> bool:
        return self.transport.is_connected(NodeId(3 - self.number))

    def send(self, number: int, size: int = 20) -> bool:
        """On the loop, as the product does."""
        sent: list[bool] = []
        message = numbered(self.number, number, size)
        self.loop.call_soon(lambda: sent.append(self.transport.send(NodeId(3 - self.number), message)))
        self.world.later(0.00001)
        return bool(sent and sent[0])

    def call(self, body: Any, timeout_s: float = 5.0) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.loop.create_task(
            self.transport.call(NodeId(3 - self.number), "echo", body, timeout_s)
        )
        return task

    def numbers(self) -> list[int]:
        """Of the messages received, whose contents must be whole."""
        found = []
        for message in self.messages:
            assert isinstance(message, AppendRequest)
            (entry,) = message.entries
            number = int(entry.index)
            assert bytes(entry.payload) == number.to_bytes(4, "big") * (len(entry.payload) // 4)
            found.append(number)
        return found


world = pytest.fixture(worlds)


def test_messages_and_calls(world: Callable[..., World]) -> None:
    w = world(split=0.3)
    one, two = Station(w, 1), Station(w, 2)
    w.later(1)
    assert one.is_connected()
    assert two.is_connected()
    for number in range(1, 201):
        assert one.send(number)
        assert two.send(number)
    calls = [one.call(["body", number]) for number in range(50)]
    w.later(1)
    assert one.numbers() == two.numbers() == list(range(1, 201))
    assert [call.result() for call in calls] == [["body", number] for number in range(50)]
    w.run(one.loop, one.transport.stop())
    w.run(two.loop, two.transport.stop())
    w.later(1)
    assert not w.network.host(A).sockets
    assert not w.network.host(B).sockets
    assert not w.network.host(B).listening


def test_large_messages_pass_the_window_whole(world: Callable[..., World]) -> None:
    w = world(split=0.2)
    one, two = Station(w, 1), Station(w, 2)
    w.later(1)
    sent = [number for number in range(1, 6) if one.send(number, 1_000_000)]
    assert len(sent) >= 3
    w.later(5)
    assert two.numbers() == sent
    assert w.network.counts.segments > 16 * len(sent)


def test_a_cut_peer_is_given_up_and_found_again(world: Callable[..., World]) -> None:
    w = world()
    one, two = Station(w, 1), Station(w, 2)
    w.later(1)
    w.network.cut(A, B)
    w.later(8)
    assert not one.is_connected()
    assert not two.is_connected()
    failed = one.call("?", timeout_s=0.5)
    w.later(1)
    assert isinstance(failed.exception(), RpcNotSent)
    w.network.heal()
    w.later(3)
    assert one.is_connected()
    assert two.is_connected()
    assert one.send(1)
    answered = two.call("!")
    w.later(0.1)
    assert two.numbers() == [1]
    assert answered.result() == "!"


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "power lost"])
def test_a_new_life_is_found(world: Callable[..., World], silent: bool) -> None:
    w = world()
    one, two = Station(w, 1), Station(w, 2)
    w.later(1)
    w.crash(two.loop, silent=silent)
    w.later(0.5)
    assert one.is_connected() is silent
    w.later(8)
    assert not one.is_connected()
    reborn = Station(w, 2)
    w.later(2)
    assert one.is_connected()
    assert one.send(1)
    w.later(0.1)
    assert reborn.numbers() == [1]
    assert two.numbers() == []


def _storm(w: World, seed: int) -> tuple[Station, Station, list[asyncio.Task[Any]]]:
    """Messages both ways and calls while connections break; sent numbers only ever increase."""
    rng = random.Random(seed)
    one, two = Station(w, 1), Station(w, 2)
    calls: list[asyncio.Task[Any]] = []
    for number in range(1, 1001):
        one.send(number, rng.choice([4, 20, 400, 40_000]))
        two.send(number)
        if number % 10 == 0:
            calls.append(rng.choice([one, two]).call(number, 2.0))
        if number % 97 == 0:
            w.network.reset_connections(A)
        if number % 211 == 0:
            w.network.cut(*rng.sample([A, B], 2))
        elif rng.random() < 0.03:
            w.network.heal()
        if rng.random() < 0.01:
            two.loop.life.paused_until = w.now + rng.random()
        w.later(rng.random() * 0.02)
    w.network.heal()
    w.later(20)
    return one, two, calls


@pytest.mark.parametrize("seed", range(3))
def test_resets_lose_messages_but_alter_and_reorder_none(world: Callable[..., World], seed: int) -> None:
    w = world(seed, reset=0.005, late=0.005, split=0.1, refuse=0.1)
    one, two, calls = _storm(w, seed)
    for station in (one, two):
        numbers = station.numbers()
        assert numbers == sorted(set(numbers)), "reordered or repeated"
        assert 200 < len(numbers) < 1000
        assert station.events.count("disconnected") >= 5
        assert station.is_connected()
    answered = 0
    for position, call in enumerate(calls):
        error = call.exception()
        assert error is None or isinstance(error, RpcLost | RpcNotSent), error
        if error is None:
            answered += 1
            assert call.result() == 10 * (position + 1)
    assert answered > 30
    assert w.network.counts.resets > 10
    assert w.network.counts.held > 0


def test_the_same_seed_gives_the_same_traffic(world: Callable[..., World]) -> None:
    runs = []
    for network_seed in (4, 4, 5):
        w = world(network_seed, reset=0.005, late=0.005, split=0.1, refuse=0.1)
        one, two, _ = _storm(w, 9)
        runs.append((one.numbers(), two.numbers(), one.events, w.network.counts, w.now))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
