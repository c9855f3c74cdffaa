"""The simulated network on a bad day: cuts, resets, refusals, crashes; and the same seed, the same day."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.simulation.cluster.network_world import PORT, A, B, C, Echo, World
from tests.simulation.cluster.simloop import SimLoop


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*arguments: Any, **faults: Any) -> World:
        made.append(World(*arguments, **faults))
        return made[-1]

    yield make
    for each in made:
        each.end()


# -- cuts


def test_a_cut_holds_back_one_direction_only(world: Callable[..., World]) -> None:
    w = world(retransmit_s=(0.5, 0.5))
    dialled, served, _, _ = w.pair()
    w.network.cut(A, B)
    assert w.network.is_cut(A, B)
    assert not w.network.is_cut(B, A)
    dialled.transport.write(b"one")
    w.later(1)
    dialled.transport.write(b"two")
    served.transport.write(b"back")
    w.later(1)
    assert served.data == b""
    assert dialled.data == b"back"
    w.network.heal()
    w.later(0.4)
    dialled.transport.write(b"three")
    w.later(0.05)
    assert served.data == b""
    w.later(0.5)
    assert served.data == b"onetwothree"
    w.later(60)
    assert not served.is_lost
    assert not dialled.is_lost
    assert w.network.counts.timeouts == 0
    assert not w.network.stalled


def test_a_segment_under_way_is_caught_by_a_cut_in_order(world: Callable[..., World]) -> None:
    w = world(delay_s=(0.1, 0.1))
    dialled, served, _, _ = w.pair()
    dialled.transport.write(b"one")
    w.later(0.05)
    w.network.cut(A, B)
    dialled.transport.write(b"two")
    w.later(1)
    assert served.data == b""
    w.network.heal(A, B)
    w.later(3)
    assert served.data == b"onetwo"


@pytest.mark.parametrize("way", [(A, B), (B, A)], ids=["data lost", "acknowledgement lost"])
def test_what_is_not_acknowledged_ends_by_time_out(world: Callable[..., World], way: tuple[str, str]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    w.network.cut(*way)
    w.later(100)
    assert not dialled.is_lost, "an idle connection does not notice"
    dialled.transport.write(b"data")
    w.later(14)
    assert not dialled.is_lost
    w.later(1.1)
    assert isinstance(dialled.lost, TimeoutError)
    assert served.data == (b"" if way == (A, B) else b"data")
    assert not served.is_lost
    w.network.heal()
    served.transport.write(b"anyone?")
    w.later(3)
    assert isinstance(served.lost, ConnectionResetError)
    assert w.network.counts.timeouts == 1


def test_dialling_over_a_cut_path_hangs_until_healed(world: Callable[..., World]) -> None:
    for way in [(A, B), (B, A)]:
        w = world()
        a, b = w.live(A), w.live(B)
        w.serve(b)
        w.network.cut(*way)
        dialled = Echo(w, "dialled")
        task = a.create_task(a.create_connection(lambda made=dialled: made, B, PORT))
        w.later(2)
        assert not task.done()
        w.network.heal()
        w.later(5)
        assert task.done()
        assert dialled.notes == ["made"]
        assert len(w.served) == 1


def test_dialling_times_out(world: Callable[..., World]) -> None:
    w = world()
    a, _ = w.live(A), w.live(B)
    w.network.cut(A, B)
    with pytest.raises(TimeoutError):
        w.dial(a)
    assert w.now == pytest.approx(15, abs=0.1)


def test_a_cancelled_attempt_leaves_nothing(world: Callable[..., World]) -> None:
    for cancel_after in [0.0, 0.005, 0.015, 0.0200005, 0.025]:
        w = world(delay_s=(0.01, 0.01))
        a, b = w.live(A), w.live(B)
        server = w.serve(b)
        task = a.create_task(a.create_connection(lambda w=w: Echo(w, "dialled"), B, PORT))
        w.later(cancel_after)
        done_before = task.done()
        a.call_soon(task.cancel)
        w.later(1)
        assert task.cancelled() is not done_before
        if not done_before:
            assert not w.network.host(A).sockets
            assert not w.network.host(B).sockets
            assert not server.waiting
        w.dial(a)


# -- refusals, resets, crashes


def test_refused(world: Callable[..., World]) -> None:
    w = world()
    a, b = w.live(A), w.live(B)
    with pytest.raises(ConnectionRefusedError):
        w.dial(a)
    server = w.serve(b)
    assert server.is_serving()
    assert server.sockets[0].getsockname() == (B, PORT)
    w.dial(a)
    w.faults.refuse = 1.0
    with pytest.raises(ConnectionRefusedError):
        w.dial(a)
    w.faults.refuse = 0.0
    server.close()
    w.run(b, server.wait_closed())
    with pytest.raises(ConnectionRefusedError):
        w.dial(a)
    w.later(1)
    assert not any(each.is_lost for each in w.served)


def test_reset_loses_what_is_under_way_and_tells_both(world: Callable[..., World]) -> None:
    w = world(delay_s=(0.1, 0.1))
    dialled, served, a, _ = w.pair()
    c = w.live(C)
    w.serve(c)
    other = w.dial(a, C)
    dialled.transport.write(b"lost")
    assert w.network.reset_connections(A, B) == 1
    w.later(1)
    assert served.data == b""
    assert isinstance(dialled.lost, ConnectionResetError)
    assert isinstance(served.lost, ConnectionResetError)
    assert not other.is_lost
    assert w.network.reset_connections(A) == 1
    w.later(1)
    assert isinstance(other.lost, ConnectionResetError)


def test_random_resets_hit_both_ends(world: Callable[..., World]) -> None:
    w = world(reset=1.0)
    a, b = w.live(A), w.live(B)
    w.serve(b)
    w.faults.reset = 0.0
    dialled = w.dial(a)
    w.later(0.1)
    w.faults.reset = 1.0
    dialled.transport.write(b"x")
    w.later(0.1)
    assert isinstance(dialled.lost, ConnectionResetError)
    assert isinstance(w.served[0].lost, ConnectionResetError)
    assert w.network.counts.resets == 1


def test_data_for_a_closed_socket_is_answered_with_a_reset(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    served.keep_open = True
    dialled.transport.abort()
    w.later(0.1)
    assert served.notes[-1] == "eof"
    served.transport.write(b"too late")
    w.later(0.1)
    assert isinstance(served.lost, ConnectionResetError)


def test_closing_with_unread_bytes_resets(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    served.transport.pause_reading()
    dialled.transport.write(b"unread")
    w.later(0.1)
    served.transport.close()
    w.later(0.1)
    assert isinstance(dialled.lost, ConnectionResetError)


def test_a_killed_process_is_noticed_at_once(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, a, b = w.pair()
    served.transport.write(b"farewell")
    w.crash(b, silent=False)
    served.transport.write(b"from the dead")
    w.later(0.1)
    assert dialled.data == b"farewell"
    assert dialled.notes[-2:] == ["eof", "lost None"]
    assert served.notes == ["made"]
    with pytest.raises(ConnectionRefusedError):
        w.dial(a)
    w.serve(w.live(B))
    w.dial(a)


def test_power_loss_is_noticed_by_time_out(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, a, b = w.pair()
    w.crash(b, silent=True)
    w.later(100)
    assert not dialled.is_lost
    dialled.transport.write(b"hello?")
    w.later(14)
    assert not dialled.is_lost
    w.later(2)
    assert isinstance(dialled.lost, TimeoutError)
    assert served.notes == ["made"]
    with pytest.raises(TimeoutError):
        w.dial(a)


def test_power_loss_is_noticed_by_a_reset_when_the_machine_is_back(world: Callable[..., World]) -> None:
    w = world()
    dialled, _, _, b = w.pair()
    w.crash(b, silent=True)
    dialled.transport.write(b"hello?")
    w.later(5)
    w.serve(w.live(B))
    w.later(2)
    assert isinstance(dialled.lost, ConnectionResetError)


def test_what_a_powerless_machine_had_sent_may_arrive_but_is_not_repeated(
    world: Callable[..., World],
) -> None:
    w = world(delay_s=(0.1, 0.1), retransmit_s=(0.1, 0.1))
    dialled, served, _, b = w.pair()
    served.transport.write(b"arrives")
    w.later(0.01)
    w.crash(b, silent=True)
    w.later(1)
    assert dialled.data == b"arrives"

    w = world(delay_s=(0.1, 0.1), retransmit_s=(0.1, 0.1))
    dialled, served, _, b = w.pair()
    w.network.cut(B, A)
    served.transport.write(b"never")
    w.later(0.01)
    w.crash(b, silent=True)
    w.network.heal()
    w.network.cut(B, A)
    w.later(1)
    w.network.heal()
    w.later(5)
    assert dialled.data == b""


def test_a_new_life_without_a_crash_closes_what_the_old_one_left(world: Callable[..., World]) -> None:
    w = world()
    dialled, _, _, b = w.pair()
    b.life.end()
    w.live(B)
    w.later(0.1)
    assert dialled.is_lost


# -- storms


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
