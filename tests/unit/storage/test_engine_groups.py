"""Transaction units: what their replay applies, and when it is refused as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import pytest
import xxhash

from dqlite_py.command import encode_units, transaction_unit
from dqlite_py.errors import TransactionEnded
from dqlite_py.model import WriteKey
from dqlite_py.resultcodes import TRANSACTION_DIVERGED, error_class
from dqlite_py.storage.engine_api import LiveUnit
from dqlite_py.storage.python_engine.group import next_digest
from tests.support.engines import NOW_US, SEED, Database, one, script
from tests.support.live import Live, body, unit_entry

pytestmark = pytest.mark.usefixtures("implementation")

DIFFERS = [
    TRANSACTION_DIVERGED,
    "the transaction does not give the results that it gave before: nothing of it was applied",
    0,
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(
            script(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE)",
                "INSERT INTO t VALUES (1, 'a')",
                "CREATE TABLE child (t_id REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
                "CREATE VIRTUAL TABLE f USING fts5 (x)",
            )
        )
        yield database


def recorded(db: Database, *groups: Sequence[str]) -> LiveUnit:
    live = Live(db.engine)
    for group in groups:
        live.run(*group)
    return live.finish()


def test_the_error_of_another_digest_is_that_of_an_ended_transaction() -> None:
    assert error_class(TRANSACTION_DIVERGED) is TransactionEnded


def test_another_digest_undoes_it_all(db: Database) -> None:
    unit = recorded(
        db,
        ["INSERT INTO t (k) VALUES ('b')"],
        ["CREATE TABLE u (x)", "INSERT INTO f VALUES ('words')"],
        ["SAVEPOINT s"],
        ["INSERT INTO u VALUES (1)"],
    )
    tampered = LiveUnit(unit.groups, bytes(8))
    assert db.apply_bytes(unit_entry(tampered)) == [DIFFERS]
    assert db.query("SELECT k FROM t") == [["a"]]
    assert db.apply(one("SELECT * FROM u"))[0][0] == 1
    assert db.query("SELECT * FROM f") == []
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT k FROM t") == [["a"], ["b"]]
    assert db.query("SELECT * FROM u, f('words')") == [[1, "words"]]


@pytest.mark.parametrize("change", ["groups", "order", "seed", "time", "missing", "base"])
def test_whatever_differs_is_noticed(db: Database, change: str) -> None:
    unit = recorded(
        db,
        ["INSERT INTO t (k) VALUES (random()) RETURNING k"],
        ["INSERT INTO t (k) VALUES (datetime('now')) RETURNING k"],
        ["UPDATE t SET k = k || 'x' WHERE id = 1 RETURNING k"],
    )
    seed, now_us = SEED, NOW_US
    if change == "groups":
        unit = LiveUnit(
            [*unit.groups[:2], body("UPDATE t SET k = k || 'y' WHERE id = 1 RETURNING k")], unit.digest
        )
    elif change == "order":
        unit = LiveUnit(unit.groups[::-1], unit.digest)
    elif change == "missing":
        unit = LiveUnit(unit.groups[:2], unit.digest)
    elif change == "seed":
        seed = bytes(16)
    elif change == "time":
        now_us += 1_000_000
    else:
        db.apply(one("UPDATE t SET k = 'z'"))
    before = db.query("SELECT * FROM t")
    assert db.apply_bytes(unit_entry(unit, now_us, seed)) == [DIFFERS]
    assert db.query("SELECT * FROM t") == before


def test_what_would_have_ended_the_live_transaction_is_refused(db: Database) -> None:
    rowid = "rowid 9223372036854775807 cannot be used: rowids after it would be random"
    endings = {
        "INSERT OR ROLLBACK INTO t (k) VALUES ('a')": [2067, "UNIQUE constraint failed: t.k", 0],
        "INSERT INTO t (id) VALUES (9223372036854775807)": [2579, rowid, 0],
    }
    for ending, result in endings.items():
        digest = next_digest(bytes(8), msgpack.packb([0, [[1, 2, None, None]]]))
        digest = next_digest(digest, msgpack.packb(result))
        forged = LiveUnit([body("INSERT INTO t (k) VALUES ('b')"), body(ending)], digest)
        assert db.apply_bytes(unit_entry(forged)) == [DIFFERS]
        assert db.query("SELECT k FROM t") == [["a"]]


def test_the_digest_is_a_chain_over_the_results(db: Database) -> None:
    unit = recorded(db, ["INSERT INTO t (k) VALUES ('b')"], ["SELECT 1"], ["INSERT INTO t (k) VALUES ('b')"])
    first = next_digest(bytes(8), msgpack.packb([0, [[1, 2, None, None]]]))
    assert first == xxhash.xxh3_64_digest(bytes(8) + msgpack.packb([0, [[1, 2, None, None]]]))
    assert unit.digest == next_digest(first, msgpack.packb([2067, "UNIQUE constraint failed: t.k", 0]))


def test_a_failing_group_does_not_end_the_unit(db: Database) -> None:
    unit = recorded(
        db,
        [
            "INSERT INTO t (k) VALUES ('b')",
            "INSERT INTO t (k) VALUES ('a')",
            "INSERT INTO t (k) VALUES ('never')",
        ],
        ["INSERT OR FAIL INTO t (k) VALUES ('c'), ('a'), ('d')"],
        ["INSERT OR IGNORE INTO t (k) VALUES ('e'), ('a')"],
        ["INSERT OR REPLACE INTO t (id, k) VALUES (9, 'a')"],
        ["RELEASE absent"],
        ["INSERT INTO t (k) VALUES ('f')", "PRAGMA table_info(t)"],
    )
    assert len(unit.groups) == 6
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert [k for (k,) in db.query("SELECT k FROM t ORDER BY k")] == ["a", "b", "c", "e", "f"]


def test_a_follower_does_the_same_without_results(tmp_path: Path) -> None:
    schema = script("CREATE TABLE t (id INTEGER PRIMARY KEY, k UNIQUE)")
    with Database(tmp_path / "a.db") as leader, Database(tmp_path / "b.db") as follower:
        leader.apply(schema)
        follower.apply(schema)
        unit = recorded(
            leader, ["INSERT INTO t (k) VALUES (random()) RETURNING *"], ["INSERT INTO t VALUES (1, 1)"]
        )
        for digest in (bytes(8), unit.digest):
            payload = unit_entry(LiveUnit(unit.groups, digest))
            leader.apply_bytes(payload)
            result = follower.engine.apply(follower.engine.applied_index + 1, payload, want_results=False)
            assert result.results == b""
            assert result.state_hash == leader.engine.state_hash
        assert follower.query("SELECT * FROM t") == leader.query("SELECT * FROM t") != []


def test_violated_foreign_keys_undo_it(db: Database) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO child VALUES (9)")
    digest = live.transaction._engine.live_end().digest
    live.transaction.rollback()
    result = db.apply_bytes(unit_entry(LiveUnit([body("INSERT INTO child VALUES (9)")], digest)))
    assert result == [[787, "FOREIGN KEY constraint failed", 0]]
    assert db.query("SELECT * FROM child") == []


def test_with_a_key_it_takes_effect_once(db: Database) -> None:
    key = WriteKey(b"k" * 16, NOW_US)
    unit = recorded(db, ["INSERT INTO t (k) VALUES (random())"])
    payload = encode_units("main", NOW_US, SEED, None, [transaction_unit(unit.groups, unit.digest, key)])
    assert db.apply_bytes(payload) == [[0, []]]
    assert db.apply_bytes(payload) == [[0, []]]
    assert db.query("SELECT count(*) FROM t") == [[2]]
    other = WriteKey(b"o" * 16, NOW_US)
    payload = encode_units("main", NOW_US, SEED, None, [transaction_unit(unit.groups, unit.digest, other)])
    assert db.apply_bytes(payload) == [DIFFERS]  # the state is another one now
    assert db.query("SELECT count(*) FROM t") == [[2]]
    assert db.apply_bytes(payload) == [DIFFERS]


def test_many_groups(db: Database) -> None:
    live = Live(db.engine)
    for i in range(3000):
        live.good(("INSERT INTO t (k) VALUES (?)", [f"k{i}"]))
    unit = live.finish()
    assert db.apply_bytes(unit_entry(unit)) == [[0, []]]
    assert db.query("SELECT count(*) FROM t") == [[3001]]
