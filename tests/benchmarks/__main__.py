"""`make bench`: measure, show tables, write results/<stamp>/. Not run by the tests."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tests.benchmarks import machine, publish, report
from tests.benchmarks.groups import comparison, growth, others, protocol, targets
from tests.benchmarks.session import DEFAULT, FULL, QUICK, Effort, Session
from tests.benchmarks.targets import judge

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
FILE_WIDTH = 190
GROUPS: dict[str, Callable[[Session], None]] = {
    "machine": others.yardsticks,
    "targets": targets.targets,
    "scaling": targets.scaling,
    "readers": targets.readers,
    "apply": others.apply,
    "memory": growth.memory,
    "workloads": comparison.workloads,
    "peers": comparison.peers,
    "open-loop": comparison.open_loop,
    "nodes": growth.nodes,
    "values": growth.values,
    "database": growth.database,
    "log": growth.log_length,
    "failover": others.fail_over,
    "sql": others.sql_api,
    "protocol": protocol.protocol,
    "parts": others.parts,
}

LONG = ("parts",)  # only with --full or --only


@click.command()
@click.option("--only", type=click.Choice([*GROUPS, "big"]), multiple=True, help="Only these groups.")
@click.option("--quick", is_flag=True, help="Half a second per point, one round: does it work at all?")
@click.option(
    "--full", is_flag=True, help="Longer, more rounds, 4 GiB, 10 million rows (hours, 30 GiB of disk)."
)
@click.option("--big", is_flag=True, help="Also the 1 GiB database with a full log (several minutes).")
@click.option("--seconds", type=float, help="Length of each measurement.")
@click.option("--rounds", type=int, help="Rounds of what the targets are judged by.")
@click.option("--rows", type=int, help="Rows of the memory curve.")
@click.option("--kills", type=int, help="Kills of the leader.")
@click.option("--mib", default=1024, show_default=True, help="Size of the big database.")
@click.option("--entries", default=100_000, show_default=True, help="Entries written before its restart.")
@click.option("--publish", "is_published", is_flag=True, help="Copy the results to docs/benchmarks/ as well.")
@click.option(
    "--publish-only",
    type=click.Path(path_type=Path, file_okay=False),
    help="Measure nothing: copy this folder of results/ (or 'newest') to docs/benchmarks/.",
)
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path),
    default=ROOT / ".demo",
    help="Data folders go below it; must be on the disk to be measured.",
)
def main(
    only: tuple[str, ...],
    quick: bool,
    full: bool,
    big: bool,
    mib: int,
    entries: int,
    is_published: bool,
    publish_only: Path | None,
    parent: Path,
    **changes: Any,
) -> None:
    """Measure, show tables, write results/<stamp>/results.md, .json and pictures."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    if publish_only is not None:
        chosen = publish.newest(RESULTS) if publish_only == Path("newest") else publish_only
        console.print(f"written: {publish.publish(chosen, ROOT / 'docs' / 'benchmarks').relative_to(ROOT)}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clean up as after Ctrl-C
    effort = _effort(QUICK if quick else FULL if full else DEFAULT, changes)
    left_out = () if full else LONG
    groups = only or (*(name for name in GROUPS if name not in left_out), *(["big"] if big or full else []))
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{os.getpid()}-", dir=parent))
    logging.basicConfig(filename=folder / "bench.log")
    facts = machine.facts(folder)
    session = Session(folder, effort)
    began, is_whole = time.monotonic(), False
    try:
        with console.status("measuring") as status:
            session.say = _sayer(console, status, began)
            for group in groups:
                with session.tolerant(group):
                    if group == "big":
                        others.big(session, mib, entries)
                        protocol.new_voter(session, mib)
                    else:
                        GROUPS[group](session)
        is_whole = True
    except KeyboardInterrupt:
        session.failures.append("interrupted: what comes after is missing")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    session.seconds = time.monotonic() - began
    session.failures = [failure.replace(str(ROOT), ".") for failure in session.failures]
    _report(console, session, facts, is_published)
    sys.exit(0 if is_whole else 130)


def _remove_leftovers(parent: Path) -> None:
    """Folders of runs that were killed before they could remove them."""
    for path in parent.glob("bench-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _effort(base: Effort, changes: dict[str, Any]) -> Effort:
    names = {"rows": "memory_rows"}
    given = {names.get(name, name): value for name, value in changes.items() if value is not None}
    return dataclasses.replace(base, **given)


def _sayer(console: Console, status: Any, began: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        line = f"{time.monotonic() - began:5.0f} s  {text}"
        if console.is_terminal and not text.startswith(("FAILED", "left out")):
            status.update(line)
        else:
            console.print(line, highlight=False, markup=False)

    return say


def _report(console: Console, session: Session, facts: dict[str, Any], is_published: bool) -> None:
    from tests.benchmarks import plots  # matplotlib takes a second to load

    verdicts = judge(session)
    report.show(console, session, verdicts)
    for warning in machine.doubts(facts, session.figures):
        console.print(warning, style="yellow", highlight=False)
    repeat = f"make bench ARGS={shlex.quote(shlex.join(sys.argv[1:]))}" if sys.argv[1:] else "make bench"
    folder = RESULTS / datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
    names = plots.draw(folder, session, verdicts)
    path = report.write(folder, facts, session, verdicts, repeat, names)
    console.print(f"written: {path.relative_to(ROOT)}, results.json, {len(names)} pictures", highlight=False)
    if is_published:
        published = publish.publish(folder, ROOT / "docs" / "benchmarks")
        console.print(f"written: {published.relative_to(ROOT)}", highlight=False)


if __name__ == "__main__":
    main()
