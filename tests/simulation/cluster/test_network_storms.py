"""Storms on the simulated network: streams lose their ends only; the same seed gives the same storm."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.simulation.cluster.network_world import PORT, A, B, C, Echo, World, worlds
from tests.simulation.cluster.simloop import SimLoop

world = pytest.fixture(worlds)


class Streams:
    """Three machines that dial, write, close, crash and lose paths, and what each connection said and heard."""

    def __init__(self, world: World, seed: int) -> None:
        self.w = world
        self.rng = random.Random(seed)
        self.loops = {ip: world.live(ip) for ip in (A, B, C)}
        for loop in self.loops.values():
            world.serve(loop)
        self.dialled: list[Echo] = []
        self.sent: dict[Echo, bytearray] = {}

    def open_ends(self) -> list[Echo]:
        ends = [*self.dialled, *self.w.served]
        return [end for end in ends if end.transport is not None and not end.transport.is_closing()]

    async def _dial(self, loop: SimLoop, ip: str, protocol: Echo) -> None:
        try:
            async with asyncio.timeout(3):
                await loop.create_connection(lambda: protocol, ip, PORT)
        except OSError as error:
            protocol.notes.append(type(error).__name__)

    def step(self) -> None:
        w, rng = self.w, self.rng
        one, other = rng.sample([A, B, C], 2)
        ends = self.open_ends()
        match rng.randrange(28):
            case 0:
                w.network.cut(one, other)
            case 1 | 2:
                w.network.heal()
            case 3:
                w.network.reset_connections(one, other)
            case 4 if rng.random() < 0.5:
                w.crash(self.loops[one], silent=rng.random() < 0.5)
                w.later(rng.random())
                self.loops[one] = w.live(one)
                w.serve(self.loops[one])
            case 5:
                self.loops[one].life.paused_until = w.now + rng.random()
            case 6 | 7 | 8:
                protocol = Echo(w, f"dialled {len(self.dialled)}")
                self.dialled.append(protocol)
                self.loops[one].create_task(self._dial(self.loops[one], other, protocol))
            case 9 if ends:
                rng.choice(ends).transport.close()
            case 10 if ends:
                rng.choice(ends).transport.pause_reading()
            case 11:
                for end in ends:
                    end.transport.resume_reading()
            case _:
                for end in ends:
                    data = rng.randbytes(rng.choice([10, 1000, 60_000]))
                    end.transport.write(data)
                    self.sent.setdefault(end, bytearray()).extend(data)

        w.later(rng.random() * 0.3)

    def calm(self) -> None:
        self.w.network.heal()
        for end in self.open_ends():
            end.transport.resume_reading()
        self.w.later(60)

    def pairs(self) -> list[tuple[Echo, Echo]]:
        """Both ends of each connection that was accepted."""
        by_name = {end.transport.get_extra_info("peername"): end for end in self.w.served}
        assert len(by_name) == len(self.w.served)
        return [
            (end, by_name[end.transport.get_extra_info("sockname")])
            for end in self.dialled
            if end.transport is not None and end.transport.get_extra_info("sockname") in by_name
        ]


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_loses_ends_of_streams_only(world: Callable[..., World], seed: int) -> None:
    w = world(seed, late=0.02, reset=0.001, refuse=0.1, split=0.1, timeout_s=2.0)
    streams = Streams(w, seed)
    for _ in range(400):
        streams.step()
    streams.calm()
    check_streams(streams)
    counts = w.network.counts
    assert min(counts.resets, counts.held, counts.recovered, counts.late, counts.splits, counts.timeouts) > 0


def check_streams(streams: Streams) -> None:
    """What holds when the storm is over."""
    w = streams.w
    for one, other in streams.pairs() + [pair[::-1] for pair in streams.pairs()]:
        sent = bytes(streams.sent.get(one, b""))
        assert sent.startswith(other.data), "altered, repeated or reordered"
        if _stands(one) and _stands(other):
            assert other.data == sent, "a stream that still stands has lost nothing"
            assert not one.is_paused, "the window never opened"
    assert not w.network.stalled
    w.faults.refuse = w.faults.reset = 0.0
    before = len(w.served)
    for ip, loop in streams.loops.items():
        (server,) = w.network.host(ip).listening.values()
        assert not server.waiting
        assert w.dial(loop, ip).notes == ["made"]
    w.later(3)
    assert [_stands(end) for end in w.served[before:]] == [True] * 3


def _stands(end: Echo) -> bool:
    return not end.transport.is_closing() and _alive(end)


def _alive(end: Echo) -> bool:
    return end.transport in end.world.network.host(end.transport.get_extra_info("sockname")[0]).sockets


def test_the_same_seed_gives_the_same_run(world: Callable[..., World]) -> None:
    traces = []
    for network_seed in (1, 1, 2):
        w = world(network_seed, late=0.02, reset=0.001, refuse=0.05, split=0.1)
        streams = Streams(w, 7)
        for _ in range(300):
            streams.step()
        traces.append((w.trace, w.network.counts))
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
    assert len(traces[0][0]) > 300
