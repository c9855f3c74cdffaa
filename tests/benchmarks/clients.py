"""Client processes: started with an address and a workload, they connect, wait for the window, and send back tallies.

Processes, not threads of the driver, so that the clients' own work does not share the nodes' interpreter; at most one
per two cores, since they share the machine with the nodes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from tests.benchmarks import load
from tests.benchmarks.children import die_with_parent, leave_interrupts_to_the_parent
from tests.benchmarks.measures import Tally, Window

CONNECT_S = 60.0
ANSWER_S = 60.0


def processes_for(clients: int) -> int:
    return max(1, min(clients, len(os.sched_getaffinity(0)) // 2))


def shares(clients: int, processes: int) -> list[int]:
    """As even as it goes."""
    return [clients // processes + (number < clients % processes) for number in range(processes)]


def run_processes(
    work: Callable[..., Tally],
    arguments: dict[str, Any],
    clients: int,
    seconds: float,
    rate: float | None,
    at_edge: Callable[[], None],
) -> tuple[Tally, Window]:
    """Call `work(clients=, wait=, rate=, first=, **arguments)` in each process; merge what they saw.

    `work` connects, then calls `wait()`, which returns the window that is common to all processes.
    """
    context = multiprocessing.get_context("spawn")
    running, first = [], 0
    try:
        for share in shares(clients, processes_for(clients)):
            pipe, child = context.Pipe()
            named = {**arguments, "clients": share, "first": first}
            named["rate"] = None if rate is None else rate * share / clients
            process = context.Process(target=_run, args=(child, os.getpid(), work, named))
            process.start()
            child.close()
            running.append((process, pipe))
            first += share
        for process, pipe in running:
            _receive(process, pipe, CONNECT_S)
        window = load.window_after(clients, seconds)
        for _process, pipe in running:
            pipe.send(window)
        for edge_s in (window.start_s, window.end_s):
            load.wait_until(edge_s)
            at_edge()
        total = Tally()
        for process, pipe in running:
            total.merge(Tally.unpacked(_receive(process, pipe, ANSWER_S)))
        return total, window
    finally:
        for process, pipe in running:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            pipe.close()


def _receive(process: Any, pipe: Any, timeout_s: float) -> Any:
    """What a client process sends next; TimeoutError, or RuntimeError when it failed."""
    if not pipe.poll(timeout_s):
        raise TimeoutError(f"a client process said nothing for {timeout_s:.0f} s")
    try:
        is_good, value = pipe.recv()
    except EOFError:
        process.join(1)
        raise RuntimeError(f"a client process ended, exit code {process.exitcode}") from None
    if not is_good:
        raise RuntimeError(f"a client process failed: {value}")
    return value


def _run(pipe: Any, parent: int, work: Callable[..., Tally], named: dict[str, Any]) -> None:
    die_with_parent(parent)
    leave_interrupts_to_the_parent()

    def wait() -> Window:
        pipe.send((True, None))
        window: Window = pipe.recv()
        return window

    try:
        answer: Any = (True, work(wait=wait, **named).packed())
    except Exception as error:  # noqa: BLE001  # told to the parent
        answer = (False, f"{type(error).__name__}: {error}")
    pipe.send(answer)
