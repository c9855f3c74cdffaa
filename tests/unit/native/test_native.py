"""The shared object itself: what it links, its checksums, its words about SQL, its files."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from dqlite_py import _native
from dqlite_py.errors import InternalError
from dqlite_py.storage.connection import open_reader, open_writer
from dqlite_py.storage.native_engine import (
    VFS_NAME,
    NativeEngine,
    Which,
    bootstrap,
    file_read,
    file_size,
    file_sync,
    inspect,
    refusal,
)
from dqlite_py.storage.pagehash import hash_pages
from tests.support.twins import chosen

lib = _native.lib
PAGE_HASHES = [4294406982751855790, 12246345993069521027, 11648798784694945952]
NATIVE = Path(__file__).parents[3] / "native"


@pytest.fixture(autouse=True)
def _in_c() -> Iterator[None]:
    """Every connection of ours has the C engine's VFS; foreign ones find the extension bound, in any order of tests."""
    with chosen("c"):
        yield


def test_sqlite_is_not_linked() -> None:
    nm = shutil.which("nm")
    assert nm is not None, "binutils are needed"
    listed = subprocess.run([nm, "-D", _native.__file__], capture_output=True, text=True, check=True).stdout
    undefined = re.findall(r"^\s+U (\S+)", listed, re.MULTILINE)
    exported = re.findall(r"^\w+ [A-TV-Z] (\S+)", listed, re.MULTILINE)
    assert not [name for name in undefined if name.startswith("sqlite3")]
    assert "malloc" in " ".join(undefined)  # nm was understood
    assert {name.split("@")[0] for name in exported} == {"PyInit__native", "sqlite3_dqlitenative_init"}


def test_bootstrap_binds_apsws_own_library() -> None:
    bootstrap()
    bootstrap()
    version = lib.dq_ready()
    assert version == apsw.SQLITE_VERSION_NUMBER
    assert VFS_NAME in apsw.vfs_names()
    assert apsw.vfs_names()[0] != VFS_NAME  # not the default: the host program's connections are not ours


@pytest.mark.parametrize("crc", [lib.dq_crc32c, lib.dq_crc32c_portable])
def test_crc32c(crc: object) -> None:
    assert callable(crc)
    assert crc(0, b"", 0) == 0
    assert crc(0, b"123456789", 9) == 0xE3069283
    assert crc(0, bytes(32), 32) == 0x8A9136AA  # RFC 3720, B.4
    assert crc(0, b"\xff" * 32, 32) == 0x62A8AB43
    assert crc(crc(0, b"1234", 4), b"56789", 5) == 0xE3069283


def test_both_crc32c_agree() -> None:
    data = random.Random(1).randbytes(3000)
    for start in range(9):
        for size in (*range(40), 1000, 2900):
            piece = data[start : start + size]
            assert lib.dq_crc32c(start, piece, size) == lib.dq_crc32c_portable(start, piece, size)


def test_the_page_hash_is_fixed() -> None:
    """State hashes are compared between releases: these values never change."""
    page = bytes(range(256)) * 16
    assert [hash_pages(page, 4096, n) for n in (1, 2, 3)] == PAGE_HASHES
    assert hash_pages(page * 3, 4096, 1) == PAGE_HASHES[0] ^ PAGE_HASHES[1] ^ PAGE_HASHES[2]


def test_files_below_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writer = open_writer(str(path), create=True)
    writer.execute("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(9000))")
    reader = open_reader(str(path))
    reader.execute("SELECT count(*) FROM t").fetchall()
    try:
        for connection in (writer, reader):
            assert file_size(connection, Which.WAL) == Path(f"{path}-wal").stat().st_size
            assert file_size(connection, Which.DATABASE) == path.stat().st_size
            head = file_read(connection, Which.WAL, 0, 32)
            assert head == Path(f"{path}-wal").read_bytes()[:32]
        file_sync(writer, Which.DATABASE)
        with pytest.raises(InternalError):
            file_read(writer, Which.DATABASE, path.stat().st_size - 10, 20)
    finally:
        reader.close()
        writer.close()


def test_foreign_connections_are_refused(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "a.db"), vfs="unix")
    try:
        connection.execute("CREATE TABLE _dqlite_meta (format, applied_index)")
        with pytest.raises(InternalError, match="cannot start"):
            NativeEngine(connection)
        with pytest.raises(InternalError):
            file_size(connection, Which.DATABASE)
        assert (
            connection.execute("SELECT count(*) FROM _dqlite_meta").get == 0
        )  # no statement of ours is left open
    finally:
        connection.close()


def test_an_engine_wants_its_meta_table(tmp_path: Path) -> None:
    connection = open_writer(str(tmp_path / "a.db"), create=True)
    try:
        with pytest.raises(InternalError, match="cannot start"):
            NativeEngine(connection)
    finally:
        connection.close()


def test_a_closed_engine_gives_its_connection_back(tmp_path: Path) -> None:
    connection = open_writer(str(tmp_path / "a.db"), create=True)
    connection.execute("CREATE TABLE _dqlite_meta (format, applied_index)")
    for _ in range(3):
        native = NativeEngine(connection)
        native.close()
        native.close()
        connection.execute("PRAGMA user_version = 1; CREATE TEMP TABLE IF NOT EXISTS x (a)").fetchall()
    connection.close()


@pytest.mark.parametrize(
    ("sql", "code", "readonly"),
    [
        (b"SELECT 1", 0, True),
        (b"SELECT 1; -- more", 0, True),
        (b"CREATE TABLE t (a)", 0, False),
        (b"SELECT 1; SELECT 2", 21, False),
        (b"SELECT 'a;b'", 0, True),
        (b"", 1, False),
        (b"/* only */", 1, False),
        (b"SELECT 1\0", 1, False),
        (b"SELECT \xff\xfe", 1, False),
        (b"nonsense", 1, False),
    ],
)
def test_inspect(sql: bytes, code: int, readonly: bool) -> None:
    connection = apsw.Connection(":memory:")
    try:
        found = inspect(connection, sql)
        assert found[0] == code
        assert found[1] is readonly or code != 0
        assert bool(found[2]) == (code != 0)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        b"",
        b";",
        b"--",
        b"/*",
        b"/* VACUUM",
        b"'VACUUM",
        b'"VACUUM"',
        b"[VACUUM",
        b"`",
        b"VACUUMS",
        b"EXPLAIN",
        b"EXPLAIN QUERY",
        b"EXPLAIN QUERY PLAN",
        b"ANALYZE t",
        b"ANALYZE main.",
        b"\xef\xbb",
        b"\xff\xfe\x00",
        b"CREATE TABLE t (a)",
        b"-- VACUUM\nSELECT 1",
    ],
)
def test_first_words_that_are_not_refused(sql: bytes) -> None:
    assert refusal(sql) is None


@pytest.mark.parametrize(
    "sql", [b"vAcUuM", b"\xef\xbb\xbf VACUUM", b";;/**/--\nVACUUM", b"ANALYZE", b"analyze /* */ ;"]
)
def test_first_words_that_are_refused(sql: bytes) -> None:
    assert refusal(sql)


def test_cffi_repeats_the_header() -> None:
    """build_native.py declares every function of the headers, word for word."""

    def declared(text: str) -> set[str]:
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        found = re.findall(r"^[a-z_0-9 ]+\*?\s*\*?dq_\w+\([^)]*\);", text, re.MULTILINE)
        return {" ".join(item.split()) for item in found}

    repeated = (NATIVE / "build_native.py").read_text()
    included = re.findall(r'^#include "(\w+[.]h)"', repeated, re.MULTILINE)
    assert "native.h" in included
    headers = set().union(*(declared((NATIVE / name).read_text()) for name in included))
    assert declared(repeated) == headers
    assert len(headers) > 10
