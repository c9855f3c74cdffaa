"""node.tickets: the hand-over between user threads and the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dqlite_py.errors import NodeStopped, Outcome, OutcomeUnknown
from dqlite_py.node.tickets import Inbox, Ticket, unknown_after


def test_the_first_resolution_counts() -> None:
    ticket = Ticket()
    ticket.resolve(1, None)
    ticket.resolve(2, None)
    assert ticket.wait(1.0, lambda: unknown_after(1.0)) == 1


def test_a_timeout_abandons_and_is_of_unknown_outcome() -> None:
    ticket = Ticket()
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
