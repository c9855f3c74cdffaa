"""Load from threads: closed loop (each caller waits for its answer) and open loop (arrivals at a fixed rate).

In an open loop latency counts from the moment an arrival was due, so that time spent waiting for a free caller is not
left out (coordinated omission); arrivals that could not begin until GRACE_S after the window count with the time they
have waited by then.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import dqlite_py
from tests.benchmarks.measures import BUSY, Tally, Window, due_s
from tests.benchmarks.workloads import Operation

WARM_S = 0.3
GRACE_S = 1.0
JOIN_S = 60.0
BUSY_WORDS = ("busy", "locked")


def error_kind(error: BaseException) -> str:
    """BUSY for any way of saying so, else the class's name."""
    name = type(error).__name__
    text = f"{name} {error}".lower()
    return BUSY if any(word in text for word in BUSY_WORDS) else name


def note_error(tally: Tally, error: Exception, counts: bool) -> None:
    """Count it; a fault of the benchmark itself ends the run: its zero would stand beside the others' figures."""
    if isinstance(error, (dqlite_py.ProgrammingError, TypeError, NameError)):
        raise error
    if counts:
        tally.errors[error_kind(error)] += 1


def closed_loop(operation: Operation, window: Window, tally: Tally) -> None:
    clock = time.perf_counter
    start_s, end_s = window.start_s, window.end_s
    add = tally.ms.append
    began = clock()
    while began < end_s:
        try:
            operation()
        except Exception as error:  # noqa: BLE001  # counted by kind, and shown
            began = clock()
            note_error(tally, error, window.holds(began))
            continue
        ended = clock()
        if start_s <= ended < end_s:
            add((ended - began) * 1000)
        began = ended
    tally.done = len(tally.ms)


def open_loop(
    operation: Operation, window: Window, rate: float, numbers: Iterator[int], tally: Tally
) -> None:
    """Serve arrivals, taken from `numbers` (shared by all callers), until one is due at the window's end or later."""
    clock = time.perf_counter
    origin_s = window.start_s - WARM_S
    give_up_s = window.end_s + GRACE_S
    for number in numbers:
        due = due_s(origin_s, rate, number)
        if due >= window.end_s:
            return
        counts = window.holds(due)
        now = clock()
        if now >= give_up_s:
            if counts:
                tally.unserved += 1
                tally.ms.append((now - due) * 1000)
            continue
        if due > now:
            time.sleep(due - now)
        try:
            operation()
        except Exception as error:  # noqa: BLE001  # counted by kind, and shown
            note_error(tally, error, counts)
            continue
        ended = clock()
        if counts:
            tally.ms.append((ended - due) * 1000)
        tally.done += window.holds(ended)


def run_threads(
    make: Callable[[int], Operation],
    clients: int,
    seconds: float,
    rate: float | None = None,
    at_edges: Callable[[], None] | None = None,
    window: Window | None = None,
) -> tuple[Tally, Window]:
    """Run `clients` threads; `at_edges` is called at both ends of the window. Raises TimeoutError for a stuck one."""
    operations = [make(number) for number in range(clients)]
    window = window or window_after(clients, seconds)
    tallies = [Tally() for _ in operations]
    numbers = itertools.count()
    failures: list[BaseException] = []

    def work(operation: Operation, tally: Tally) -> None:
        try:
            wait_until(window.start_s - WARM_S)
            if rate is None:
                closed_loop(operation, window, tally)
            else:
                open_loop(operation, window, rate, numbers, tally)
        except BaseException as error:  # noqa: BLE001  # raised by the caller's thread
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=pair, daemon=True, name=f"client-{number}")
        for number, pair in enumerate(zip(operations, tallies, strict=True))
    ]
    for thread in threads:
        thread.start()
    for edge_s in (window.start_s, window.end_s):
        wait_until(edge_s)
        if at_edges is not None:
            at_edges()
    deadline_s = time.perf_counter() + JOIN_S
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.perf_counter()))
        if thread.is_alive():
            raise TimeoutError(f"a client was still waiting {JOIN_S:.0f} s after the end")
    if failures:
        raise failures[0]
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total, window


def window_after(clients: int, seconds: float) -> Window:
    """A window that begins when `clients` threads had time to start and to warm up."""
    start_s = time.perf_counter() + WARM_S + 0.05 + clients * 0.0005
    return Window(start_s, start_s + seconds)


def wait_until(moment_s: float) -> None:
    while (left_s := moment_s - time.perf_counter()) > 0:
        time.sleep(left_s)
