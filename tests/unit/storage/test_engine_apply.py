"""Entries through the engine: results, what a failing unit leaves, what changes() and friends see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from dqlite_py.command import encode_open, encode_unit, encode_units
from dqlite_py.errors import InternalError, MalformedMessage, UnknownFormat
from dqlite_py.storage import implementation as implementations
from dqlite_py.storage.engine import DatabaseEngine
from tests.support.engines import NOW_US, SEED, Database, entry, one, script

pytestmark = pytest.mark.usefixtures("implementation")

CONSTRAINT_UNIQUE, CONSTRAINT_FK, CONSTRAINT_TRIGGER, CONSTRAINT_ROWID = 2067, 787, 1811, 2579
RANGE, TOOBIG, AUTH, FULL = 25, 18, 23, 13


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.run(("CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, v)", []))
        yield database


def test_results_of_each_kind_of_statement(db: Database) -> None:
    results = db.run(
        ("INSERT INTO t VALUES (7, 'a', 1.5)", []),
        ("INSERT INTO t (k, v) VALUES ('b', ?) RETURNING id, v", [b"\x00\xff"]),
        ("UPDATE t SET v = NULL", []),
        ("SELECT id, k, v FROM t ORDER BY id", []),
        ("SELECT 1 AS one WHERE 0", []),
        ("CREATE TABLE u (x)", []),
        ("DELETE FROM t WHERE 0", []),
        ("WITH c AS (SELECT 9 AS x) INSERT INTO u SELECT x FROM c", []),
    )
    assert results == [
        [1, 7, None, None],
        [1, 8, ["id", "v"], [[8, b"\x00\xff"]]],
        [2, 8, None, None],
        [-1, 8, ["id", "k", "v"], [[7, "a", None], [8, "b", None]]],
        [-1, 8, ["one"], []],
        [-1, 8, None, None],
        [0, 8, None, None],
        [1, 1, None, None],
    ]


def test_values_come_back_as_they_went_in(db: Database) -> None:
    values = [
        None,
        0,
        -1,
        127,
        128,
        -33,
        2**31,
        -(2**63),
        2**63 - 1,
        1.5,
        -0.0,
        "",
        "é\0x",
        b"",
        b"\0" * 300,
        "x" * 70_000,
    ]
    for value in values:
        assert db.query("SELECT ?", value) == [[value]]
        assert type(db.query("SELECT ?", value)[0][0]) is type(value)


def test_text_that_is_not_utf8_comes_back_as_bytes(db: Database) -> None:
    assert db.query("SELECT CAST(x'ff41' AS TEXT)") == [[b"\xffA"]]


def test_a_failing_unit_leaves_the_others(db: Database) -> None:
    results = db.apply(
        one("INSERT INTO t (k) VALUES ('a')"),
        [("INSERT INTO t (k) VALUES ('b')", []), ("INSERT INTO t (k) VALUES ('a')", [])],
        one("INSERT INTO t (k) VALUES ('c')"),
        one("INSERT INTO t (k) VALUES ('a')"),
        one("no such thing"),
    )
    assert [unit[0] for unit in results] == [0, CONSTRAINT_UNIQUE, 0, CONSTRAINT_UNIQUE, 1]
    assert results[1] == [CONSTRAINT_UNIQUE, "UNIQUE constraint failed: t.k", 1]
    assert db.query("SELECT k FROM t ORDER BY id") == [["a"], ["c"]]


@pytest.mark.parametrize("clause", ["OR FAIL", "OR ROLLBACK", "OR ABORT", ""])
def test_no_conflict_clause_leaves_half_a_unit(db: Database, clause: str) -> None:
    results = db.apply(
        one("INSERT INTO t (k) VALUES ('before')"),
        one(f"INSERT {clause} INTO t (k) VALUES ('x'), ('y'), ('x')"),
        one("INSERT INTO t (k) VALUES ('after') RETURNING id"),
    )
    assert results[1] == [CONSTRAINT_UNIQUE, "UNIQUE constraint failed: t.k", 0]
    assert [results[0][0], results[2][0]] == [0, 0]
    assert db.query("SELECT k FROM t ORDER BY id") == [["before"], ["after"]]


def test_raise_fail_in_a_trigger_leaves_nothing(db: Database) -> None:
    db.run(
        (
            "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.k = 'no' BEGIN "
            "INSERT INTO t (k) VALUES ('half'); SELECT RAISE(FAIL, 'no'); END",
            [],
        )
    )
    assert db.apply(one("INSERT INTO t (k) VALUES ('no')")) == [[CONSTRAINT_TRIGGER, "no", 0]]
    assert db.query("SELECT count(*) FROM t") == [[0]]


def test_raise_rollback_kills_one_unit_only(db: Database) -> None:
    db.run(
        (
            "CREATE TRIGGER kill BEFORE INSERT ON t WHEN NEW.k = 'kill' BEGIN SELECT RAISE(ROLLBACK, 'killed'); END",
            [],
        )
    )
    kill = [("INSERT INTO t (k) VALUES ('half')", []), ("INSERT INTO t (k) VALUES ('kill')", [])]
    results = db.apply(
        one("INSERT INTO t (k) VALUES ('a')"), kill, one("INSERT INTO t (k) VALUES ('b')"), kill
    )
    assert [unit[0] for unit in results] == [0, CONSTRAINT_TRIGGER, 0, CONSTRAINT_TRIGGER]
    assert results[1] == [CONSTRAINT_TRIGGER, "killed", 1]
    assert db.query("SELECT k FROM t ORDER BY id") == [["a"], ["b"]]


def test_many_killers_in_one_entry_stay_cheap(db: Database) -> None:
    db.run(("INSERT INTO t (id, k) VALUES (1, 'a')", []))
    killers = [one("INSERT OR ROLLBACK INTO t (id) VALUES (1)") for _ in range(200)]
    results = db.apply(
        one("INSERT INTO t (k) VALUES ('first')"), *killers, one("INSERT INTO t (k) VALUES ('last')")
    )
    assert results[0][0] == 0
    assert {unit[0] for unit in results[1:65]} == {1555}
    assert {unit[0] for unit in results[65:]} == {516}  # not executed: told so
    assert db.query("SELECT k FROM t ORDER BY id") == [["a"], ["first"]]


def test_an_exhausted_autoincrement_is_the_units_error(db: Database) -> None:
    db.run(
        ("CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT)", []),
        ("INSERT INTO n VALUES (9223372036854775806)", []),
        ("UPDATE sqlite_sequence SET seq = 9223372036854775807", []),
    )
    results = db.apply(one("INSERT INTO t (k) VALUES ('a')"), one("INSERT INTO n DEFAULT VALUES"))
    assert [unit[0] for unit in results] == [0, FULL]
    assert db.query("SELECT k FROM t") == [["a"]]


def test_deferred_foreign_keys_fail_their_unit_not_the_commit(db: Database) -> None:
    db.run(
        ("CREATE TABLE p (id INTEGER PRIMARY KEY)", []),
        ("CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)", []),
    )
    results = db.apply(
        one("INSERT INTO c VALUES (1)"),
        script("INSERT INTO c VALUES (2)", "INSERT INTO p VALUES (2)"),
        script("INSERT INTO p VALUES (3)", "INSERT INTO c VALUES (4)"),
    )
    assert [unit[0] for unit in results] == [CONSTRAINT_FK, 0, CONSTRAINT_FK]
    assert db.query("SELECT p FROM c") == [[2]]
    assert db.query("SELECT id FROM p") == [[2]]


def test_the_largest_rowid_is_refused(db: Database) -> None:
    largest = 2**63 - 1
    results = db.apply(
        one("INSERT INTO t (id) VALUES (?)", largest),
        one("INSERT INTO t (id) VALUES (?)", largest - 1),
        one("UPDATE t SET id = id + 1"),
        one("INSERT INTO t (k) VALUES ('next')"),
    )
    assert [unit[0] for unit in results] == [CONSTRAINT_ROWID, 0, CONSTRAINT_ROWID, CONSTRAINT_ROWID]
    assert db.query("SELECT id FROM t") == [[largest - 1]]


def test_counters_start_with_each_unit(db: Database) -> None:
    db.run(("CREATE TABLE log (n, total, rowid_before)", []))
    db.run(
        (
            "CREATE TRIGGER seen BEFORE INSERT ON t BEGIN "
            "INSERT INTO log VALUES (changes(), total_changes(), last_insert_rowid()); END",
            [],
        )
    )
    ask = ("SELECT changes(), total_changes(), last_insert_rowid()", [])
    first, second = db.apply(
        [("INSERT INTO t (id) VALUES (5), (6)", []), ask], [ask, ("INSERT INTO t (id) VALUES (9)", [])]
    )
    assert first[1][1][3] == [[2, 4, 6]]
    assert second[1][0][3] == [[0, 0, 0]]
    assert db.query("SELECT * FROM log") == [[0, 0, 0], [0, 1, 5], [0, 0, 0]]


def test_executemany_refers_to_earlier_text(db: Database) -> None:
    unit = [("INSERT INTO t (k, v) VALUES (?, ?)", [f"k{i}", i]) for i in range(500)]
    assert db.apply(unit)[0][0] == 0
    assert db.query("SELECT count(*), sum(v) FROM t") == [[500, sum(range(500))]]


def test_named_parameters(db: Database) -> None:
    assert db.query("SELECT 1") == [[1]]
    (ok, missing, nameless, extra, wrong) = db.apply(
        [("SELECT :a, @b, $c, :a", {"a": 1, "b": 2, "c": 3})],
        [("SELECT :a, :b", {"a": 1})],
        [("SELECT ?, :a", {"a": 1})],
        [("SELECT :a", {"a": 1, "z": 2, "": 3})],
        [("SELECT ?1, ?2", [1])],
    )
    assert ok[1][0][3] == [[1, 2, 3, 1]]
    assert missing == [RANGE, "no value was given for parameter :b", 0]
    assert nameless[0] == RANGE
    assert extra[1][0][3] == [[1]]
    assert wrong == [RANGE, "the statement has 2 parameters, and 1 were given", 0]


def test_as_many_parameters_as_allowed(db: Database) -> None:
    count = 32_766
    marks = ", ".join(f":p{i}" for i in range(count))
    values = {f"p{i}": i for i in range(count)}
    assert db.query(f"SELECT count(*) FROM json_each(json_array({', '.join(['?'] * 900)}))", *range(900)) == [
        [900]
    ]
    (result,) = db.apply([(f"INSERT INTO t (id) SELECT 1 WHERE 5 IN ({marks})", values)])
    assert result == [0, [[1, 1, None, None]]]
    (result,) = db.apply([(f"SELECT 1 WHERE 5 IN ({', '.join(['?'] * count)})", list(range(count)))])
    assert result[1][0][3] == [[1]]


def test_a_large_blob_goes_in_and_out(db: Database) -> None:
    blob = bytes(range(256)) * 4096 * 20  # 20 MiB: many WAL frames, many overflow pages
    db.run(("INSERT INTO t (v) VALUES (?)", [blob]))
    db.reopen()
    assert db.query("SELECT v FROM t") == [[blob]]


def test_sql_with_a_nul_is_an_error_of_its_unit(db: Database) -> None:
    assert db.apply(one("SELECT 1\0; DROP TABLE t"))[0][0] == 1
    assert db.apply(one(""))[0][0] == 1
    assert db.apply(one(" -- nothing\n;"))[0][0] == 1


def test_results_are_bounded_and_the_unit_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        implementations.start_engine, "__kwdefaults__", {"statements_max": 16, "results_max": 10_000}
    )
    with Database(tmp_path / "a.db") as db, Database(tmp_path / "b.db") as other:
        payload = entry(
            one("CREATE TABLE t (v)"),
            one("INSERT INTO t VALUES (randomblob(6000)) RETURNING v"),
            one("INSERT INTO t VALUES (randomblob(6000)) RETURNING v"),
            one("SELECT count(*) FROM t"),
        )
        results = db.apply_bytes(payload)
        assert [unit[0] for unit in results] == [0, 0, TOOBIG, 0]
        assert results[3][1][0][3] == [[1]]
        # Counted alike where nobody wants the results.
        assert other.engine.apply(1, payload, want_results=False).state_hash == db.engine.state_hash


def test_results_only_when_wanted(db: Database) -> None:
    assert db.engine.apply(100, entry(one("SELECT 1")), want_results=False).results == b""
    assert db.engine.applied_index == 100


def test_an_index_is_applied_once(db: Database) -> None:
    with pytest.raises(InternalError, match="applied already"):
        db.engine.apply(db.engine.applied_index, entry(one("SELECT 1")), want_results=True)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        encode_open("main", NOW_US),
        entry(one("SELECT 1"))[:-1],
        entry(one("SELECT 1")) + b"\xc0",
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, []]),
        msgpack.packb([1, 1, "main", NOW_US, b"short", None, [[None, 0, [["SELECT 1", []]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, []]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 1, [["SELECT 1", []]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [[0, []]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT 1", [], 1]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT ?", [True]]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT ?", [2**63]]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT ?", [[1]]]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT ?", {1: 1}]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT ?", [0] * 32_767]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, [1], [[None, 0, [["SELECT 1", []]]]]]),
        msgpack.packb([1, 1, "main", NOW_US, SEED, None, [[None, 0, [["SELECT 1", []]]]] * 4097]),
        entry(one("SELECT '?'")).replace(b"?", b"\xff"),  # invalid UTF-8
    ],
)
def test_a_malformed_payload_changes_nothing(db: Database, payload: bytes) -> None:
    before = db.engine.pin_info()
    with pytest.raises(MalformedMessage):
        db.engine.apply(50, payload, want_results=True)
    assert db.engine.pin_info() == before
    assert db.query("SELECT count(*) FROM t") == [[0]]


def test_an_unknown_version_is_named(db: Database) -> None:
    with pytest.raises(UnknownFormat):
        db.engine.apply(50, b"\x97\x02" + entry(one("SELECT 1"))[2:], want_results=True)


def test_a_bad_unit_behind_good_ones_applies_none(db: Database) -> None:
    good = encode_unit([("INSERT INTO t (k) VALUES ('a')", [])])
    payload = encode_units("main", NOW_US, SEED, None, [good, b"\x93\xc0\x00\x90"])
    with pytest.raises(MalformedMessage):
        db.engine.apply(50, payload, want_results=True)
    assert db.query("SELECT count(*) FROM t") == [[0]]


def test_a_changed_schema_passes_the_guard_again(db: Database) -> None:
    """A cached statement must not reach what its first preparation did not name: a restarted node has no cache."""
    ask = one("INSERT INTO t (v) SELECT * FROM source")
    db.run(("CREATE VIEW source AS SELECT 1", []))
    assert db.apply(ask)[0][0] == 0
    db.run(("DROP VIEW source", []))
    assert db.apply(one("CREATE VIEW source AS SELECT sqlite_version()"), ask)[1][0] == AUTH


def test_a_small_statement_cache_changes_nothing(tmp_path: Path) -> None:
    payloads = [entry(*(one(f"SELECT {i}, ?", i) for i in range(j, j + 40))) for j in range(5)]
    hashes = []
    for name, size in (("a", 1), ("b", 256)):
        with Database(tmp_path / name, statements_max=size) as db:
            results = [db.apply_bytes(payload) for payload in payloads]
            hashes.append((results, db.engine.state_hash))
    assert hashes[0] == hashes[1]


def test_engines_of_one_process_are_apart(tmp_path: Path) -> None:
    first = DatabaseEngine.open(str(tmp_path / "a.db"), create=True)
    second = DatabaseEngine.open(str(tmp_path / "b.db"), create=True)
    try:
        first.apply(1, entry(one("CREATE TABLE x (r DEFAULT (random()))")), want_results=False)
        assert first.state_hash != second.state_hash
        second.apply(1, entry(one("CREATE TABLE x (r DEFAULT (random()))")), want_results=False)
        assert first.state_hash == second.state_hash
    finally:
        first.close()
        second.close()
