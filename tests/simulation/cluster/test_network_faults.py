"""The simulated network on a bad day: cuts, time-outs, refusals, resets, crashes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.cluster.network_world import PORT, A, B, C, Echo, World, worlds

world = pytest.fixture(worlds)


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


def test_reading_what_a_dead_connection_had_brought_leaves_no_trace(world: Callable[..., World]) -> None:
    w = world()
    dialled, served, _, _ = w.pair()
    served.transport.pause_reading()
    w.network.cut(B, A)
    dialled.transport.write(b"data")
    w.later(20)
    assert dialled.is_lost
    served.transport.resume_reading()
    w.later(20)
    assert served.data == b"data"
    assert not w.network.stalled


def test_the_window_opens_again_after_acknowledgements_were_lost(world: Callable[..., World]) -> None:
    w = world(window_bytes=10_000)
    dialled, served, _, _ = w.pair()
    sent = b""
    for number in range(3):
        w.network.cut(B, A)
        data = bytes([number]) * 25_000
        sent += data
        dialled.transport.write(data)
        w.later(5)
        assert len(served.data) == len(sent) - 15_000, "one window and no more"
        w.network.heal()
        w.later(5)
        assert served.data == sent
    assert not dialled.is_lost


def test_a_handshake_whose_last_packet_is_lost_leaves_nothing(world: Callable[..., World]) -> None:
    w = world(delay_s=(0.1, 0.1))
    a, b = w.live(A), w.live(B)
    server = w.serve(b)
    dialled = w.dial(a)
    w.network.cut(A, B)
    w.later(10)
    assert len(server.waiting) == 1
    w.later(10)
    assert isinstance(dialled.lost, TimeoutError)
    assert not server.waiting
    assert not w.network.host(B).sockets
    w.network.heal()
    w.later(10)
    assert not w.served


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
    b.life.end()
    served.transport.write(b"from the dead")
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
