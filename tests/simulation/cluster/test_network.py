"""The simulated network: TCP as its users see it, and the product's transport on it."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.simulation.cluster.life import Kernel, Life
from tests.simulation.cluster.network import NetworkFaults, SimNetwork
from tests.simulation.cluster.simloop import SimLoop

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PORT = 7000


class Echo(asyncio.Protocol):
    """Notes everything; sends back what it gets when told to."""

    def __init__(self, world: World, name: str, echo: bool = False) -> None:
        self.world = world
        self.name = name
        self.echo = echo
        self.chunks: list[bytes] = []
        self.notes: list[str] = []
        self.lost: Exception | None = None
        self.is_lost = self.is_paused = self.keep_open = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def _note(self, what: str) -> None:
        self.notes.append(what)
        self.world.trace.append((round(self.world.kernel.scheduler.now, 9), self.name, what))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not self.is_lost
        self.transport = cast(asyncio.Transport, transport)
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.is_lost
        self.chunks.append(bytes(data))
        self._note(f"data {len(data)} {data[:4]!r}")
        if self.echo:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.is_paused = True
        self._note("pause")

    def resume_writing(self) -> None:
        self.is_paused = False
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.is_lost
        self.is_lost, self.lost = True, exc
        self._note(f"lost {exc!r}")

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


class World:
    """A kernel, a network, and lives by address."""

    def __init__(self, seed: int = 1, **faults: Any) -> None:
        self.kernel = Kernel(random.Random(seed))
        self.faults = NetworkFaults(**faults)
        self.network = SimNetwork(self.kernel.scheduler, random.Random(seed), self.faults)
        self.lives: list[Life] = []
        self.served: list[Echo] = []
        self.trace: list[tuple[float, str, str]] = []

    def live(self, ip: str) -> SimLoop:
        life = Life(self.kernel, ip)
        self.lives.append(life)
        loop = SimLoop(life, self.network.host(ip))  # type: ignore[abstract]
        self.network.host(ip).attach(loop)
        return loop

    def crash(self, loop: SimLoop, *, silent: bool) -> None:
        loop.life.end()
        loop.host.crash(silent=silent)

    def run(self, loop: SimLoop, coroutine: Any, seconds: float = 60.0) -> Any:
        """The coroutine's result, in simulated time."""
        task: asyncio.Task[Any] = loop.create_task(coroutine)
        self.kernel.scheduler.run_until(self.now + seconds, task.done)
        assert task.done(), "did not end in time"
        return task.result()

    def later(self, seconds: float) -> None:
        self.kernel.run_for(seconds)

    @property
    def now(self) -> float:
        return self.kernel.scheduler.now

    def serve(self, loop: SimLoop, *, echo: bool = False, **options: Any) -> Any:
        def made() -> Echo:
            self.served.append(Echo(self, f"served {len(self.served)}", echo))
            return self.served[-1]

        return self.run(loop, loop.create_server(made, loop.host.ip, PORT, **options))

    def dial(self, loop: SimLoop, ip: str = B, seconds: float = 60.0) -> Echo:
        made = Echo(self, "dialled")
        self.run(loop, loop.create_connection(lambda: made, ip, PORT), seconds)
        return made

    def pair(self, *, echo: bool = False) -> tuple[Echo, Echo, SimLoop, SimLoop]:
        """Dialler on A, acceptor on B, connected."""
        a, b = self.live(A), self.live(B)
        self.serve(b, echo=echo)
        dialled = self.dial(a)
        self.later(1)
        return dialled, self.served[-1], a, b


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*arguments: Any, **faults: Any) -> World:
        made.append(World(*arguments, **faults))
        return made[-1]

    yield make
    for each in made:
        for life in each.lives:
            life.end()
    Kernel.current = None


def test_echo_names_and_close(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair(echo=True)
    peer = dialled.transport.get_extra_info("peername")
    own = dialled.transport.get_extra_info("sockname")
    assert peer == (B, PORT)
    assert own[0] == A
    assert served.transport.get_extra_info("peername") == own
    assert served.transport.get_extra_info("sockname") == peer
    assert dialled.transport.get_extra_info("socket").getpeername() == peer
    assert dialled.transport.get_extra_info("peercert") is None
    dialled.transport.writelines([b"hello ", bytearray(b"world"), memoryview(b"!")])
    w.later(0.1)
    assert dialled.data == served.data == b"hello world!"
    dialled.transport.write(b"last")
    dialled.transport.close()
    assert dialled.transport.is_closing()
    dialled.transport.write(b"never")
    w.later(0.1)
    assert served.data.endswith(b"last")
    assert served.notes[-2:] == ["eof", "lost None"]
    assert dialled.notes[-1] == "lost None"
    assert not w.network.host(A).sockets
    assert not w.network.host(B).sockets


def test_a_connection_takes_a_round_trip(world: Callable[..., World]) -> None:
    w = world(delay_s=(0.010, 0.010))
    a, b = w.live(A), w.live(B)
    w.serve(b)
    before = w.now
    w.dial(a)
    assert w.now - before == pytest.approx(0.020, abs=0.0005)
    assert not w.served
    w.later(0.0105)
    assert len(w.served) == 1


def test_writes_of_one_instant_are_one_delivery(world: Callable[..., World]) -> None:
    w = world(split=0.0)
    dialled, served, _, _ = w.pair()
    for _ in range(10):
        dialled.transport.write(b"x" * 10)
    w.later(0.1)
    assert [len(chunk) for chunk in served.chunks] == [100]


def test_split_late_segments_keep_their_order(world: Callable[..., World]) -> None:
    w = world(split=0.5, late=0.1, late_s=(0.01, 0.1), delay_s=(0.0, 0.01))
    dialled, served, _, _ = w.pair(echo=True)
    sent = b""
    rng = random.Random(5)
    for number in range(400):
        data = number.to_bytes(4, "big") * rng.randrange(1, 50)
        sent += data
        dialled.transport.write(data)
        w.later(rng.choice([0.0, 0.001, 0.02]))
    w.later(60)
    assert served.data == sent == dialled.data
    assert w.network.counts.splits > 50
    assert w.network.counts.late > 20


def test_what_is_written_is_copied(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    data = bytearray(b"before")
    dialled.transport.write(data)
    data[:] = b"after!"
    w.later(0.1)
    assert served.data == b"before"


def test_large_writes_take_time_and_arrive_whole(world: Callable[..., World]) -> None:
    w = world(bytes_per_s=10e6)
    dialled, served, _, _ = w.pair()
    data = random.Random(3).randbytes(5_000_000)
    dialled.transport.write(data)
    before = w.now
    assert dialled.is_paused
    while len(served.data) < len(data):
        w.later(0.01)
    assert 0.4 < w.now - before < 2.0
    assert served.data == data
    assert not dialled.is_paused
    assert dialled.transport.get_write_buffer_size() == 0


def test_half_close(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    served.keep_open = True
    dialled.transport.write(b"question")
    assert dialled.transport.can_write_eof()
    dialled.transport.write_eof()
    with pytest.raises(RuntimeError):
        dialled.transport.write(b"more")
    w.later(0.1)
    assert served.notes[-1] == "eof"
    served.transport.write(b"answer")
    served.transport.close()
    w.later(0.1)
    assert dialled.data == b"answer"
    assert dialled.lost is None
    assert dialled.is_lost
    assert served.is_lost


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


# -- flow control and pauses


def test_a_reader_that_pauses_makes_the_writer_pause(world: Callable[..., World]) -> None:
    w = world(window_bytes=100_000)
    dialled, served, _, _ = w.pair()
    dialled.transport.set_write_buffer_limits(high=50_000, low=1_000)
    served.transport.pause_reading()
    assert not served.transport.is_reading()
    data = random.Random(1).randbytes(200_000)
    for begin in range(0, 140_000, 20_000):
        dialled.transport.write(data[begin : begin + 20_000])
    assert dialled.transport.get_write_buffer_size() == 40_000
    assert not dialled.is_paused
    dialled.transport.write(data[140_000:])
    assert dialled.is_paused
    w.later(10)
    assert served.data == b""
    assert dialled.transport.get_write_buffer_size() == 100_000
    served.transport.resume_reading()
    w.later(1)
    assert served.data == data
    assert dialled.notes == ["made", "pause", "resume"]
    assert not dialled.is_lost


def test_a_paused_process_accepts_up_to_the_window(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, a, b = w.pair()
    b.life.paused_until = w.now + 20
    data = bytes(400_000)
    dialled.transport.write(data)
    other = w.dial(a)
    other.transport.write(b"hello")
    w.later(16)
    assert served.data == b""
    assert len(w.served) == 1
    assert dialled.transport.get_write_buffer_size() == 400_000 - w.faults.window_bytes
    w.later(5)
    assert served.data == data
    assert w.served[1].data == b"hello"
    assert not dialled.is_lost


def test_the_backlog_is_bounded(world: Callable[..., World]) -> None:
    w = world()
    a, b = w.live(A), w.live(B)
    server = w.serve(b, backlog=3)
    b.life.paused_until = w.now + 6
    tasks = [a.create_task(a.create_connection(lambda: Echo(w, "d"), B, PORT)) for _ in range(5)]
    w.later(5)
    assert sum(task.done() for task in tasks) == 3
    assert len(server.waiting) == 3
    w.later(3)  # asked again after 1, 3, 7 s
    assert all(task.done() for task in tasks)
    assert len(w.served) == 5


def test_connections_nobody_accepted_are_reset_with_the_listener(world: Callable[..., World]) -> None:
    w = world()
    a, b = w.live(A), w.live(B)
    server = w.serve(b)
    b.life.paused_until = w.now + 10
    dialled = w.dial(a)
    server.close()
    w.later(1)
    assert isinstance(dialled.lost, ConnectionResetError)


def test_a_closing_writer_hands_over_everything(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    data = random.Random(1).randbytes(1_000_000)
    dialled.transport.write(data)
    dialled.transport.close()
    assert not dialled.is_lost
    w.later(5)
    assert served.data == data
    assert dialled.is_lost


# -- addresses and options


def test_addresses(world: Callable[..., World]) -> None:
    w = world()
    a, b = w.live(A), w.live(B)
    found = w.run(a, a.getaddrinfo("10.0.0.9", 80, type=socket.SOCK_STREAM))
    assert [(entry[1], entry[4]) for entry in found] == [(socket.SOCK_STREAM, ("10.0.0.9", 80))]
    for name in ["localhost", "10.0.0.256", "::1"]:
        with pytest.raises(socket.gaierror, match="no IPv4 address"):
            w.run(a, a.getaddrinfo(name, 80))
    with pytest.raises(OSError, match="not an address of") as not_mine:
        w.run(a, a.create_server(lambda: Echo(w, "s"), B, PORT))
    assert not_mine.value.errno == errno.EADDRNOTAVAIL
    first = w.run(b, b.create_server(lambda: Echo(w, "s"), "0.0.0.0", 0, reuse_address=True))
    port = first.sockets[0].getsockname()[1]
    assert port > 0
    with pytest.raises(OSError, match="in use") as in_use:
        w.run(b, b.create_server(lambda: Echo(w, "s"), None, port))
    assert in_use.value.errno == errno.EADDRINUSE
    made = Echo(w, "itself")
    w.run(b, b.create_connection(lambda: made, "127.0.0.1", port))
    assert made.transport.get_extra_info("peername") == (B, port)
    with pytest.raises(ValueError, match="sock"):
        w.run(a, a.create_connection(lambda: made, sock=object()))


# -- determinism


def _storm(w: World, seed: int) -> list[tuple[float, str, str]]:
    rng = random.Random(seed)
    loops = {ip: w.live(ip) for ip in (A, B, C)}
    for loop in loops.values():
        w.serve(loop, echo=True)
    made: list[Echo] = []

    async def dial(loop: SimLoop, ip: str, protocol: Echo) -> None:
        try:
            async with asyncio.timeout(3):
                await loop.create_connection(lambda: protocol, ip, PORT)
        except OSError as error:
            w.trace.append((round(w.now, 9), loop.host.ip, f"{type(error).__name__}"))

    for _ in range(300):
        one, other = rng.sample([A, B, C], 2)
        match rng.randrange(12):
            case 0:
                w.network.cut(one, other)
            case 1 | 2:
                w.network.heal()
            case 3:
                w.network.reset_connections(one, other)
            case 4 if rng.random() < 0.5:
                w.crash(loops[one], silent=rng.random() < 0.5)
                w.later(rng.random())
                loops[one] = w.live(one)
                w.serve(loops[one], echo=True)
            case 5:
                loops[one].life.paused_until = w.now + rng.random()
            case 6 | 7:
                made.append(Echo(w, f"dialled {len(made)}"))
                loops[one].create_task(dial(loops[one], other, made[-1]))
            case _:
                for each in made:
                    if each.transport is not None and not each.is_lost:
                        each.transport.write(rng.randbytes(rng.randrange(1, 2000)))
        w.later(rng.random() * 0.3)
    return w.trace


def test_the_same_seed_gives_the_same_run(world: Callable[..., World]) -> None:
    traces = []
    for network_seed in (1, 1, 2):
        w = world(network_seed, late=0.02, reset=0.001, refuse=0.05, split=0.1)
        traces.append(_storm(w, 7))
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
    assert len(traces[0]) > 500
