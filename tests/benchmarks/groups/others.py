"""Measurements that live in modules of their own: the machine, apply, parts of the node, fail-over, a big database."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import big as big_database
from tests.benchmarks import failover, machine
from tests.benchmarks.children import die_with_parent
from tests.benchmarks.figures import Figure
from tests.benchmarks.session import Session

ROOT = Path(__file__).resolve().parents[3]
PARTS = {  # module: arguments
    "bench_core": (),
    "bench_journal": (),
    "bench_reads": (),
    "bench_transport": (),
}
PART_S = 150.0
APPLY_BATCH = 256
APPLY_RATIO_MIN = 0.95
GIL_US_MAX = 1.0
SQL_S = 900.0


def yardsticks(session: Session) -> None:
    """fdatasync, and SQLite alone with synchronous=FULL."""
    session.figures += machine.fdatasync(session.folder)
    session.figures += machine.plain_sqlite(session.folder, min(3.0, session.effort.seconds))


def apply(session: Session) -> None:
    """The C apply path beside a bare C loop, at batch 256; and how long it holds the GIL."""
    if not _exists("apply_path"):
        session.failures.append("apply: tests.benchmarks.apply_path is not in this tree")
        return
    rounds = 2 * session.effort.rounds + 1
    path = session.folder / "apply.json"
    with session.tolerant("apply"):
        session.say(f"apply: batches of {APPLY_BATCH} beside a bare C loop")
        output = _run(
            "apply_path", "--batches", str(APPLY_BATCH), "--rounds", str(rounds), "--json", str(path)
        )
        session.texts["apply path"] = output
        cells = json.loads(path.read_text())
        ratios = {f"{cell['workload']} {cell['value_bytes']} B": cell for cell in cells}
        note = ", ".join(
            f"{name} {cell['to_bare']:.2f} (processor time {cell['to_bare_cpu']:.2f})"
            for name, cell in ratios.items()
        )
        session.figures.append(
            Figure(
                "C apply to a bare C loop, worst workload",
                min(float(cell["to_bare"]) for cell in cells),
                "x",
                APPLY_RATIO_MIN,
                note=note,
            )
        )
    with session.tolerant("apply: the GIL"):
        output = _run("apply_path", "--gil")
        session.texts["apply path: the GIL"] = output
        session.figures.append(
            Figure(
                "GIL held per unit, C apply",
                gil_us(output),
                "us",
                GIL_US_MAX,
                True,
                f"batches of {APPLY_BATCH}",
            )
        )


def sql_api(session: Session) -> None:
    """The DB-API: its own time, tasks beside threads, transactions beside lone writes, a result of many rows."""
    path = session.folder / "sql.json"
    effort = session.effort
    rows = min(1_000_000, effort.memory_rows)
    session.say("sql: execute, threads and tasks, transactions, a stream")
    with session.tolerant("sql"):
        arguments = ("--seconds", effort.seconds, "--rounds", effort.rounds, "--rows", rows, "--json", path)
        session.texts["sql"] = _run("sql_api", *map(str, arguments), timeout_s=SQL_S)
        found: dict[str, float] = json.loads(path.read_text())
        session.figures += sql_figures(found)


def sql_figures(found: dict[str, float]) -> list[Figure]:
    """What sql_api measured, beside what must be reached."""
    lone, whole, inside = (
        found[f"ms {name} p50"] for name in ("lone write", "transaction", "its statements")
    )
    threads, tasks, keyless = (found[f"/s {name}"] for name in ("threads", "tasks", "threads without keys"))
    return [
        Figure("execute of a write, the DB-API's own time", found["us execute, a write"], "us", 15, True),
        Figure("execute of a point read, the same", found["us execute, a point read"], "us", 15, True),
        Figure(
            "1,000 tasks to 64 threads", tasks / threads, "x", 1.0, note=f"{tasks:,.0f}/s, {threads:,.0f}/s"
        ),
        Figure(
            "BEGIN, two reads, a write, COMMIT, without what the statements take, to a lone write, p50",
            (whole - inside) / lone,
            "x",
            1.5,
            True,
            f"{whole:.2f} ms, of which {inside:.2f} ms; {lone:.2f} ms; with the statements {whole / lone:.2f} x",
        ),
        Figure("result of 1,000,000 rows", found["rows/s stream"], "rows/s", 300_000),
        Figure("memory for it", found["MiB stream"], "MiB", 50, True),
        Figure("64 threads with keys to without", threads / keyless, "x", note=f"{keyless:,.0f}/s without"),
    ]


def gil_us(text: str) -> float:
    """The first figure before "us" of apply_path's line; ValueError when there is none."""
    words = text.split()
    for word, unit in itertools.pairwise(words):
        if unit.strip(",") == "us":
            return float(word)
    raise ValueError(f"no microseconds in {text[-200:]!r}")


def parts(session: Session) -> None:
    """What the modules about parts of a node print."""
    for name, arguments in PARTS.items():
        if not _exists(name):
            continue
        session.say(f"parts: {name}")
        with session.tolerant(f"parts: {name}"):
            session.texts[name] = _run(name, *arguments)


def fail_over(session: Session) -> None:
    folder, kills = session.folder / "failover", session.effort.kills
    folder.mkdir()
    session.say(f"fail-over: {kills} kills of the leader")
    with session.tolerant("fail-over"):
        session.figures += failover.kills(folder, kills)


def big(session: Session, mib: int, entries: int) -> None:
    folder = session.folder / "big"
    folder.mkdir()
    session.say(f"big: a database of {mib:,} MiB")
    with session.tolerant("big"):
        session.figures += big_database.big(folder, mib, entries)


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"tests.benchmarks.{name}") is not None


def _run(name: str, *arguments: str, timeout_s: float = PART_S) -> str:
    """Output of a module of ours; ValueError when it fails or takes too long."""
    try:
        found = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name} did not end within {timeout_s:.0f} s") from None
    if found.returncode != 0:
        raise ValueError(f"{name} failed: {found.stderr[-500:]}")
    return found.stdout
