"""`make bench`: measure the figures of docs/performance.md on this machine. Not run by the tests."""

from __future__ import annotations

import datetime
import logging
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from tests.benchmarks import big as big_database
from tests.benchmarks import embedded, failover, machine
from tests.benchmarks.figures import Figure, show, write_files

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED: dict[str, Callable[..., list[Figure]]] = {
    "sequential": embedded.sequential_writes,
    "concurrent": embedded.concurrent_writes,
    "executemany": embedded.batched_writes,
    "reads": embedded.reads,
}
GROUPS = ("machine", *EMBEDDED, "failover", "big")


@dataclass(frozen=True, slots=True)
class Choices:
    """What to measure."""

    groups: tuple[str, ...]
    seconds: float
    kills: int
    mib: int
    entries: int


@click.command()
@click.option("--big", is_flag=True, help="Also the 1 GiB database (several minutes, 5 GiB of disk).")
@click.option("--only", type=click.Choice(GROUPS), multiple=True, help="Only these groups.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of each measurement.")
@click.option("--mib", default=1024, show_default=True, help="Size of the big database.")
@click.option("--entries", default=100_000, show_default=True, help="Entries written before its restart.")
@click.option("--kills", default=20, show_default=True, help="Kills of the leader.")
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path),
    default=ROOT / ".demo",
    help="Data folders go below it; must be on the disk to be measured.",
)
def main(
    big: bool, only: tuple[str, ...], seconds: float, mib: int, entries: int, kills: int, parent: Path
) -> None:
    """Measure, show a table, write results/<date>.json and .md."""
    console = Console()
    choices = Choices(only or GROUPS[: None if big else -1], seconds, kills, mib, entries)
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    figures: list[Figure] = []
    facts = machine.facts(folder)
    logging.basicConfig(filename=folder / "bench.log")  # the embedded node's own log lines
    try:
        with console.status("measuring") as status:

            def run(name: str, work: Callable[[], list[Figure]]) -> None:
                status.update(f"measuring: {name}")
                figures.extend(work())

            _run_groups(run, choices, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(console, figures)
    for warning in machine.doubts(facts, figures):
        console.print(warning, style="yellow", highlight=False)
    repeat = f"make bench ARGS={shlex.quote(shlex.join(sys.argv[1:]))}" if sys.argv[1:] else "make bench"
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
    path = write_files(ROOT / "results", stamp, facts, figures, repeat)
    console.print(f"written: {path.relative_to(ROOT)} and .json", highlight=False)


def _run_groups(
    run: Callable[[str, Callable[[], list[Figure]]], None], choices: Choices, folder: Path
) -> None:
    groups = choices.groups
    if "machine" in groups:
        run("fdatasync", lambda: machine.fdatasync(folder))
        run("SQLite alone", lambda: machine.plain_sqlite(folder))
    chosen = [name for name in EMBEDDED if name in groups]
    if chosen:
        with embedded.cluster(folder / "embedded") as node:
            for name in chosen:
                run(name, lambda name=name: EMBEDDED[name](node, choices.seconds))  # type: ignore[misc]
    if "failover" in groups:
        (folder / "failover").mkdir()
        run(f"fail-over, {choices.kills} kills", lambda: failover.kills(folder / "failover", choices.kills))
    if "big" in groups:
        (folder / "big").mkdir()
        run("big database", lambda: big_database.big(folder / "big", choices.mib, choices.entries))


main()
