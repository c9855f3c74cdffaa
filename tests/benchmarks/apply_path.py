"""The C apply path beside the same statements in a bare C loop, in Python with apsw, and in executemany.

    python -m tests.benchmarks.apply_path [--workloads seq hot rand] [--batches 1 16 256 4096] [--rounds 7]

Every round gives each side the same new keys and values, on a database of its own with the same settings; the sides
take turns within a round, and what is compared is the median over the rounds of each round's ratio. Checkpoints are
made between the rounds and are not part of the times. The first round warms up and is dropped.

- ours: payload in, results out, state hash kept, the applied index in the transaction (native/apply.c)
- bare: bare_loop.c on SQLite's unix VFS: prepared once, bind, step, reset; no payload, results, hash, index
- python: apsw, one savepoint per unit, payload unpacked and results packed with msgpack
- executemany: apsw's, one call per batch

Keys are 32 bytes. seq: ascending. hot: 2,000 keys. rand: 100,000 rows in place, half of the units hit one of them.
Values of 100 bytes in a table WITHOUT ROWID, larger ones in a rowid table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import apsw
import cffi

from tests.benchmarks.apply_gil import gil_held_us
from tests.benchmarks.apply_sides import (
    Bare,
    Data,
    Executemany,
    InPython,
    Ours,
    Rows,
    Side,
    build_bare_loop,
)

WORKLOADS = ("seq", "hot", "rand")
BATCHES = (1, 16, 256, 4096)
VALUE_BYTES = (100, 1024)
UNITS_PER_ROUND = {1: 1500, 16: 4096, 256: 16384}
UNITS_PER_ROUND_MAX = 16384
WARM_BATCHES = 4
SIDES = ("ours", "bare", "python", "executemany")


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: per side, medians over the rounds."""

    workload: str
    value_bytes: int
    batch: int
    rate: dict[str, float] = field(default_factory=dict)  # units per second of wall clock
    cpu_us: dict[str, float] = field(default_factory=dict)  # of processor time per unit
    to_bare: float = 0.0  # ours to bare, wall clock
    to_bare_cpu: float = 0.0  # the same by processor time, which other programs hardly touch


# -- measuring ------------------------------------------------------------------------------------------


def measure(folder: Path, data: Data, batch: int, rounds: int, bare_loop: tuple[Any, cffi.FFI]) -> Cell:
    """Run all sides against each other at one batch size."""
    makers: dict[str, Callable[[Path], Side]] = {
        "ours": Ours,
        "bare": lambda path: Bare(path, *bare_loop),
        "python": InPython,
        "executemany": Executemany,
    }
    sides: dict[str, Side] = {}
    wall: dict[str, list[float]] = {name: [] for name in makers}
    cpu: dict[str, list[float]] = {name: [] for name in makers}
    count = UNITS_PER_ROUND.get(batch, UNITS_PER_ROUND_MAX)
    try:
        for name, make in makers.items():
            path = folder / f"{name}.db"
            path.write_bytes(data.path.read_bytes())
            sides[name] = make(path)
        for number in range(rounds + 1):
            rows = data.rows(WARM_BATCHES * batch + count)
            names = list(sides)
            for name in names[number % 4 :] + names[: number % 4]:  # nobody always follows the same neighbour
                times = _timed(sides[name], rows, batch)
                if number:
                    wall[name].append(times[0])
                    cpu[name].append(times[1])
    finally:
        for name, side in sides.items():
            side.close()
            for leftover in folder.glob(f"{name}.db*"):
                leftover.unlink()
    return Cell(
        data.workload,
        data.value_bytes,
        batch,
        {name: count / median(times) for name, times in wall.items()},
        {name: median(times) / count * 1e6 for name, times in cpu.items()},
        _ratio(wall),
        _ratio(cpu),
    )


def _ratio(times: dict[str, list[float]]) -> float:
    return median(bare / ours for bare, ours in zip(times["bare"], times["ours"], strict=True))


def _timed(side: Side, rows: Rows, batch: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of this thread, behind WARM_BATCHES that are not counted.

    They begin the WAL anew, which syncs, and bring back what the other sides have driven out of the caches.
    """
    warm, work = (
        side.prepare(rows[: WARM_BATCHES * batch], batch),
        side.prepare(rows[WARM_BATCHES * batch :], batch),
    )
    side.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    warm()
    started, started_cpu = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - started, time.thread_time() - started_cpu


def run(
    workloads: Sequence[str] = WORKLOADS,
    value_bytes: Sequence[int] = VALUE_BYTES,
    batches: Sequence[int] = BATCHES,
    rounds: int = 7,
    progress: Callable[[Cell], None] = lambda _: None,
) -> list[Cell]:
    """Measure every combination; one Cell each."""
    cells = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare_loop = build_bare_loop(folder)
        for workload in workloads:
            for size in value_bytes:
                data = Data(folder, workload, size)
                for batch in batches:
                    cells.append(measure(folder, data, batch, rounds, bare_loop))
                    progress(cells[-1])
    return cells


# -- command line ---------------------------------------------------------------------------------------


def line(cell: Cell) -> str:
    rates = "".join(f"{cell.rate[name] / 1000:12.1f}" for name in SIDES)
    cpu = f"{cell.cpu_us['ours']:12.3f}{cell.cpu_us['bare']:12.3f}"
    name = f"{cell.workload} {cell.value_bytes} B"
    return f"{name:14}{cell.batch:6}{rates}{cpu}{cell.to_bare:12.2f}{cell.to_bare_cpu:12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, choices=WORKLOADS)
    parser.add_argument("--values", nargs="+", type=int, default=VALUE_BYTES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--gil", action="store_true", help="only the time that the GIL is held")
    options = parser.parse_args()
    if options.gil:
        held = gil_held_us()
        print(
            f"GIL held per unit at batch 256: {held['parts']:.3f} us by parts, {held['counter']:.3f} us by counting"
        )
        return
    print("thousand units/s; processor us per unit; ours to bare by wall clock and by processor time")
    heads = "".join(f"{name:>12}" for name in (*SIDES, "cpu ours", "cpu bare", "ratio", "cpu ratio"))
    print(f"{'':14}{'batch':>6}{heads}")
    cells = run(
        options.workloads,
        options.values,
        options.batches,
        options.rounds,
        lambda c: print(line(c), flush=True),
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")


if __name__ == "__main__":
    main()
