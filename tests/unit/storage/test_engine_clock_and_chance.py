"""Time and randomness come from the entry, wherever SQL asks for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.storage.readers import ReaderPool
from tests.support.engines import NOW_US, SEED, Database, entry, one, script

pytestmark = pytest.mark.usefixtures("implementation")

STAMP = "2023-11-14 22:13:20"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        yield database


def test_every_clock_shows_the_entrys_time(db: Database) -> None:
    (row,) = db.query(
        "SELECT datetime('now'), CURRENT_TIMESTAMP, CURRENT_DATE, CURRENT_TIME, unixepoch(), strftime('%f'), "
        "julianday('now') = julianday(?)",
        STAMP,
    )
    assert row == [STAMP, STAMP, "2023-11-14", "22:13:20", NOW_US // 1_000_000, "20.000", 1]


def test_defaults_and_triggers_see_it_too(db: Database) -> None:
    db.apply(
        script(
            "CREATE TABLE t (a, at DEFAULT CURRENT_TIMESTAMP, at2 DEFAULT (unixepoch('now', 'subsec')))",
            "CREATE TABLE log (at)",
            "CREATE TRIGGER s AFTER INSERT ON t BEGIN INSERT INTO log VALUES (datetime()); END",
        )
    )
    db.apply(one("INSERT INTO t (a) VALUES (1)"), now_us=NOW_US + 1_234_567)
    assert db.query("SELECT at, at2 FROM t") == [["2023-11-14 22:13:21", 1_700_000_001.234]]
    assert db.query("SELECT at FROM log") == [["2023-11-14 22:13:21"]]


@pytest.mark.parametrize("now_us", [0, -1, 2**63 - 1, -(2**63)])
def test_a_strange_time_is_the_same_everywhere(tmp_path: Path, now_us: int) -> None:
    payload = entry(
        one("CREATE TABLE t AS SELECT datetime('now') AS at, CURRENT_TIMESTAMP AS n"), now_us=now_us
    )
    hashes = []
    for name in ("a", "b"):
        with Database(tmp_path / name) as db:
            db.apply_bytes(payload)
            hashes.append(db.engine.state_hash)
    assert hashes[0] == hashes[1]


def test_local_time_is_an_error_of_its_unit(db: Database) -> None:
    (result,) = db.apply(one("SELECT datetime('now', 'localtime')"))
    assert result == [1, "local time unavailable", 0]


def test_other_connections_keep_the_real_clock(db: Database) -> None:
    db.run(("CREATE TABLE t (a)", []))
    pool = ReaderPool(str(db.path), 1)
    try:
        assert pool.query(
            "SELECT datetime('now') > ?, datetime('now', 'localtime') > ?", [STAMP, STAMP]
        ).rows == [(1, 1)]
    finally:
        pool.close()


def test_the_fixed_clock_belongs_to_its_thread(tmp_path: Path) -> None:
    """Two engines apply at the same time, each with a time of its own."""
    years = {"a": 2001, "b": 2002}
    found: dict[str, set[str]] = {}

    def work(name: str) -> None:
        now_us = (years[name] - 1970) * 31_557_600 * 1_000_000 + 15 * 86_400_000_000
        with Database(tmp_path / name) as db:
            units = [one("SELECT strftime('%Y')") for _ in range(50)]
            found[name] = {unit[1][0][3][0][0] for _ in range(20) for unit in db.apply(*units, now_us=now_us)}

    threads = [threading.Thread(target=work, args=(name,)) for name in years]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": {"2001"}, "b": {"2002"}}


def test_randomness_hangs_on_seed_and_position(db: Database) -> None:
    ask = one("SELECT random(), random(), hex(randomblob(9)), length(randomblob(0))")
    first, second = db.apply(ask, ask)
    assert first != second
    assert db.apply(ask, ask) == [first, second]
    assert db.apply(one("SELECT 1"), ask)[1] == second
    assert db.apply(ask, seed=bytes(16)) != [first]
    (row,) = first[1][0][3]
    assert row[0] != row[1]
    assert row[3] == 1


def test_randomness_survives_a_replay(db: Database) -> None:
    """A unit that is executed twice, because a later one rolled back, draws the same numbers."""
    db.run(("CREATE TABLE t (a UNIQUE, r DEFAULT (random()))", []), ("INSERT INTO t (a) VALUES (1)", []))
    insert = one("INSERT INTO t (a) VALUES (2) RETURNING r")
    alone = db.apply(insert)
    db.run(("DELETE FROM t WHERE a = 2", []))
    assert db.apply(insert, one("INSERT OR ROLLBACK INTO t (a) VALUES (1)"))[:1] == alone


def test_randomness_in_defaults_order_and_triggers(tmp_path: Path) -> None:
    units = (
        script(
            "CREATE TABLE t (a, r DEFAULT (random()), b DEFAULT (hex(randomblob(8))))",
            "CREATE TABLE log (r)",
            "CREATE TRIGGER s AFTER INSERT ON t BEGIN INSERT INTO log VALUES (random()); END",
        ),
        script("INSERT INTO t (a) VALUES (1), (2), (3)", "SELECT a FROM t ORDER BY random()"),
    )
    results = []
    for name in ("a", "b"):
        with Database(tmp_path / name) as db:
            results.append((db.apply(*units), db.engine.state_hash))
    assert results[0] == results[1]
    with Database(tmp_path / "c") as db:
        assert (db.apply(*units, seed=SEED[::-1]), db.engine.state_hash) != results[0]


def test_a_huge_randomblob_is_an_error_not_a_crash(db: Database) -> None:
    assert db.apply(one("SELECT randomblob(1000000000)"))[0][0] == 18
    assert db.apply(one("SELECT zeroblob(1000000000)"))[0][0] == 18
