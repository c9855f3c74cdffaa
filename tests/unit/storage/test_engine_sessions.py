"""Client sessions: a write sent again takes effect once, also across restarts, failures and kills."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from dqlite_py.command import encode_statements, encode_units, fence_unit, stamp_unit, transaction_unit
from dqlite_py.errors import CorruptState, NeverApplied, Outcome, SessionExpired
from dqlite_py.limits import SESSION_AHEAD_US, SESSION_KEEP_US
from dqlite_py.model import WriteKey
from dqlite_py.ports import SystemDisk
from dqlite_py.resultcodes import (
    NEVER_APPLIED,
    SESSION_EXPIRED,
    SESSION_SUPERSEDED,
    TRANSACTION_DIVERGED,
    error_from_code,
)
from dqlite_py.storage.engine_api import Implementation
from dqlite_py.storage.meta import MadeBy, read_index
from dqlite_py.storage.pin import pin, read_applied_index
from tests.support.engines import NOW_US, SEED, Database, one

pytestmark = pytest.mark.usefixtures("implementation")

ROOT = Path(__file__).parents[3]
FIRST, OTHER = b"a" * 16, b"b" * 16


@pytest.fixture
def db(tmp_path: Path) -> Any:
    with Database(tmp_path / "a.db") as database:
        database.run(("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", []))
        yield database


def keyed(session: bytes, sequence: int, sql: str = "INSERT INTO t (v) VALUES (?)", *params: Any) -> bytes:
    return stamp_unit(encode_statements([(sql, list(params))]), WriteKey(session, sequence))


def fence(session: bytes, sequence: int) -> bytes:
    return fence_unit(WriteKey(session, sequence))


def send(db: Database, *units: bytes, now_us: int = NOW_US) -> list[Any]:
    return db.apply_bytes(encode_units("main", now_us, SEED, None, units))


def code_of(results: Sequence[Any]) -> list[int]:
    return [result[0] for result in results]


def table(db: Database) -> list[Any]:
    return db.engine._connection.execute("SELECT log_index, now_us, results FROM _dqlite_sessions").fetchall()


def test_a_write_sent_again_answers_what_it_answered(db: Database) -> None:
    unit = keyed(FIRST, 1, "INSERT INTO t (v) VALUES (?) RETURNING id, random()", "x")
    (first,) = send(db, unit)
    assert first[:1] == [0]
    db.run(("DELETE FROM t", []))
    assert send(db, unit) == [first]
    db.reopen()
    assert send(db, unit, unit) == [first, first]
    assert db.query("SELECT count(*) FROM t") == [[0]]


def test_an_error_is_kept_too(db: Database) -> None:
    db.run(("INSERT INTO t (v) VALUES ('x')", []))
    (first,) = send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES ('x')"))
    db.run(("DELETE FROM t", []))
    assert first[0] == 2067
    assert send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES ('x')")) == [first]
    assert db.query("SELECT count(*) FROM t") == [[0]]


def test_what_rolls_the_entry_back_is_answered_once_and_kept(db: Database) -> None:
    kill = "INSERT OR ROLLBACK INTO t (v) VALUES ('x')"
    units = [keyed(OTHER, 1, kill), keyed(FIRST, 1, kill), keyed(OTHER, 2, "INSERT INTO t (v) VALUES (2)")]
    assert code_of(send(db, *units)) == [0, 2067, 0]
    assert code_of(send(db, units[1], units[2], units[0])) == [2067, 0, SESSION_SUPERSEDED]
    assert db.query("SELECT v FROM t ORDER BY id") == [["x"], [2]]


def test_the_next_write_forgets_the_one_before(db: Database) -> None:
    send(db, keyed(FIRST, 5, "INSERT INTO t (v) VALUES (5)"))
    send(db, keyed(FIRST, 6, "INSERT INTO t (v) VALUES (6)"))
    assert [row[0] for row in table(db)] == [3]  # CREATE TABLE is entry 1
    ((code, message, statement),) = send(db, keyed(FIRST, 5, "INSERT INTO t (v) VALUES (7)"))
    assert (code, statement) == (SESSION_SUPERSEDED, 0)
    error = error_from_code(code, message)
    assert isinstance(error, SessionExpired)
    assert error.outcome is Outcome.UNKNOWN
    assert db.query("SELECT v FROM t ORDER BY id") == [[5], [6]]


def test_a_fence_decides(db: Database) -> None:
    """After it the write has happened, or never will."""
    (result,) = send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES (1)"))
    assert send(db, fence(FIRST, 1)) == [result]
    ((code, message, _),) = send(db, fence(FIRST, 2))
    assert code == NEVER_APPLIED
    assert isinstance(error_from_code(code, message), NeverApplied)
    assert send(db, keyed(FIRST, 2, "INSERT INTO t (v) VALUES (2)")) == [[code, message, 0]]
    assert code_of(send(db, fence(FIRST, 1))) == [SESSION_SUPERSEDED]
    assert code_of(send(db, fence(OTHER, 1), keyed(OTHER, 1), keyed(OTHER, 2, "SELECT 1"))) == [code, code, 0]
    assert db.query("SELECT v FROM t") == [[1]]


def test_keys_out_of_their_time_are_refused(db: Database) -> None:
    send(db, keyed(FIRST, NOW_US, "SELECT 1"))
    later_us = NOW_US + SESSION_KEEP_US
    send(db, keyed(OTHER, later_us + SESSION_AHEAD_US, "SELECT 1"), now_us=later_us)
    assert len(table(db)) == 2  # to the microsecond
    send(db, keyed(OTHER, later_us + SESSION_AHEAD_US + 1, "SELECT 1"), now_us=later_us + 1)
    (horizon, (_, _, last)) = table(db)
    assert horizon == (0, 0, NOW_US.to_bytes(8, "big"))
    assert last.startswith(OTHER)
    ((code, message, _), (ahead, _, _)) = send(
        db, keyed(FIRST, NOW_US), keyed(OTHER, later_us + SESSION_AHEAD_US + 2), now_us=later_us + 1
    )
    assert (code, ahead) == (SESSION_EXPIRED, SESSION_EXPIRED)
    error = error_from_code(code, message, statement=0)
    assert isinstance(error, SessionExpired)
    assert error.details == {"log_time_us": later_us + 1}
    assert db.query("SELECT count(*) FROM t") == [[0]]
    send(
        db, keyed(FIRST, NOW_US + 1, "SELECT 1"), now_us=later_us + 1
    )  # newer than the horizon: a new session
    assert table(db)[-1][2].startswith(FIRST)


def test_entries_without_sessions_make_no_table(db: Database) -> None:
    names = [row[0] for row in db.query("SELECT name FROM sqlite_schema ORDER BY name")]
    assert "_dqlite_sessions" not in names
    ((code, _, _),) = send(db, fence(FIRST, NOW_US + SESSION_AHEAD_US + 1))
    assert code == SESSION_EXPIRED
    assert [row[0] for row in db.query("SELECT name FROM sqlite_schema ORDER BY name")] == names


def test_the_table_is_reserved(db: Database) -> None:
    send(db, keyed(FIRST, 1, "SELECT 1"))
    for sql in ("SELECT * FROM _dqlite_sessions", "DELETE FROM _dqlite_sessions"):
        assert code_of(db.apply(one(sql))) == [23]


def test_counters_do_not_see_the_engines_own_rows(db: Database) -> None:
    ask = "SELECT changes(), total_changes(), last_insert_rowid()"
    send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES (1), (2)"), keyed(OTHER, 1, "SELECT 1"))
    for unit in (keyed(FIRST, 2, ask), stamp_unit(encode_statements([(ask, [])]), None)):
        ((_, ((_, _, _, rows),)),) = send(db, unit)
        assert rows == [[0, 0, 0]]


def test_an_interactive_transaction_with_a_key_takes_effect_once(db: Database) -> None:
    live = db.engine.live_begin(NOW_US, SEED)
    for value in (1, 2):
        live.run(encode_statements([("INSERT INTO t (v) VALUES (? + random() % 2)", [10 * value])]))
    groups, digest = live.finish()
    keys = [WriteKey(FIRST, 1), WriteKey(FIRST, 2)]
    good, twice = (transaction_unit(groups, digest, key) for key in keys)
    send(db, keyed(OTHER, 1, "SELECT 1"))
    assert send(db, good) == [[0, []]]
    written = db.query("SELECT v FROM t ORDER BY id")
    assert len(written) == 2
    db.reopen()
    for _ in range(
        2
    ):  # now random() is the same, and so v is no longer unique: another result, which is kept
        ((code, _, _),) = send(db, twice)
        assert code == TRANSACTION_DIVERGED
        db.run(("UPDATE t SET v = v + 100", []))
    assert code_of(send(db, good)) == [SESSION_SUPERSEDED]
    assert send(db, fence(OTHER, 2), fence(OTHER, 2))[0][0] == NEVER_APPLIED
    assert send(db, transaction_unit(groups, digest, WriteKey(OTHER, 2)))[0][0] == NEVER_APPLIED
    assert db.query("SELECT count(*) FROM t") == [[2]]


# -- the applied index ----------------------------------------------------------------------------------


def test_the_applied_index_is_the_newer_of_both_tables(db: Database, tmp_path: Path) -> None:
    read_meta = "SELECT applied_index FROM _dqlite_meta"
    send(db, keyed(FIRST, 1, "SELECT 1"))
    connection = db.engine._connection
    assert (connection.execute(read_meta).get, read_index(connection), db.engine.applied_index) == (1, 2, 2)
    db.run(("SELECT 1", []))
    assert (connection.execute(read_meta).get, read_index(connection)) == (3, 3)
    send(db, keyed(FIRST, 2, "SELECT 1"))
    info = db.engine.pin_info()
    pinned = pin(str(db.path), name="main", applied_index=4, state_hash=info.state_hash)
    try:
        pinned.copy_to(str(tmp_path / "copy.db"), disk=SystemDisk())
    finally:
        pinned.close()
    assert read_applied_index(str(tmp_path / "copy.db")) == 4
    db.reopen()
    assert db.engine.pin_info() == info
    with Database(tmp_path / "copy.db", create=False) as copy:
        assert copy.engine.pin_info() == info
        assert code_of(send(copy, keyed(FIRST, 1, "SELECT 1"))) == [SESSION_SUPERSEDED]


# -- damage ---------------------------------------------------------------------------------------------


def record(session: bytes, sequence: int, result: bytes = b"\x92\x00\x90") -> bytes:
    return session + sequence.to_bytes(8, "big") + len(result).to_bytes(4, "big") + result


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("INSERT INTO _dqlite_sessions VALUES (90, 1, 'text')", "another type"),
        ("UPDATE _dqlite_sessions SET now_us = 'soon'", "another type"),
        ("UPDATE _dqlite_sessions SET results = x''", "without results"),
        ("UPDATE _dqlite_sessions SET results = substr(results, 1, length(results) - 1)", "cut off"),
        ("UPDATE _dqlite_sessions SET results = substr(results, 1, 27)", "cut off"),
        ("UPDATE _dqlite_sessions SET results = results || x'00'", "cut off"),
        (
            "UPDATE _dqlite_sessions SET results = CAST(substr(results, 1, 24) || x'00000000' AS BLOB)",
            "cut off",
        ),
        ("UPDATE _dqlite_sessions SET results = CAST(results || results AS BLOB)", "does not grow"),
        ("INSERT INTO _dqlite_sessions SELECT 90, now_us, results FROM _dqlite_sessions", "does not grow"),
        (f"INSERT INTO _dqlite_sessions VALUES (90, 1, x'{record(FIRST, 0).hex()}')", "does not grow"),
        (f"INSERT INTO _dqlite_sessions VALUES (90, 1, x'{record(b'n' * 16, 0).hex()}')", "does not grow"),
        (
            f"INSERT INTO _dqlite_sessions VALUES (90, 1, x'{record(b'n' * 16, 2**63).hex()}')",
            "does not grow",
        ),
        (f"INSERT INTO _dqlite_sessions VALUES (90, 1, x'{record(FIRST, 9).hex()}')", "no session needs"),
        ("INSERT INTO _dqlite_sessions VALUES (0, 0, x'00')", "horizon"),
        ("INSERT INTO _dqlite_sessions VALUES (0, 0, x'ffffffffffffffff')", "horizon"),
        ("INSERT INTO _dqlite_sessions VALUES (0, 0, x'0000000000000000')", "horizon"),
        (f"INSERT INTO _dqlite_sessions VALUES (-1, 0, x'{record(b'n' * 16, 1).hex()}')", "negative"),
        ("ALTER TABLE _dqlite_sessions RENAME now_us TO then_us", "no column named now_us"),
    ],
)
def test_damage_is_found_at_the_start(db: Database, damage: str, found: str) -> None:
    send(db, keyed(FIRST, 1, "SELECT 1"))
    db.close()
    connection = apsw.Connection(str(db.path))
    try:
        connection.execute(damage.replace("results || x'00'", "CAST(results || x'00' AS BLOB)"))
    finally:
        connection.close()
    with pytest.raises(CorruptState, match=found) as caught:
        Database(db.path, create=False)
    assert caught.value.details["file"] == str(db.path)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM _dqlite_sessions",
        "UPDATE _dqlite_sessions SET results = x''",
        "UPDATE _dqlite_sessions SET results = zeroblob(100)",
        "UPDATE _dqlite_sessions SET results = substr(results, 1, length(results) - 1)",
        "UPDATE _dqlite_sessions SET results = CAST(zeroblob(16) || substr(results, 17) AS BLOB)",
        "UPDATE _dqlite_sessions SET results = CAST(substr(results, 1, 16) || zeroblob(50) AS BLOB)",
    ],
)
def test_a_result_that_is_gone_breaks_the_apply(db: Database, damage: str) -> None:
    """Never executed a second time for want of the answer."""
    send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES (1)"))
    db.engine._connection.execute(damage).fetchall()
    with pytest.raises(Exception, match="lacks a result"):
        send(db, keyed(FIRST, 1, "INSERT INTO t (v) VALUES (1)"))
    assert db.query("SELECT v FROM t") == [[1]]


# -- failures and kills ---------------------------------------------------------------------------------

DISK_FULL = """
import resource, signal, sys
from pathlib import Path
from dqlite_py.command import encode_statements, encode_units, stamp_unit
from dqlite_py.errors import StorageFull
from dqlite_py.model import WriteKey
from tests.support.engines import NOW_US, SEED, Database
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = Database(Path(sys.argv[1]))
db.run(("CREATE TABLE t (v)", []))
before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
body = encode_statements([("INSERT INTO t VALUES (randomblob(90000))", [])])

def send(*keys):
    units = [stamp_unit(body, WriteKey(bytes([session]) * 16, sequence)) for session, sequence in keys]
    return db.apply_bytes(encode_units("main", NOW_US, SEED, None, units))

def fail(*keys):
    state = db.engine.pin_info()
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 + db.engine.wal_frames * (24 + 4096) + 5000, hard))
    try:
        send(*keys)
    except StorageFull:
        print("full", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert db.engine.pin_info() == state

fail((1, 1), (2, 1), (1, 2))  # would make the table
assert [r[0] for r in send((1, 1), (2, 1), (1, 2), (1, 2))] == [0, 0, 0, 0]
assert db.query("SELECT count(*) FROM t") == [[3]]
fail((2, 5), (3, 1), (1, 3), (1, 4))  # every session goes on: the row is left
assert [r[0] for r in send((1, 2), (2, 1))] == [0, 0]
assert db.query("SELECT count(*) FROM t") == [[3]]
assert [r[0] for r in send((2, 5), (3, 1), (1, 3), (1, 4), (2, 1))] == [0, 0, 0, 0, 4 | 201 << 8]
assert db.query("SELECT count(*) FROM t") == [[7]]
expected = db.engine.pin_info()
db.reopen()
assert db.engine.pin_info() == expected
assert [r[0] for r in send((2, 5), (3, 1), (1, 4), (1, 3))] == [0, 0, 0, 4 | 201 << 8]
assert db.query("SELECT count(*) FROM t") == [[7]]
db.close()
print("done", flush=True)
"""


def test_an_entry_that_the_disk_has_no_room_for_leaves_sessions_as_they_were(
    tmp_path: Path, implementation: Implementation
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "DQLITE_PY_IMPL": implementation.name},
        timeout=60,
        check=False,
    )
    assert found.stdout.split() == ["full", "full", "done"], found.stderr


WRITER = """
import sys
from pathlib import Path
from dqlite_py.command import encode_statements, encode_units, stamp_unit
from dqlite_py.model import WriteKey
from tests.support.engines import NOW_US, SEED, Database
db = Database(Path(sys.argv[1]), create=True)
if db.engine.applied_index == 0:
    db.run(("CREATE TABLE t (session, sequence)", []))
while True:
    i = db.engine.applied_index + 1
    units = []
    for session in (i % 5, 5 + i % 3, 8):
        body = encode_statements([("INSERT INTO t VALUES (?, ?)", [session, i])])
        units.append(stamp_unit(body, WriteKey(bytes([session]) * 16, i)))
    db.apply_bytes(encode_units("main", NOW_US, SEED, None, units))
    if i % 40 == 0:
        db.engine.checkpoint_step() if i % 80 else db.engine.checkpoint_full()
    print(i, flush=True)
"""


@pytest.mark.slow
def test_a_write_sent_again_after_a_kill_takes_effect_once(
    tmp_path: Path, implementation: Implementation
) -> None:
    """kill -9 between any two commits: the sessions are those of the state at its own index."""
    path = tmp_path / "a.db"
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DQLITE_PY_IMPL": implementation.name},
        )
        assert process.stdout is not None
        try:
            for _ in range(25 + 17 * round_number):
                told = int(process.stdout.readline())
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        with Database(path, create=False) as db:
            applied = db.engine.applied_index
            assert applied >= told
            before = db.query("SELECT session, sequence, count(*) FROM t GROUP BY 1, 2")
            assert {count for _, _, count in before} == {1}
            newest = {session: sequence for session, sequence, _ in before}
            units = [
                keyed(
                    bytes([session]) * 16, sequence + more, "INSERT INTO t VALUES (?, ?)", session, sequence
                )
                for session, sequence in newest.items()
                for more in (0, -1)
            ]
            assert set(code_of(send(db, *units))) <= {0, SESSION_SUPERSEDED}
            assert db.query("SELECT session, sequence, count(*) FROM t GROUP BY 1, 2") == before


def test_a_database_that_is_made_anew_refuses_what_was_for_the_one_before(tmp_path: Path) -> None:
    with Database(tmp_path / "new.db", made_by=MadeBy(7, NOW_US)) as db:
        db.run(("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", []))
        before, after = keyed(FIRST, NOW_US, "INSERT INTO t VALUES (1, 1)"), keyed(OTHER, NOW_US + 1)
        assert code_of(send(db, before, fence(FIRST, NOW_US - 1), now_us=NOW_US + 5)) == [SESSION_EXPIRED] * 2
        assert code_of(
            send(db, keyed(OTHER, NOW_US + 1, "INSERT INTO t VALUES (2, 2)"), now_us=NOW_US + 5)
        ) == [0]
        assert db.run(("SELECT id FROM t", []))[0][3] == [[2]]
        hash_before = db.engine.state_hash
    with Database(tmp_path / "new.db", create=False) as db:  # and does so after a restart
        assert db.engine.state_hash == hash_before
        assert code_of(send(db, before, after, now_us=NOW_US + 6)) == [SESSION_EXPIRED, 0]


def test_an_empty_database_depends_on_its_opening_alone(tmp_path: Path) -> None:
    hashes = []
    for number, index, now_us in (
        (1, 7, NOW_US),
        (2, 7, NOW_US),
        (3, 7, NOW_US + 1),
        (4, 8, NOW_US),
        (5, 0, 0),
    ):
        with Database(tmp_path / f"{number}.db", made_by=MadeBy(index, now_us)) as db:
            assert db.engine.applied_index == index
            hashes.append(db.engine.state_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_a_database_that_is_there_keeps_its_horizon(tmp_path: Path) -> None:
    """A second OPEN, or a start, makes nothing."""
    with Database(tmp_path / "a.db", made_by=MadeBy(7, NOW_US)) as db:
        first = db.engine.state_hash
    with Database(tmp_path / "a.db", made_by=MadeBy(9, NOW_US + 50)) as db:
        assert db.engine.state_hash == first
