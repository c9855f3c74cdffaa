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
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol
from unittest.mock import patch

import apsw
import cffi
import msgpack

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.storage import connection as connections
from dqlite_py.storage.meta import prepare_meta
from dqlite_py.storage.native_engine import ApplyFailed, NativeEngine

HERE = Path(__file__).parent
VENDOR = HERE.parent.parent / "native" / "vendor"
UPSERT = "INSERT INTO kv(k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
WORKLOADS = ("seq", "hot", "rand")
BATCHES = (1, 16, 256, 4096)
VALUE_BYTES = (100, 1024)
UNITS_PER_ROUND = {1: 1500, 16: 4096, 256: 8192}
UNITS_PER_ROUND_MAX = 16384
KEY_BYTES = 32
ROWS_BEFORE = 100_000
HOT_KEYS = 2_000
LARGE_VALUE_BYTES = 1000

Rows = Sequence[tuple[bytes, bytes]]


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


# -- the sides ------------------------------------------------------------------------------------------


class Side(Protocol):
    connection: apsw.Connection

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]: ...
    def close(self) -> None: ...


def _plain(path: Path) -> apsw.Connection:
    """A writer with the product's settings on SQLite's own VFS."""
    with patch.object(connections, "VFS_NAME", "unix"):
        return connections.open_writer(str(path), create=False)


def _payload(rows: Rows) -> bytes:
    units = [encode_unit([(UPSERT, row)]) for row in rows]
    return encode_units("main", 1_700_000_000_000_000, bytes(16), None, units)


def _batches(rows: Rows, batch: int) -> list[Rows]:
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


class Ours:
    def __init__(self, path: Path) -> None:
        self.connection = connections.open_writer(str(path), create=False)
        self.index = prepare_meta(self.connection, str(path), create=False)
        self.engine = NativeEngine(self.connection)
        self.engine.scan()

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]:
        payloads = [_payload(part) for part in _batches(rows, batch)]

        def work() -> None:
            apply, index = self.engine.apply, int(self.index)
            for payload in payloads:
                index += 1
                apply(index, payload, True)
            self.index = type(self.index)(index)

        return work

    def close(self) -> None:
        self.engine.close()
        self.connection.close()


class Bare:
    def __init__(self, path: Path, library: Any, ffi: cffi.FFI) -> None:
        self.connection = _plain(path)
        self.library, self.ffi = library, ffi

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]:
        keys, values = b"".join(k for k, _ in rows), b"".join(v for _, v in rows)
        handle, sizes = self.connection.sqlite3_pointer(), (len(rows[0][0]), len(rows[0][1]))

        def work() -> None:
            code = self.library.bare_loop(
                handle, UPSERT.encode(), keys, sizes[0], values, sizes[1], len(rows), batch
            )
            if code != 0:
                raise AssertionError(f"the bare loop failed with SQLite code {code}")

        return work

    def close(self) -> None:
        self.connection.close()


class InPython:
    def __init__(self, path: Path) -> None:
        self.connection = _plain(path)

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]:
        payloads = [_payload(part) for part in _batches(rows, batch)]

        def work() -> None:
            for payload in payloads:
                self.apply(payload)

        return work

    def apply(self, payload: bytes) -> None:
        connection = self.connection
        execute = connection.cursor().execute
        results: list[Any] = []
        execute("BEGIN IMMEDIATE")
        for _session, _sequence, statements in msgpack.unpackb(payload)[6]:
            execute("SAVEPOINT unit")
            for sql, params in statements:
                rows = execute(sql, params).fetchall()
                results.append([0, rows, connection.changes(), connection.last_insert_rowid()])
            execute("RELEASE unit")
        execute("UPDATE _dqlite_meta SET applied_index = applied_index + 1")
        execute("COMMIT")
        msgpack.packb(results)

    def close(self) -> None:
        self.connection.close()


class Executemany:
    def __init__(self, path: Path) -> None:
        self.connection = _plain(path)

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]:
        parts, cursor = _batches(rows, batch), self.connection.cursor()

        def work() -> None:
            for part in parts:
                cursor.execute("BEGIN IMMEDIATE")
                cursor.executemany(UPSERT, part)
                cursor.execute("COMMIT")

        return work

    def close(self) -> None:
        self.connection.close()


# -- data -----------------------------------------------------------------------------------------------


class Data:
    """Keys and values of one workload, and the database that they start from."""

    def __init__(self, folder: Path, workload: str, value_bytes: int) -> None:
        self.random = random.Random(f"{workload} {value_bytes}")
        self.workload, self.value_bytes = workload, value_bytes
        self.next_key = 0
        count = {"seq": 0, "hot": HOT_KEYS, "rand": ROWS_BEFORE}[workload]
        self.old = [self.random.randbytes(KEY_BYTES) for _ in range(count)]
        self.path = folder / "start.db"
        self._make_database()

    def _make_database(self) -> None:
        self.path.unlink(missing_ok=True)
        connection = connections.open_writer(str(self.path), create=True)
        prepare_meta(connection, str(self.path), create=True)
        rowid = "" if self.value_bytes > LARGE_VALUE_BYTES else "WITHOUT ROWID"
        connection.execute(f"CREATE TABLE kv(k BLOB PRIMARY KEY, v BLOB) {rowid}")
        with connection:
            connection.executemany("INSERT INTO kv VALUES (?, ?)", [(k, self._value()) for k in self.old])
        connection.close()

    def _value(self) -> bytes:
        return self.random.randbytes(self.value_bytes)

    def _key(self, position: int) -> bytes:
        if self.workload == "seq":
            self.next_key += 1
            return b"\xff" * 16 + self.next_key.to_bytes(16, "big")
        if self.workload == "rand" and position % 2:
            return self.random.randbytes(KEY_BYTES)
        return self.random.choice(self.old)

    def rows(self, count: int) -> list[tuple[bytes, bytes]]:
        return [(self._key(i), self._value()) for i in range(count)]


# -- measuring ------------------------------------------------------------------------------------------


def build_bare_loop(folder: Path) -> tuple[Any, cffi.FFI]:
    """Compile bare_loop.c and bind it to apsw's SQLite."""
    path = folder / "bareloop.so"
    source = str(HERE / "bare_loop.c")
    subprocess.run(
        ["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-shared", "-fPIC", f"-I{VENDOR}", source, "-o", str(path)], check=True
    )
    loader = apsw.Connection(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(str(path), "sqlite3_bareloop_init")
    loader.close()
    ffi = cffi.FFI()
    ffi.cdef(
        "int bare_loop(uintptr_t handle, const char *sql, const uint8_t *keys, int key_size,"
        " const uint8_t *values, int value_size, int count, int batch);"
    )
    return ffi.dlopen(str(path)), ffi


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
            rows = data.rows(count)
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
    """Wall-clock and processor seconds of this thread."""
    work = side.prepare(rows, batch)
    side.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
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


# -- the GIL --------------------------------------------------------------------------------------------


def gil_held_us(batch: int = 256, seconds: float = 2.0) -> dict[str, float]:
    """Microseconds per unit that applying keeps the GIL from others, by two methods.

    parts: processor time of what NativeEngine.apply does with the GIL: a call that C refuses at once (with the price
    of its exception) and the copy of a real entry's results; an upper bound that other programs do not disturb.
    counter: how much less a thread that counts in a Python loop gets done beside the applying thread. It needs an
    idle machine with two processors and includes what winning the GIL back costs.
    """
    with tempfile.TemporaryDirectory() as name:
        data = Data(Path(name), "hot", 100)
        side = Ours(data.path)
        try:
            payload = _payload(data.rows(batch))
            side.engine.apply(side.index + 1, payload, True)
            return {
                "parts": _held_by_parts(side.engine, batch),
                "counter": _held_by_counting(side, payload, batch, seconds),
            }
        finally:
            side.close()


def _held_by_parts(engine: NativeEngine, batch: int, calls: int = 20_000) -> float:
    started = time.thread_time()
    for _ in range(calls):
        engine._state()  # noqa: SLF001 - the very code that runs after the call
    copied = time.thread_time() - started
    started = time.thread_time()
    for _ in range(calls):
        try:
            engine.apply(1, b"", True)
        except ApplyFailed:
            pass
    return (copied + time.thread_time() - started) / calls / batch * 1e6


def _held_by_counting(side: Ours, payload: bytes, batch: int, seconds: float) -> float:
    def count() -> int:
        loops, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            loops += 1
        return loops

    def apply() -> None:
        index = int(side.index) + 1
        while not stop.is_set():
            index += 1
            side.engine.apply(index, payload, True)
            applied.append(index)

    stop, applied = threading.Event(), list[int]()
    alone = count()
    thread = threading.Thread(target=apply)
    thread.start()
    beside = count()
    stop.set()
    thread.join()
    return max(0.0, 1 - beside / alone) * seconds / (len(applied) * batch) * 1e6


# -- command line ---------------------------------------------------------------------------------------


def line(cell: Cell) -> str:
    rates = "".join(f"{cell.rate[name] / 1000:9.1f}" for name in ("ours", "bare", "python", "executemany"))
    cpu = f"{cell.cpu_us['ours']:9.2f}{cell.cpu_us['bare']:9.2f}"
    name = f"{cell.workload} {cell.value_bytes} B"
    return f"{name:12}{cell.batch:6}{rates}{cpu}{cell.to_bare:8.2f}{cell.to_bare_cpu:8.2f}"


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
    print(
        f"{'':12}{'batch':>6}{'ours':>9}{'bare':>9}{'python':>9}{'execmany':>9}{'cpu ours':>9}{'bare':>9}{'ratio':>8}{'cpu':>8}"
    )
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
