"""The simulated network: TCP as its users see it on a good day."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable

import pytest

from tests.simulation.cluster.network_world import PORT, A, B, Echo, World, worlds

world = pytest.fixture(worlds)


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
