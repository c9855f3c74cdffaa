"""The `dqlite-py demo` command: options in, exit code out. Main thread."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path

import click
from rich.console import Console

from dqlite_py.cli.demo.client import DemoClient
from dqlite_py.cli.demo.processes import Processes
from dqlite_py.cli.demo.scenario import DemoFailed, Plan, Scenario
from dqlite_py.cli.demo.screen import Screen, make_screen
from dqlite_py.cli.demo.verdict import Verdict
from dqlite_py.cli.options import FloatRange
from dqlite_py.client.caller import open_caller
from dqlite_py.errors import Error
from dqlite_py.wire.rpc import RpcError

INTERRUPTED = 130


@click.command()
@click.option(
    "--rate",
    default=100.0,
    type=FloatRange(1, 2000),
    show_default=True,
    help="Rows per second through each node.",
)
@click.option(
    "--kills",
    default=1,
    type=click.IntRange(0, 100),
    show_default=True,
    help="How often the leader is killed.",
)
@click.option(
    "--seconds",
    default=4.0,
    type=FloatRange(0.5, 3600),
    show_default=True,
    help="Length of each phase of writing.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the nodes' folders go (default: a temporary one).",
)
@click.option("--keep", is_flag=True, help="Keep the nodes' folders and logs after success, too.")
def demo(rate: float, kills: int, seconds: float, folder: Path | None, keep: bool) -> None:
    """Three nodes on loopback: write through all, kill -9 the leader, compare every row.

    Ends by itself. Exit code 0 when every acknowledged row is on every node exactly once and all nodes are
    alike; 1 otherwise, with the place of the nodes' logs.
    """
    console = Console()
    plan = Plan(rate=rate, write_s=seconds + 1, without_s=seconds, after_s=seconds, kills=kills)
    place = _make_folder(folder)
    code = _run(plan, place, make_screen(console), console)
    if code == 0 and not keep:
        shutil.rmtree(place)
    else:
        console.print(f"the nodes' folders and logs: {place}", highlight=False, soft_wrap=True)
    raise SystemExit(code)


def _make_folder(parent: Path | None) -> Path:
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="dqlite-py-demo-", dir=parent)).resolve()


def _run(plan: Plan, folder: Path, screen: Screen, console: Console) -> int:
    try:
        with Processes(folder) as processes, screen:
            verdict = asyncio.run(_play(plan, processes, screen))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\ninterrupted; all nodes are stopped")
        return INTERRUPTED
    except (DemoFailed, Error, RpcError, TimeoutError) as error:
        console.print(f"\nFAILED: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 1
    _announce(verdict, screen)
    return 0 if verdict.is_good else 1


async def _play(plan: Plan, processes: Processes, screen: Screen) -> Verdict:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: task.cancel() if task is not None else None)
    async with open_caller() as caller:
        return await Scenario(plan, processes, DemoClient(caller), screen).run()


def _announce(verdict: Verdict, screen: Screen) -> None:
    if verdict.is_good:
        screen.say(["", "PASSED", *(f"  {fact}" for fact in verdict.facts)], "green")
    else:
        screen.say(["", "FAILED", *(f"  {fault}" for fault in verdict.faults)], "bold red")
