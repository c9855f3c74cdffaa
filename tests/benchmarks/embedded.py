"""The leader inside this process and two follower processes, for a quick look at writes from a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dqlite_py
from dqlite_py.cli.demo.processes import NodeProcess, free_addresses

VALUE = "x" * 100
INSERT = "INSERT INTO t(value) VALUES (?)"
READY_TIMEOUT_S = 30.0


@contextmanager
def cluster(folder: Path) -> Iterator[dqlite_py.Node]:
    """A node that leads here; two more processes have joined and vote."""
    addresses = free_addresses(3)
    others = [
        NodeProcess(f"node{i + 2}", address, folder / f"node{i + 2}", (addresses[0],))
        for i, address in enumerate(addresses[1:])
    ]
    try:
        with dqlite_py.Node(folder / "node1", listen=addresses[0]) as node:
            for other in others:
                other.start()
            _wait_for_voters(node, 3)
            node.connect("app", isolation_level=None).execute(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)"
            )
            yield node
            for other in others:
                other.terminate()
            for other in others:
                other.wait_stopped()
    finally:
        for other in others:
            other.kill()


def _wait_for_voters(node: dqlite_py.Node, count: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        members = node.status()["members"]
        if sum(member["role"] == "voter" for member in members) == count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} voters were expected within {READY_TIMEOUT_S:.0f} s: {members}")
        time.sleep(0.05)


def _timed(action: Callable[[], Any], seconds: float) -> tuple[float, list[float]]:
    """Rate per second and the latencies in ms of one caller."""
    latencies: list[float] = []
    started = now = time.perf_counter()
    while now - started < seconds:
        action()
        then, now = now, time.perf_counter()
        latencies.append((now - then) * 1000)
    return len(latencies) / (now - started), latencies


def _threaded(
    make: Callable[[], Callable[[], Any]], threads: int, seconds: float
) -> tuple[float, list[float]]:
    """The same with many callers, each with its own connection."""
    results: list[list[float]] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(_timed(make(), seconds)[1])
        except BaseException as error:
            failures.append(error)
            raise

    pool = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if failures:
        raise failures[0]
    latencies = [ms for result in results for ms in result]
    return len(latencies) / (time.perf_counter() - started), latencies
