"""The same load from asyncio tasks, in a process of its own: for clients over the network."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

from tests.benchmarks.load import GRACE_S, WARM_S, error_kind
from tests.benchmarks.measures import Tally, Window, due_s
from tests.benchmarks.workloads import Operation


async def closed_loop(operation: Operation, window: Window, tally: Tally) -> None:
    clock = time.perf_counter
    began = clock()
    while began < window.end_s:
        try:
            await operation()
        except Exception as error:  # noqa: BLE001  # counted by kind, and shown
            began = clock()
            if window.holds(began):
                tally.errors[error_kind(error)] += 1
            await asyncio.sleep(0)
            continue
        ended = clock()
        if window.holds(ended):
            tally.ms.append((ended - began) * 1000)
            tally.done += 1
        began = ended


async def open_loop(
    operation: Operation, window: Window, rate: float, numbers: Iterator[int], tally: Tally
) -> None:
    """As load.open_loop."""
    clock = time.perf_counter
    for number in numbers:
        due = due_s(window.start_s - WARM_S, rate, number)
        if due >= window.end_s:
            return
        now, counts = clock(), window.holds(due)
        if now >= window.end_s + GRACE_S:
            if counts:
                tally.unserved += 1
                tally.ms.append((now - due) * 1000)
            continue
        if due > now:
            await asyncio.sleep(due - now)
        try:
            await operation()
        except Exception as error:  # noqa: BLE001  # counted by kind, and shown
            if counts:
                tally.errors[error_kind(error)] += 1
            continue
        ended = clock()
        if counts:
            tally.ms.append((ended - due) * 1000)
        tally.done += window.holds(ended)


async def run_tasks(
    operations: list[Operation], window: Window, rate: float | None, numbers: Iterator[int] | None = None
) -> Tally:
    """One task per operation, until all have ended."""
    arrivals = itertools.count() if numbers is None else numbers
    tallies = [Tally() for _ in operations]
    await asyncio.sleep(max(0.0, window.start_s - WARM_S - time.perf_counter()))
    async with asyncio.TaskGroup() as group:
        for operation, tally in zip(operations, tallies, strict=True):
            if rate is None:
                group.create_task(closed_loop(operation, window, tally))
            else:
                group.create_task(open_loop(operation, window, rate, arrivals, tally))
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total
