"""node.tickets and node.gates: the hand-over between user threads and the loop."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dqlite_py.errors import NodeStopped, Outcome, OutcomeUnknown
from dqlite_py.nativelib import IMPLEMENTATION
from dqlite_py.node import gates, tickets
from dqlite_py.node.tickets import Inbox, Ticket, Turns, unknown_after

GATES = [gates.LockGate, *([gates.FutexGate] if IMPLEMENTATION == "c" else [])]


@pytest.fixture(params=GATES, ids=lambda gate: gate.__name__)
def gate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gates, "Gate", request.param)
    return request.param


class ManualLoop:
    """Takes timers and calls; the test runs them."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.calls: list[Callable[[], None]] = []

    def call_later(self, _delay_s: float, function: Callable[[], None]) -> None:
        self.timers.append(function)

    def call_soon(self, function: Callable[[], None]) -> None:
        self.calls.append(function)

    call_soon_threadsafe = call_soon

    def run_timers(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


def is_awake(ticket: Ticket) -> bool:
    return bool(ticket.gate.wait(0.0, None))


# -- gates


def test_a_gate_opened_before_the_wait_lets_through(gate: Any) -> None:
    one = gate()
    one.open()
    assert one.wait(10.0, None)


def test_a_closed_gate_times_out(gate: Any) -> None:
    assert not gate().wait(0.001, None)


def test_a_wait_opens_the_other_gate_first(gate: Any) -> None:
    ours, other = gate(), gate()
    passed: list[bool] = []

    def answer() -> None:
        passed.append(other.wait(10.0, ours))

    thread = threading.Thread(target=answer)
    thread.start()
    ours_opened = ours.wait(10.0, other)
    thread.join()
    assert ours_opened
    assert passed == [True]


def test_a_signal_whose_handler_returns_does_not_end_the_wait(gate: Any) -> None:
    one = gate()
    handled: list[int] = []
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: handled.append(number))

    def disturb() -> None:
        while not handled:
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.001)
        one.open()

    thread = threading.Thread(target=disturb)
    try:
        thread.start()
        assert one.wait(10.0, None)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert handled


def test_a_signal_whose_handler_raises_ends_the_wait_and_loses_nobody(gate: Any) -> None:
    turns: Any = Turns(ManualLoop())  # type: ignore[arg-type]
    first, second, own = Ticket(turns), Ticket(turns), Ticket(turns)
    first.resolve(1, None)
    second.resolve(2, None)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.02, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            own.wait(10.0, lambda: unknown_after(10.0))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert own.abandoned
    assert is_awake(first)
    assert is_awake(second)


# -- turns


def test_answered_threads_are_woken_one_after_the_other() -> None:
    loop = ManualLoop()
    turns = Turns(loop)  # type: ignore[arg-type]
    answered = [Ticket(turns) for _ in range(3)]
    for ticket in answered:
        ticket.resolve(None, None)
    assert is_awake(answered[0])
    assert not is_awake(answered[1])
    assert turns.next_gate() is answered[1].gate
    assert turns.next_gate() is answered[2].gate
    assert turns.next_gate() is None


def test_the_last_of_them_tells_that_all_were_woken() -> None:
    told: list[bool] = []
    turns = Turns(ManualLoop(), lambda: told.append(True))  # type: ignore[arg-type]
    for ticket in [Ticket(turns) for _ in range(2)]:
        ticket.resolve(None, None)
    turns.next_gate()
    assert not told
    turns.next_gate()
    assert told


def test_who_gave_up_gets_no_turn() -> None:
    turns = Turns(ManualLoop())  # type: ignore[arg-type]
    first, gone, last = Ticket(turns), Ticket(turns), Ticket(turns)
    gone.abandoned = True
    for ticket in (first, gone, last):
        ticket.resolve(None, None)
    assert turns.next_gate() is last.gate


def test_a_thread_that_keeps_its_turn_holds_nobody_up() -> None:
    loop = ManualLoop()
    turns = Turns(loop)  # type: ignore[arg-type]
    answered = [Ticket(turns) for _ in range(8)]
    for ticket in answered:
        ticket.resolve(None, None)
    awake = [1]
    for _ in range(3):
        loop.run_timers()  # nobody passed on since: one more turn, then two, then four
        awake.append(sum(is_awake(ticket) for ticket in answered))
    assert awake == [1, 2, 4, 8]
    loop.run_timers()
    assert not loop.timers


def test_after_stalls_several_get_the_turn_at_once_until_all_goes_well_again() -> None:
    loop = ManualLoop()
    turns = Turns(loop)  # type: ignore[arg-type]

    def answer(count: int) -> int:
        answered = [Ticket(turns) for _ in range(count)]
        for ticket in answered:
            ticket.resolve(None, None)
        return sum(is_awake(ticket) for ticket in answered)

    assert answer(20) == 1
    while loop.timers:
        loop.run_timers()
    at_once = []
    for _ in range(8):
        at_once.append(answer(40))
        while turns.next_gate() is not None:  # they come back, and nobody has to be helped
            pass
    assert at_once[0] > 4
    assert sorted(at_once, reverse=True) == at_once
    assert at_once[-1] == 1


def test_turns_that_go_on_are_left_alone() -> None:
    loop = ManualLoop()
    turns = Turns(loop)  # type: ignore[arg-type]
    answered = [Ticket(turns) for _ in range(4)]
    for ticket in answered:
        ticket.resolve(None, None)
    turns.next_gate()
    loop.run_timers()
    assert not is_awake(answered[2])
    assert loop.timers


def test_the_calls_of_threads_that_kept_their_turn_are_run() -> None:
    loop = ManualLoop()
    inbox = Inbox(loop)  # type: ignore[arg-type]
    answered = [Ticket(inbox.turns) for _ in range(2)]
    for ticket in answered:
        ticket.resolve(None, None)
    ran: list[int] = []
    inbox.put(ran.append, 1)  # another thread is still to be woken: its call may come too
    assert not loop.calls
    while loop.timers:
        loop.run_timers()
    for call in loop.calls:
        call()
    assert ran == [1]


def test_a_call_is_not_held_back_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = ManualLoop()
    inbox = Inbox(loop)  # type: ignore[arg-type]
    for ticket in [Ticket(inbox.turns) for _ in range(2)]:
        ticket.resolve(None, None)
    inbox.put(lambda: None)
    assert not loop.calls
    monkeypatch.setattr(tickets, "GATHER_S", 0.0)
    monkeypatch.setattr(tickets, "GATHER_MORE_S", 0.0)
    inbox.put(lambda: None)
    assert loop.calls


def test_what_is_due_soon_runs_once_behind_the_calls() -> None:
    loop = ManualLoop()
    inbox = Inbox(loop)  # type: ignore[arg-type]
    ran: list[str] = []
    inbox.put(lambda: inbox.soon(lambda: ran.append("soon")))
    inbox.put(lambda: ran.append("call"))
    for call in loop.calls:
        call()
    assert ran == ["call", "soon"]


# -- tickets


@pytest.fixture
def turns() -> Turns:
    return Turns(ManualLoop())  # type: ignore[arg-type]


def test_the_first_resolution_counts(turns: Turns) -> None:
    ticket = Ticket(turns)
    ticket.resolve(1, None)
    ticket.resolve(2, None)
    assert ticket.wait(1.0, lambda: unknown_after(1.0)) == 1


def test_a_timeout_abandons_and_is_of_unknown_outcome(turns: Turns) -> None:
    ticket = Ticket(turns)
    with pytest.raises(OutcomeUnknown) as caught:
        ticket.wait(0.0, lambda: unknown_after(0.0))
    assert caught.value.outcome is Outcome.UNKNOWN
    assert ticket.abandoned
    ticket.resolve(1, None)  # the late answer harms nobody


async def test_calls_from_threads_run_in_order_and_none_after_close() -> None:
    loop = asyncio.get_running_loop()
    inbox, ran, done = Inbox(loop), [], asyncio.Event()

    def put_all() -> None:
        for number in range(100):
            inbox.put(ran.append, number)
        inbox.put(done.set)

    thread = threading.Thread(target=put_all)
    thread.start()
    await asyncio.wait_for(done.wait(), 10)
    thread.join()
    assert ran == list(range(100))
    inbox.close()
    with pytest.raises(NodeStopped):
        inbox.put(ran.append, -1)
