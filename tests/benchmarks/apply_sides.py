"""What apply_path.py compares: four ways to execute the same units, and the data for them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import apsw
import cffi
import msgpack

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.storage import connection as connections
from dqlite_py.storage.meta import prepare_meta
from dqlite_py.storage.native_engine import NativeEngine

HERE = Path(__file__).parent
VENDOR = HERE.parent.parent / "native" / "vendor"
UPSERT = "INSERT INTO kv(k, v) VALUES (?1, ?2) ON CONFLICT(k) DO UPDATE SET v = excluded.v"
KEY_BYTES = 32
ROWS_BEFORE = 100_000
HOT_KEYS = 2_000
LARGE_VALUE_BYTES = 1000

Rows = Sequence[tuple[bytes, bytes]]

# -- the sides ------------------------------------------------------------------------------------------


class Side(Protocol):
    connection: apsw.Connection

    def prepare(self, rows: Rows, batch: int) -> Callable[[], None]: ...
    def close(self) -> None: ...


def _plain(path: Path) -> apsw.Connection:
    """A writer with the product's settings on SQLite's own VFS."""
    with patch.object(connections, "vfs_name", lambda: "unix"):
        return connections.open_writer(str(path), create=False)


def payload_of(rows: Rows) -> bytes:
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
        payloads = [payload_of(part) for part in _batches(rows, batch)]

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
        payloads = [payload_of(part) for part in _batches(rows, batch)]

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


def build_bare_loop(folder: Path) -> tuple[Any, cffi.FFI]:
    """Compile bare_loop.c and bind it to apsw's SQLite."""
    path = folder / "bareloop.so"
    source = str(HERE / "bare_loop.c")
    subprocess.run(
        [
            "gcc",
            "-std=c11",
            "-O2",
            "-D_GNU_SOURCE",
            "-shared",
            "-fPIC",
            f"-I{VENDOR}",
            source,
            "-o",
            str(path),
        ],
        check=True,
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
