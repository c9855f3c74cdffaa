"""Parts of the Python engine that have known values or another source of truth, and what only it can get wrong."""

from __future__ import annotations

import ctypes
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
import xxhash

from dqlite_py.errors import InternalError, MalformedMessage
from dqlite_py.storage import implementation as implementations
from dqlite_py.storage.connection import open_reader, open_writer
from dqlite_py.storage.engine_api import Which
from dqlite_py.storage.python_engine import page_hash, vfs
from dqlite_py.storage.python_engine.sql_text import Tokens, is_blank
from dqlite_py.storage.python_engine.sqlite_api import ROUTINES, sqlite
from dqlite_py.storage.python_engine.utf8 import utf8_copy
from dqlite_py.storage.python_engine.xxh3 import xxh3_64
from dqlite_py.storage.python_engine.xxh3_short import xxh3_64_short
from tests.support.engines import Database, entry, one
from tests.support.twins import both, chosen

VENDOR = Path(__file__).parents[3] / "native" / "vendor"
PRIME32, PRIME64 = 2654435761, 11400714785074694797
# Of xxHash's own sanity check: length, seed, hash.
VECTORS = [
    (403, 0, 0xCDEB804D65C6DEA4),
    (403, PRIME64, 0x6259F6ECFD6443FD),
    (512, 0, 0x617E49599013CB6B),
    (512, PRIME64, 0x3CE457DE14C27708),
    (2048, 0, 0xDD59E2C3A5F038E0),
    (2048, PRIME64, 0x66F81670669ABABC),
    (2240, 0, 0x6E73A90539CF2948),
    (2240, PRIME64, 0x757BA8487D1B5247),
    (2367, 0, 0xCB37AEB9E5D361ED),
    (2367, PRIME64, 0xD2DB3415B942B42A),
]


def sanity_bytes(size: int) -> bytes:
    generator, data = PRIME32, bytearray()
    for _ in range(size):
        data.append(generator >> 56)
        generator = generator * PRIME64 % 2**64
    return bytes(data)


@pytest.mark.parametrize("hash_of", [xxh3_64, xxhash.xxh3_64_intdigest])
def test_known_hashes(hash_of: Callable[[bytes, int], int]) -> None:
    data = sanity_bytes(2367)
    for size, seed, expected in VECTORS:
        assert hash_of(data[:size], seed) == expected


def test_short_hashes() -> None:
    data = sanity_bytes(241)
    for size in range(9, 241):
        assert xxh3_64_short(data[:size]) == xxhash.xxh3_64_intdigest(data[:size])
    for size in (8, 241):
        with pytest.raises(ValueError, match="not 9 to 240"):
            xxh3_64_short(data[:size])


def test_three_ways_to_hash_a_page_agree() -> None:
    chance = random.Random(1)
    c = both()["c"]
    for size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        for _ in range(12):
            seed = chance.choice((2, 3, chance.randrange(4, 2**32)))
            page = chance.choice((chance.randbytes(size), b"\xff" * size, b"\0" * (size - 1) + b"\1"))
            expected = xxhash.xxh3_64_intdigest(page, seed)
            assert xxh3_64(page, seed) == expected
            assert page_hash.hash_pages(page, size, seed) == c.hash_pages(page, size, seed) == expected
    for size in (241, 255, 256, 1023, 1025, 1088, 1089):  # no pages: the edges of blocks and stripes
        data = chance.randbytes(size)
        assert xxh3_64(data, 7) == xxhash.xxh3_64_intdigest(data, 7)
    with pytest.raises(ValueError, match="240 bytes"):
        xxh3_64(bytes(240), 1)


def test_a_file_that_shrinks_and_grows() -> None:
    """Not done by a database of ours, which is never vacuumed."""
    chance = random.Random(2)
    content = [chance.choice((chance.randbytes(512), bytes(512))) for _ in range(9)]
    pages = page_hash.Pages()
    pages.reset(512)
    pages.scan(b"".join(content))
    for new_count in (9, 4, 12, 1, 1):
        changed = chance.sample(range(1, 13), 5)
        new = {number: chance.randbytes(512) for number in changed}
        for number, page in new.items():
            pages.note(number, page, new_count if number == changed[-1] else 0)
        pages.commit()
        content = [
            new.get(n, content[n - 1] if n <= len(content) else bytes(512)) for n in range(1, new_count + 1)
        ]
        assert pages.page_count == new_count
        assert pages.state == page_hash.hash_pages(b"".join(content), 512, 1)
    pages.note(1, bytes(512), 1)
    pages.discard()
    pages.commit()
    assert pages.state == page_hash.hash_pages(b"".join(content), 512, 1)


def test_the_engine_with_and_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_hash._hash is xxhash.xxh3_64_intdigest
    hashes = []
    for name, hash_of in (("a", xxhash.xxh3_64_intdigest), ("b", xxh3_64)):
        monkeypatch.setattr(page_hash, "_hash", hash_of)
        with chosen("python"), Database(tmp_path / name) as db:
            db.apply(one("CREATE TABLE t (v)"), one("INSERT INTO t VALUES (randomblob(30000))"))
            hashes.append(db.engine.state_hash)
    assert hashes[0] == hashes[1]


def test_without_the_package_the_fallback_is_taken() -> None:
    program = (
        "import sys; sys.modules['xxhash'] = None\n"
        "from dqlite_py.storage.python_engine import page_hash, xxh3\n"
        "assert page_hash._hash is xxh3.xxh3_64"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- SQLite's tables --------------------------------------------------------------------------------------


def _declarations(struct: str, header: str) -> list[str]:
    body = re.search(
        rf"^struct {struct} {{(.*?)^}};", (VENDOR / header).read_text(), re.MULTILINE | re.DOTALL
    )
    assert body is not None
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def _name(declaration: str) -> str:
    function = re.search(r"\(\s*\*\s*(?:\(\s*\*\s*)?(\w+)", declaration)
    return function[1] if function else declaration.replace("*", " ").split()[-1]


def test_positions_in_the_routine_table() -> None:
    names = [_name(declaration) for declaration in _declarations("sqlite3_api_routines", "sqlite3ext.h")]
    assert len(names) > 250
    assert {name: names[row[0]] for name, row in ROUTINES.items()} == {name: name for name in ROUTINES}


@pytest.mark.parametrize(("ours", "theirs"), [("_Vfs", "sqlite3_vfs"), ("_Methods", "sqlite3_io_methods")])
def test_layouts(ours: str, theirs: str) -> None:
    declared = [_name(declaration) for declaration in _declarations(theirs, "sqlite3.h")]
    fields = [field[0] for field in getattr(vfs, ours)._fields_]
    assert fields == declared[: len(fields)]


def test_it_is_apsws_own_sqlite() -> None:
    both()
    assert sqlite.libversion_number() == apsw.SQLITE_VERSION_NUMBER
    assert vfs.VFS_NAME in apsw.vfs_names()
    assert apsw.vfs_names()[0] != vfs.VFS_NAME  # not the default: the host program's connections are not ours
    assert "dqlite-python-loader" not in apsw.vfs_names()


def test_unbound_it_says_so() -> None:
    program = (
        "from dqlite_py.storage.python_engine.sqlite_api import sqlite\n"
        "try: sqlite.step(0)\n"
        "except Exception as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "before the Python engine is bound" in found.stdout


# -- connections and files ----------------------------------------------------------------------------------


def test_foreign_connections_are_refused(tmp_path: Path) -> None:
    python = both()["python"]
    for name in ("unix", "dqlite"):
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(tmp_path / name), flags=flags, vfs=name)
        try:
            connection.execute("CREATE TABLE _dqlite_meta (format, applied_index)")
            with pytest.raises(InternalError, match="cannot start"):
                python.engine(connection)
            with pytest.raises(InternalError):
                python.file_size(connection, Which.DATABASE)
            assert connection.execute("SELECT count(*) FROM _dqlite_meta").get == 0
            connection.execute(
                "PRAGMA user_version = 1; CREATE TEMP TABLE x (a)"
            ).fetchall()  # no authorizer left
        finally:
            connection.close()


def test_an_engine_wants_its_meta_table(tmp_path: Path) -> None:
    with chosen("python") as python:
        connection = open_writer(str(tmp_path / "a.db"), create=True)
        try:
            with pytest.raises(InternalError, match="cannot start: SQL logic error"):
                python.engine(connection)
        finally:
            connection.close()


def test_a_closed_engine_gives_its_connection_back(tmp_path: Path) -> None:
    with chosen("python") as python:
        connection = open_writer(str(tmp_path / "a.db"), create=True)
        connection.execute("CREATE TABLE _dqlite_meta (format, applied_index)")
        for _ in range(3):
            engine = python.engine(connection)
            engine.close()
            engine.close()
            with pytest.raises(InternalError, match="closed"):
                engine.scan()
            connection.execute("PRAGMA user_version = 1; CREATE TEMP TABLE IF NOT EXISTS x (a)").fetchall()
        connection.close()


def test_files_below_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with chosen("python") as python:
        writer = open_writer(str(path), create=True)
        writer.execute("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(9000))")
        reader = open_reader(str(path))
        reader.execute("SELECT count(*) FROM t").fetchall()
        try:
            for connection in (writer, reader):
                assert python.file_size(connection, Which.WAL) == Path(f"{path}-wal").stat().st_size
                assert python.file_size(connection, Which.DATABASE) == path.stat().st_size
                assert python.file_read(connection, Which.WAL, 0, 32) == Path(f"{path}-wal").read_bytes()[:32]
            python.file_sync(writer, Which.DATABASE)
            python.file_sync(writer, Which.WAL)
            with pytest.raises(InternalError):
                python.file_read(writer, Which.DATABASE, path.stat().st_size - 10, 20)
        finally:
            reader.close()
            writer.close()
        assert not vfs._shims[0].wals
        assert not vfs._shims[0].watches


def test_the_fixed_clock_is_one_threads_own(tmp_path: Path) -> None:
    """While an entry is applied, a reader on another thread sees the real time, and has local time."""
    with chosen("python"), Database(tmp_path / "a.db") as db:
        reader = open_reader(str(db.path))
        seen: list[object] = []
        asked = ("SELECT date('now') > '2025', date('now', 'localtime') IS NOT NULL", None)

        def ask() -> None:
            seen.extend(reader.execute(asked[0]).fetchall())

        vfs.fix_time(0)
        try:
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            with pytest.raises(apsw.SQLError, match="local time unavailable"):
                reader.execute(asked[0]).fetchall()
            assert reader.execute("SELECT date('now'), julianday('now')").fetchall() == [
                ("1970-01-01", 2440587.5)
            ]
        finally:
            vfs.release_time()
        ask()
        assert seen == [(1, 1)] * 2
        reader.close()


def test_memory_that_runs_out_leaves_the_entry_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chosen("python"), Database(tmp_path / "a.db") as db:
        db.run(("CREATE TABLE t (v)", []))
        before = db.engine.pin_info()

        def refuse(*_: object) -> None:
            raise MemoryError

        for target in ("msgpack.ItemWriter.put_text", "page_hash.Pages.note", "functions.next_random"):
            with monkeypatch.context() as patch:
                patch.setattr(f"dqlite_py.storage.python_engine.{target}", refuse)
                with pytest.raises(InternalError):
                    db.apply(one("INSERT INTO t VALUES (random()) RETURNING 'text'"))
            assert db.engine.pin_info() == before
        assert db.query("SELECT count(*) FROM t") == [[0]]


@pytest.mark.parametrize(
    "where", ["vfs.WalFile.watched_write", "guard.Guard._judge", "functions.Functions._next"]
)
def test_an_exception_in_a_callback_never_counts_as_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with chosen("python"), Database(tmp_path / "a.db") as db:
        db.run(("CREATE TABLE t (v)", []))
        before = db.engine.pin_info()

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(f"dqlite_py.storage.python_engine.{where}", fail)
            if where == "guard.Guard._judge":
                assert db.apply(one("INSERT INTO t VALUES (1)"))[0][0] == apsw.SQLITE_AUTH
            else:
                with pytest.raises(InternalError):
                    db.apply(one("INSERT INTO t VALUES (random())"))
                assert db.engine.pin_info() == before
        assert db.query("SELECT count(*) FROM t") == [[0]]


# -- text -----------------------------------------------------------------------------------------------


def test_long_texts_take_little_time_and_memory() -> None:
    for sql in (b"'" + b"''" * 2_000_000, b"/*" + b"*" * 4_000_000, b"--" * 2_000_000, b" " * 4_000_000):
        assert is_blank(sql, 0) is not sql.startswith(b"'")
    tokens = Tokens(b'"a""b" [c]]d')
    assert [tokens.next() for _ in range(5)] == [
        (b'a""b', b'"'),
        (b"c", b"["),
        (b"]", b""),
        (b"d", b""),
        None,
    ]


def test_bad_bytes_of_a_message_become_question_marks() -> None:
    assert utf8_copy(b"a\xffb\xe2\x82", 100) == b"a?b??"
    assert utf8_copy(b"a\0b", 100) == b"a"
    assert utf8_copy("aé".encode() * 3, 6) == "aéa".encode()
    assert utf8_copy(b"\xff" * 10, 4) == b"???"


def test_a_payload_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with chosen("python"), Database(tmp_path / "a.db") as db:
        with pytest.raises(MalformedMessage):
            db.engine.apply(1, entry(one("CREATE TABLE t (a)")) + b"\0", want_results=True)
        assert db.query("SELECT count(*) FROM sqlite_schema") == [[1]]
        assert implementations.chosen().name == "python"
        assert ctypes.sizeof(ctypes.c_void_p) == 8  # the layouts above assume it
