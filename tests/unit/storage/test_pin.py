"""Pinned copies: exactly the pinned state, whatever is written, checkpointed or dropped meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.errors import CorruptState, InternalError, OperationalError, SnapshotUnavailable
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.pin import pin, read_applied_index
from tests.support.snapshots import CountingDisk, Writer, contents

pytestmark = pytest.mark.usefixtures("implementation")

DISK = SystemDisk()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(str(tmp_path / "main.db"))
    for _ in range(30):
        writer.apply()
    yield writer
    writer.close()


def test_a_copy_is_the_pinned_state(writer: Writer, tmp_path: Path) -> None:
    expected = contents(writer.path)
    pinned = writer.pin()
    writer.apply(rows=50)
    writer.checkpoint_passive()
    writer.apply(rows=50)
    copy = str(tmp_path / "copy.db")
    pinned.copy_to(copy, disk=DISK, durable=True)
    pinned.close()
    pinned.close()
    assert (pinned.name, pinned.applied_index) == ("main", 30)
    assert os.path.getsize(copy) == pinned.size_bytes == pinned.page_count * 4096
    assert read_applied_index(copy) == 30
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("copy")) == ["copy.db"]
    assert scan_file(copy) == (pinned.state_hash, pinned.page_count)
    assert contents(copy) == expected != contents(writer.path)


def test_a_pin_sees_what_is_only_in_the_wal(writer: Writer, tmp_path: Path) -> None:
    writer.checkpoint()
    writer.apply()
    pinned = writer.pin()
    writer.checkpoint_passive()
    pinned.copy_to(str(tmp_path / "copy.db"), disk=DISK)
    pinned.close()
    assert read_applied_index(str(tmp_path / "copy.db")) == 31
    # With the pin gone the WAL can be reset again.
    writer.checkpoint()
    assert os.path.getsize(writer.path + "-wal") == 0


def test_writes_go_on_during_the_copy(writer: Writer, tmp_path: Path) -> None:
    """The writer applies, checkpoints and grows the file beside the copying thread."""
    for _ in range(300):
        writer.apply(rows=10, size=3000)
    with ThreadPoolExecutor(1) as executor:
        for number in range(3):
            expected = contents(writer.path)
            pinned = writer.pin()
            copy = str(tmp_path / f"copy{number}.db")
            copying = executor.submit(pinned.copy_to, copy, disk=DISK)
            applied = 0
            while not copying.done() or applied < 20:
                writer.apply(rows=20, size=3000, keys=2000)
                writer.checkpoint_passive()
                applied += 1
            copying.result()
            pinned.close()
            assert contents(copy) == expected


def test_our_descriptors_leave_the_writers_locks_alone(writer: Writer, tmp_path: Path) -> None:
    """The locks survive pinning, copying and closing (POSIX drops
    a process's locks on a file when it closes any descriptor of it)."""
    reader = apsw.Connection(writer.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchall()
    for number in range(3):
        pinned = writer.pin()
        pinned.copy_to(str(tmp_path / f"{number}.db"), disk=DISK)
        pinned.close()
    # Fields of a row: number, kind, mode, type, pid, major:minor:inode, start, end.
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    mine = {row[5].split(":")[2] for row in locks if "POSIX" in row and row[4] == str(os.getpid())}
    held = {suffix: str(os.stat(writer.path + suffix).st_ino) in mine for suffix in ("", "-shm")}
    reader.close()
    assert held == {"": True, "-shm": True}


def test_a_pin_at_the_wrong_index_is_refused(writer: Writer) -> None:
    with pytest.raises(InternalError, match=r"stands at 30 where its engine says log index 29"):
        pin(writer.path, name="main", applied_index=29, state_hash=0)
    writer.checkpoint()  # BUSY if the refused pin were still open
    assert os.path.getsize(writer.path + "-wal") == 0


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(OperationalError):
        pin(str(tmp_path / "x.db"), name="x", applied_index=1, state_hash=0)
    with pytest.raises(OperationalError):
        pin(str(tmp_path / "missing.db"), name="x", applied_index=1, state_hash=0)
    with pytest.raises(CorruptState):
        read_applied_index(str(tmp_path / "x.db"))
    assert os.listdir(tmp_path) == ["x.db"]


@pytest.mark.parametrize(
    "rows", ["", "INSERT INTO _dqlite_meta VALUES(1),(2)", "INSERT INTO _dqlite_meta VALUES('x')"]
)
def test_an_applied_index_is_one_integer(tmp_path: Path, rows: str) -> None:
    path = str(tmp_path / "x.db")
    connection = apsw.Connection(path)
    connection.execute("CREATE TABLE _dqlite_meta(applied_index);" + rows).fetchall()
    connection.close()
    with pytest.raises(CorruptState, match="applied index"):
        read_applied_index(path)


def test_a_hash_that_differs_leaves_no_copy(writer: Writer, tmp_path: Path) -> None:
    pinned = pin(writer.path, name="main", applied_index=30, state_hash=12345)
    with pytest.raises(CorruptState, match="the database file of this node is damaged"):
        pinned.copy_to(str(tmp_path / "copy.db"), disk=DISK)
    pinned.close()
    assert not (tmp_path / "copy.db").exists()


def test_stopping_and_progress(writer: Writer, tmp_path: Path) -> None:
    pinned = writer.pin()
    advanced: list[int] = []
    pinned.copy_to(str(tmp_path / "a.db"), disk=DISK, advanced=advanced.append)
    assert sum(advanced) == pinned.size_bytes
    with pytest.raises(SnapshotUnavailable, match="stopping"):
        pinned.copy_to(str(tmp_path / "b.db"), disk=DISK, stopping=lambda: True)
    with pytest.raises(InternalError, match="exists already"):
        pinned.copy_to(str(tmp_path / "a.db"), disk=DISK)
    pinned.close()
    assert (tmp_path / "a.db").exists()
    assert not (tmp_path / "b.db").exists()


def test_a_folder_that_is_missing_is_an_error(writer: Writer, tmp_path: Path) -> None:
    pinned = writer.pin()
    with pytest.raises(OperationalError, match="copying database main failed"):
        pinned.copy_to(str(tmp_path / "missing" / "x.db"), disk=DISK)
    pinned.close()


def test_a_failed_sync_of_a_durable_copy_leaves_none(writer: Writer, tmp_path: Path) -> None:
    pinned = writer.pin()
    for fail_at in (1, 2, 3):
        disk = CountingDisk(fail_at, lambda: OSError("io error"))
        with pytest.raises(OSError, match="io error"):
            pinned.copy_to(str(tmp_path / "copy.db"), disk=disk, durable=True)
        assert not (tmp_path / "copy.db").exists()
    pinned.close()


def units(index: int, rows: int = 30) -> bytes:
    """The payload of an entry of random upserts; the first one makes the table."""
    chosen = random.Random(index)
    statements: list[tuple[str, list[Any]]] = [
        ("INSERT OR REPLACE INTO t VALUES(?, ?)", [chosen.randrange(5000), chosen.randbytes(1500)])
        for _ in range(rows)
    ]
    if index == 1:
        statements = [("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)", [])]
    elif index in (61, 75):  # the copy's schema cookie differs: it must not matter
        statements.append((f"CREATE INDEX i{index} ON t(v)", []))
    return encode_units("main", index, bytes(16), None, [encode_unit(statements)])


def test_a_copy_of_the_engines_database_goes_on_as_the_engine_does(tmp_path: Path) -> None:
    """The engine's own file system joins WAL writes; a plain reader still pins exactly its state. The copy, opened
    by an engine, has the same hash, and entry by entry the same hashes as the original."""
    path, copy = str(tmp_path / "main.db"), str(tmp_path / "copy" / "main.db")
    os.mkdir(tmp_path / "copy")
    engine = DatabaseEngine.open(path, create=True)
    try:
        for index in range(1, 60):
            engine.apply(index, units(index), want_results=False)
        info = engine.pin_info()
        pinned = pin(path, name="main", applied_index=info.applied_index, state_hash=info.state_hash)
        assert pinned.page_count == info.page_count
        hashes = []
        with ThreadPoolExecutor(1) as executor:
            copying = executor.submit(pinned.copy_to, copy, disk=DISK)
            index = 60
            while not copying.done() or index < 90:
                hashes.append(engine.apply(index, units(index), want_results=False).state_hash)
                engine.checkpoint_step()
                if index % 10 == 0:
                    engine.checkpoint()
                index += 1
            copying.result()
        pinned.close()
        assert read_applied_index(copy) == 59
        received = DatabaseEngine.open(copy, create=False)
        try:
            assert received.pin_info() == info
            again = [
                received.apply(60 + n, units(60 + n), want_results=False).state_hash
                for n in range(len(hashes))
            ]
            assert again == hashes
        finally:
            received.close()
    finally:
        engine.close()
