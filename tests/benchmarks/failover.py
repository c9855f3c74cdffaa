"""kill -9 of the leader, again and again: how long until another node acknowledges a write."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from rich.console import Console

from dqlite_py.cli.demo.client import DemoClient
from dqlite_py.cli.demo.processes import Processes
from dqlite_py.cli.demo.scenario import Plan, Scenario
from dqlite_py.cli.demo.screen import PlainScreen
from dqlite_py.client.caller import open_caller
from tests.benchmarks.figures import Figure


def kills(folder: Path, count: int) -> list[Figure]:
    """The demo's course with `count` kills; it also compares every row at the end."""
    return asyncio.run(_kills(folder, count))


async def _kills(folder: Path, count: int) -> list[Figure]:
    plan = Plan(rate=150.0, write_s=2.0, without_s=1.5, after_s=2.0, kills=count)
    with (folder / "failover.log").open("w") as log:
        screen = PlainScreen(Console(file=log, width=200))
        with Processes(folder) as processes:
            async with open_caller() as caller:
                scenario = Scenario(plan, processes, DemoClient(caller), screen)
                started = time.monotonic()
                verdict = await scenario.run()
    if not verdict.is_good:
        raise AssertionError(f"the nodes are not alike after {count} kills: {verdict.faults}")
    gaps = scenario.gaps_ms
    note = f"{count} kills in {time.monotonic() - started:.0f} s; every acknowledged row compared"
    return [
        Figure("fail-over, median", statistics.median(gaps) / 1000, "s", 0.8, True, note),
        Figure("fail-over, worst", max(gaps) / 1000, "s", 2.0, True, "silence between acknowledged rows"),
    ]
