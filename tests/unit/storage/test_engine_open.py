"""Creating, opening, checkpointing and closing an engine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from dqlite_py.errors import CorruptState, DirectoryLocked, InternalError, UnknownFormat
from dqlite_py.storage import engine as engine_module
from dqlite_py.storage.checkpoint import Checkpointer
from dqlite_py.storage.engine import DatabaseEngine, sqlite_identity
from dqlite_py.storage.engine_api import Which
from dqlite_py.storage.implementation import file_size, file_sync
from dqlite_py.storage.pagehash import hash_pages, scan_file
from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import Database, entry, one

pytestmark = pytest.mark.usefixtures("implementation")

# The empty database of format 1. A change of it is a change of format: old and new nodes would diverge.
EMPTY_STATE_HASH = 18148672753804371553


def fill(db: Database, entries: int, blob_bytes: int = 3000) -> None:
    if db.engine.applied_index == 0:
        db.run(("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", []))
    for _ in range(entries):
        db.apply(one("INSERT INTO t (v) VALUES (randomblob(?))", blob_bytes))


def unix_connection(path: Path, flags: int = apsw.SQLITE_OPEN_READWRITE) -> apsw.Connection:
    return apsw.Connection(str(path), flags=flags, vfs="unix")


def test_an_empty_database_is_the_same_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Database(tmp_path / name) as db:
            assert db.engine.pin_info() == (0, EMPTY_STATE_HASH, 2)
            assert db.engine.durable_index == 0


def test_creation_that_was_interrupted_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()  # the file was made, nothing was written
    with Database(path) as db:
        assert db.engine.state_hash == EMPTY_STATE_HASH
    half = tmp_path / "b.db"
    connection = unix_connection(half, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()
    with Database(half) as db:
        assert db.engine.state_hash == EMPTY_STATE_HASH


def test_the_truncation_of_the_wal_is_durable_before_anything_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the jepsen suite: parts of an old WAL that came back after a power loss hid newer pages."""
    path = tmp_path / "a.db"
    with Database(path) as db:
        fill(db, 3)
    synced: list[tuple[Which, int]] = []

    def noting_sync(connection: apsw.Connection, which: Which) -> None:
        synced.append((which, file_size(connection, Which.WAL)))
        file_sync(connection, which)

    monkeypatch.setattr(engine_module, "file_sync", noting_sync)
    DatabaseEngine.open(str(path), create=False).close()
    assert synced == [(Which.WAL, 0)]


def test_open_does_not_create(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match="missing"):
        DatabaseEngine.open(str(tmp_path / "a.db"), create=False)
    assert os.listdir(tmp_path) == []


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    noise, foreign, newer = tmp_path / "noise", tmp_path / "foreign", tmp_path / "newer"
    noise.write_bytes(b"not a database, but long enough to be looked at" * 100)
    connection = unix_connection(foreign, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with Database(newer):
        pass
    connection = unix_connection(newer)
    connection.execute("UPDATE _dqlite_meta SET format = 2")
    connection.close()
    for path, error in ((noise, CorruptState), (foreign, CorruptState), (newer, UnknownFormat)):
        before = path.read_bytes()
        for create in (False, True):
            with pytest.raises(error):
                DatabaseEngine.open(str(path), create=create)
        if path is noise:
            assert path.read_bytes() == before


@pytest.mark.parametrize("applied", [-1, "x", None])
def test_a_wrong_applied_index_is_refused(tmp_path: Path, applied: object) -> None:
    with Database(tmp_path / "a.db"):
        pass
    connection = unix_connection(tmp_path / "a.db")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute("DROP TABLE _dqlite_meta; CREATE TABLE _dqlite_meta (format, applied_index)")
    connection.execute("INSERT INTO _dqlite_meta VALUES (1, ?)", (applied,))
    connection.close()
    with pytest.raises(CorruptState, match="applied index"):
        DatabaseEngine.open(str(tmp_path / "a.db"), create=False)


def test_state_survives_reopening(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 20)
        before = db.engine.pin_info()
        db.reopen()
        assert db.engine.pin_info() == before
        assert db.engine.durable_index == before.applied_index
        assert db.query("SELECT count(*) FROM t") == [[20]]


def test_the_incremental_hash_equals_a_scan(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 40)
        db.run(("CREATE INDEX i ON t (v)", []))
        db.run(("DELETE FROM t WHERE id % 2", []))
        db.run(("DROP INDEX i", []))
        expected = db.engine.pin_info()
    assert scan_file(str(db.path)) == (expected.state_hash, expected.page_count)


def test_a_file_that_shrinks_keeps_its_hash_right(tmp_path: Path) -> None:
    """Pages that leave the database (auto_vacuum of an imported file) leave the hash."""
    path = tmp_path / "a.db"
    connection = unix_connection(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    connection.execute("PRAGMA auto_vacuum = FULL")
    connection.execute("CREATE TABLE _dqlite_meta (format INTEGER NOT NULL, applied_index INTEGER NOT NULL)")
    connection.execute("INSERT INTO _dqlite_meta VALUES (1, 0)")
    connection.close()
    with Database(path, create=False) as db:
        fill(db, 60)
        grown = db.engine.page_count
        db.run(("DELETE FROM t", []))
        assert db.engine.page_count < grown
        expected = db.engine.pin_info()
        db.reopen()
        assert db.engine.pin_info() == expected


def test_scan_file_wants_whole_pages(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 3)
    data = db.path.read_bytes()
    for name, content in (("torn", data[:-1]), ("short", data[:50]), ("other", b"x" * 8192), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptState):
            scan_file(str(tmp_path / name))
    with pytest.raises(ValueError, match="whole pages"):
        hash_pages(data[:-1], 4096, 1)


def test_the_hash_covers_every_byte_but_those_that_differ_between_nodes(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 3)
    data = bytearray(db.path.read_bytes())
    state = hash_pages(data, 4096, 1)
    free = {*range(24, 28), *range(40, 44), *range(92, 100)}
    for offset in [*range(100), 101, 4095, 4096, len(data) - 1]:
        data[offset] ^= 0x55
        assert (hash_pages(data, 4096, 1) == state) == (offset in free), offset
        data[offset] ^= 0x55
    assert hash_pages(data[4096:8192], 4096, 2) != hash_pages(data[4096:8192], 4096, 3)
    assert hash_pages(bytes(4096), 4096, 262_145) == 0


def test_another_programs_reader_is_named(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 5)
        db.engine.close()
        reader = unix_connection(db.path)
        reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
        writer = unix_connection(db.path)
        writer.execute("UPDATE _dqlite_meta SET applied_index = applied_index + 1")
        with pytest.raises(DirectoryLocked, match="another program"):
            DatabaseEngine.open(str(db.path), create=False)
        reader.close()
        writer.close()
        db.reopen()


# -- checkpoints ------------------------------------------------------------------------------------------


def test_checkpoint_full_makes_the_present_durable(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 10)
        assert db.engine.durable_index == 0
        assert db.engine.wal_frames > 0
        assert db.engine.checkpoint_full()
        assert db.engine.durable_index == db.engine.applied_index
        assert db.engine.wal_frames == 0
        before = db.engine.durable_index
        fill(db, 1)
        assert db.engine.durable_index == before
        assert 0 < db.engine.wal_frames < 10  # it began anew


def test_a_lagging_reader_holds_durability_back_and_breaks_nothing(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as db:
        fill(db, 10)
        reader = unix_connection(db.path)
        reader.execute("BEGIN").fetchall()
        assert reader.execute("SELECT count(*) FROM t").get == 10
        fill(db, 10)
        assert not db.engine.checkpoint_full()
        assert db.engine.durable_index < db.engine.applied_index
        assert reader.execute("SELECT count(*) FROM t").get == 10
        reader.close()
        assert db.engine.checkpoint_full()
        assert db.engine.durable_index == db.engine.applied_index


def test_a_lagging_reader_is_not_run_against_with_every_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot's copy is such a reader, for long: each pass in vain costs an fsync beside the writers'."""
    monkeypatch.setattr("dqlite_py.storage.engine.WAL_CHECKPOINT_FRAMES", 100)
    passes: list[object] = []
    one_pass = Checkpointer._pass

    def counted(self: Checkpointer) -> int | None:
        passes.append(self)
        return one_pass(self)

    with Database(tmp_path / "a.db") as db:
        fill(db, 1)
        reader = unix_connection(db.path)
        reader.execute("BEGIN").fetchall()
        assert reader.execute("SELECT count(*) FROM t").get == 1
        fill(db, 1)
        monkeypatch.setattr(Checkpointer, "_pass", counted)
        began_frames = db.engine.wal_frames
        for _ in range(200):
            fill(db, 1, 20_000)
            db.engine.checkpoint_step()
            db.engine.wait_checkpoint(60.0)
        assert 0 < len(passes) <= 1 + (db.engine.wal_frames - began_frames) // 100
        reader.close()
        grown_frames = db.engine.wal_frames
        while db.engine.wal_frames >= grown_frames:
            fill(db, 1, 20_000)
            db.engine.checkpoint_step()
            db.engine.wait_checkpoint(60.0)
            assert db.engine.wal_frames < grown_frames + 300, "it begins anew soon after"


def test_checkpoint_step_keeps_the_wal_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqlite_py.storage.engine.WAL_CHECKPOINT_FRAMES", 100)
    monkeypatch.setattr("dqlite_py.storage.engine.WAL_FRAMES_HELD", 200)
    with Database(tmp_path / "a.db") as db:
        longest = 0
        for _ in range(300):
            fill(db, 1, 20_000)
            longest = max(longest, db.engine.wal_frames)
            if db.engine.wal_frames > 100:
                db.engine.checkpoint_step()
        assert longest < 1200  # 300 entries of about 7 frames
        assert db.engine.durable_index > 0
        expected = db.engine.pin_info()
        db.reopen()
        assert db.engine.pin_info() == expected


def test_checkpoint_step_gives_way_to_a_lagging_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reader that never ends the WAL grows; attempts grow rare, and nothing waits for ever."""
    monkeypatch.setattr("dqlite_py.storage.engine.WAL_CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr("dqlite_py.storage.engine.CHECKPOINT_WAIT_S", 0.05)
    with Database(tmp_path / "a.db") as db:
        fill(db, 1)
        reader = unix_connection(db.path)
        reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
        for _ in range(60):
            fill(db, 1, 20_000)
            db.engine.checkpoint_step()
        assert db.engine.durable_index <= 2
        reader.close()
        monkeypatch.setattr("dqlite_py.storage.engine.CHECKPOINT_WAIT_S", 60)  # the pass under way ends first
        assert db.engine.checkpoint_full()


def test_a_failed_checkpoint_stops_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("dqlite_py.storage.checkpoint.file_sync", refuse)
    with Database(tmp_path / "a.db") as db:
        fill(db, 2)
        checkpointer: Checkpointer = db.engine._checkpointer
        checkpointer.request()
        assert checkpointer.wait_idle(10)
        assert db.engine.durable_index == 0
        with pytest.raises(Exception, match="disk gone"):
            fill(db, 1)


def test_readers_and_checkpoints_beside_a_busy_writer(tmp_path: Path) -> None:
    """Each reader sees whole entries only: rows always come in pairs."""
    with Database(tmp_path / "a.db") as db:
        fill(db, 1)
        pool = ReaderPool(str(db.path), 2)
        stop = threading.Event()
        wrong: list[object] = []

        def read() -> None:
            while not stop.is_set():
                ((count,),) = pool.query("SELECT count(*) FROM t").rows
                if count % 2 == 0:
                    wrong.append(count)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        insert = ("INSERT INTO t (v) VALUES (randomblob(500))", [])
        for i in range(300):
            db.apply([insert, insert])
            if i % 20 == 0:
                db.engine.checkpoint_step()
                db.engine.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        stop.set()
        for thread in threads:
            thread.join()
        pool.close()
        assert wrong == []


# -- crashes ----------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.support.engines import Database, one
db = Database(Path(sys.argv[1]), create=True)
if db.engine.applied_index == 0:
    db.run(("CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, v)", []))
while True:
    i = db.engine.applied_index + 1
    db.apply(*(one("INSERT INTO t (i, v) VALUES (?, randomblob(2000))", i) for _ in range(3)))
    if i % 40 == 0:
        db.engine.checkpoint_step() if i % 80 else db.engine.checkpoint_full()
    print(i, db.engine.state_hash, flush=True)
"""


@pytest.mark.slow
def test_kill_leaves_the_state_at_its_own_index(tmp_path: Path) -> None:
    """kill -9 at any moment: contents, applied index and state hash fit together, and nothing told is lost."""
    path = tmp_path / "a.db"
    hashes: dict[int, int] = {}
    told: set[int] = set()  # entries with rows whose application was reported
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        try:
            for _ in range(25 + 17 * round_number):
                index, state = process.stdout.readline().split()
                hashes[int(index)] = int(state)
                told.add(int(index))
        finally:
            process.kill()
            rest = process.stdout.read()
            process.stdout.close()
            process.wait()
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                index, state = line.split()
                hashes[int(index)] = int(state)
        with Database(path, create=False) as db:
            applied, state_hash, _ = db.engine.pin_info()
            assert applied >= max(hashes)
            assert hashes.get(applied, state_hash) == state_hash
            found = db.query("SELECT i, count(*) FROM t GROUP BY i")
            assert {count for _, count in found} == {3}
            assert max(i for i, _ in found) == applied
            assert told <= {i for i, _ in found}
            hashes[db.engine.applied_index] = db.engine.state_hash


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from dqlite_py.errors import StorageFull
from tests.support.engines import Database, entry, one
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = Database(Path(sys.argv[1]))
db.run(("CREATE TABLE t (v)", []))
before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
db.apply(*(one("INSERT INTO t VALUES (zeroblob(3000))") for _ in range(10)))
rows = db.query("SELECT count(*) FROM t")
# The last one has a single piece to write: it fails in the write of the commit frame.
for room, units in ((0, 200), (60_000, 200), (200_000, 200), (100, 0)):
    state = db.engine.pin_info()
    size = 32 + db.engine.wal_frames * (24 + 4096) + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        # Pages that nothing writes later: a hash that counted them would stay wrong.
        db.apply(one("UPDATE t SET v = randomblob(3000) WHERE rowid = 1"),
                 *(one("INSERT INTO t VALUES (randomblob(3000))") for _ in range(units)))
    except StorageFull:
        print("full", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert db.engine.pin_info() == state
    assert db.query("SELECT count(*) FROM t") == rows
db.apply(*(one("INSERT INTO t VALUES (randomblob(3000))") for _ in range(200)))
expected = db.engine.pin_info()
db.reopen()
assert db.engine.pin_info() == expected
assert db.query("SELECT count(*) FROM t") == [[rows[0][0] + 200]]
db.close()
print("done", flush=True)
"""


def test_a_full_disk_under_a_joined_write_applies_nothing(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
        check=False,
    )
    assert found.stdout.split() == ["full", "full", "full", "full", "done"], found.stderr


def test_a_cut_or_damaged_wal_gives_an_earlier_whole_state(tmp_path: Path) -> None:
    """Whatever a power loss leaves of the WAL, the database is exactly the state at some index before."""
    live, copy = tmp_path / "live.db", tmp_path / "copy.db"
    hashes: dict[int, int] = {}
    with Database(live) as db:
        fill(db, 1)
        db.engine.checkpoint_full()
        for _ in range(8):
            fill(db, 1)
            hashes[db.engine.applied_index] = db.engine.state_hash
        main, wal = _content_below(db)
        hashes[2] = hashes.get(2, 0)
    seen = set()
    for cut in range(0, len(wal), 2731):
        torn = bytearray(wal[:cut] if cut % 2 else wal)
        if cut % 2 == 0:
            torn[cut] ^= 0x10
        copy.write_bytes(main)
        Path(f"{copy}-wal").write_bytes(torn)
        with Database(copy, create=False) as db:
            applied, state_hash, _ = db.engine.pin_info()
            seen.add(applied)
            assert hashes.setdefault(applied, state_hash) in (state_hash, 0)
    assert len(seen) > 3


def _content_below(db: Database) -> tuple[bytes, bytes]:
    from dqlite_py.storage.implementation import file_read

    connection = db.engine._connection
    return tuple(file_read(connection, which, 0, file_size(connection, which)) for which in Which)  # type: ignore[return-value]


def test_identity() -> None:
    identity = sqlite_identity()
    assert set(identity) == {"sqlite_version", "sqlite_source_id", "sqlite_options_digest"}
    assert len(bytes.fromhex(identity["sqlite_options_digest"])) == 8


def test_close_is_idempotent_and_leaves_one_file(tmp_path: Path) -> None:
    db = Database(tmp_path / "a.db")
    db.apply_bytes(entry(one("SELECT 1")))
    db.close()
    db.close()
    assert os.listdir(tmp_path) == ["a.db"]


def test_what_the_hash_cannot_follow_is_refused(tmp_path: Path) -> None:
    """With cache_spill on, SQLite writes frames before the commit and goes back over them: the entry fails whole."""
    with Database(tmp_path / "a.db", cache_bytes=64 * 1024) as db:
        fill(db, 1)
        before = db.engine.pin_info()
        db.engine._connection.execute("PRAGMA cache_spill = ON; PRAGMA cache_spill = 10").fetchall()
        spill = (
            "INSERT INTO t (v) SELECT randomblob(3000) FROM t, json_each(json_array(1,2,3,4,5,6,7,8,9)) LIMIT 400",
            [],
        )
        failing = [spill, ("UPDATE t SET v = zeroblob(2000)", []), ("SELECT nope", [])]

        def write() -> None:
            for _ in range(4):
                db.apply(failing, [spill, spill])

        with pytest.raises(InternalError, match="state hash cannot follow"):
            write()
        db.engine._connection.execute("PRAGMA cache_spill = OFF").fetchall()
        expected = db.engine.pin_info()
        assert before.applied_index <= expected.applied_index < 6
        db.reopen()
        assert db.engine.pin_info() == expected
