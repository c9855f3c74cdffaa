"""Read transactions: one frozen state, several statements, an end that is told."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import Busy, Error, OperationalError, TransactionEnded
from dqlite_py.storage.readers import HoldLimits, QueryResult, ReaderPool
from tests.support.engines import Database, one, script
from tests.unit.storage.test_reader_streams import NUMBERS, ROWS, rest

pytestmark = pytest.mark.usefixtures("implementation")

LONG = HoldLimits(1000, 1000)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(
            script("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)", f"INSERT INTO t {NUMBERS.format(ROWS)}")
        )
        yield database


@pytest.fixture
def pool(db: Database) -> Iterator[ReaderPool]:
    readers = ReaderPool(str(db.path), 2)
    yield readers
    readers.close()


def test_the_state_is_frozen_and_named(db: Database, pool: ReaderPool) -> None:
    count = "SELECT count(*) FROM t"
    first = pool.begin(LONG, timeout_s=1)
    db.apply(one("DELETE FROM t WHERE a = 1"))
    second = pool.begin(LONG, timeout_s=1)
    db.apply(one("DELETE FROM t WHERE a = 2"))
    assert (first.log_index, second.log_index) == (1, 2)
    for _ in range(2):
        assert first.query(count, (), 1) == QueryResult(("count(*)",), (None,), [(ROWS,)], 1)
        assert second.query(count, (), 1).rows == [(ROWS - 1,)]
        assert pool.query(count).rows == [(ROWS - 2,)]
    first.close()
    first.close()
    second.close()
    assert not pool.has_held
    assert pool.stream(count, with_index=True) == QueryResult(("count(*)",), (None,), [(ROWS - 2,)], 3)


def test_statements_and_streams_side_by_side(db: Database, pool: ReaderPool) -> None:
    transaction = pool.begin(LONG, timeout_s=1)
    sql = "SELECT a, b FROM t ORDER BY a"
    streams = [transaction.query(sql, (), 1) for _ in range(3)]
    db.apply(one("DELETE FROM t"))
    expected = [(n, f"v{n}") for n in range(1, ROWS + 1)]
    for found in streams[:2]:
        assert found.more is not None
        found.rows.extend(found.more.fetch())
        assert transaction.query("SELECT count(*) FROM t", (), 1).rows == [(ROWS,)]
    assert [rest(found) for found in streams[:2]] == [expected, expected]
    third = streams[2].more
    assert third is not None
    third.close()
    assert third.fetch() == []
    assert transaction.query(sql, (), 1).more is not None
    fourth = transaction.query(sql, (), 1)
    transaction.close()
    assert fourth.more is not None
    for call in (fourth.more.fetch, lambda: transaction.query("SELECT 1", (), 1)):
        with pytest.raises(TransactionEnded, match="closed"):
            call()


def test_a_failing_statement_does_not_end_it(db: Database, pool: ReaderPool) -> None:
    transaction = pool.begin(LONG, timeout_s=1)
    for sql in ("SELECT nope", "DELETE FROM t", "COMMIT", "ROLLBACK", "SELECT abs(-9223372036854775808)"):
        with pytest.raises(Error):
            transaction.query(sql, (), 1)
    db.apply(one("DELETE FROM t"))
    assert transaction.query("SELECT count(*) FROM t", (), 1).rows == [(ROWS,)]
    transaction.close()


@pytest.mark.parametrize(
    ("limits", "message"),
    [(HoldLimits(0, 1000), "was not used for over 0 s"), (HoldLimits(1000, 0), "was open for over 0 s")],
)
def test_a_forgotten_one_is_ended_and_holds_up_no_checkpoint(
    db: Database, pool: ReaderPool, limits: HoldLimits, message: str
) -> None:
    transaction = pool.begin(limits, timeout_s=1)
    found = transaction.query("SELECT a FROM t", (), 1)
    db.apply(one("DELETE FROM t WHERE a = 1"))
    assert not db.engine.checkpoint_full()
    pool._connections.end_overdue()
    assert db.engine.checkpoint_full()
    assert found.more is not None
    for call in (found.more.fetch, lambda: transaction.query("SELECT 1", (), 1)):
        with pytest.raises(TransactionEnded, match=message):
            call()


def test_a_dropped_one_frees_its_reader(pool: ReaderPool) -> None:
    transaction: Any = pool.begin(LONG, timeout_s=1)
    found = transaction.query("SELECT a FROM t", (), 1)
    del transaction, found
    gc.collect()
    assert not pool.has_held


def test_too_many(db: Database) -> None:
    pool = ReaderPool(str(db.path), 1, held_max=2)
    held = [pool.begin(LONG, timeout_s=1) for _ in range(2)]
    with pytest.raises(Busy, match="2 times the read transaction"):
        pool.begin(LONG, timeout_s=1)
    assert pool.query("SELECT count(*) FROM t").rows == [(ROWS,)]
    held.pop().close()
    pool.begin(LONG, timeout_s=1).close()
    pool.close(OperationalError("the node stops"))
    with pytest.raises(OperationalError, match="the node stops"):
        held[0].query("SELECT 1", (), 1)


def test_the_state_of_units_with_a_session_is_known(db: Database, pool: ReaderPool) -> None:
    """Their entries leave `_dqlite_meta` alone; the table with their index may come at any time, and go."""
    assert pool.stream("SELECT 1", with_index=True).log_index == 1
    writer = db.engine._connection
    writer.execute("CREATE TABLE _dqlite_sessions (log_index INTEGER PRIMARY KEY, now_us, results)")
    assert pool.stream("SELECT 1", with_index=True).log_index == 1
    writer.execute("INSERT INTO _dqlite_sessions VALUES (0, 0, x'00'), (7, 0, x'00')")
    assert pool.stream("SELECT 1", with_index=True).log_index == 7
    transaction = pool.begin(LONG, timeout_s=1)
    writer.execute("INSERT INTO _dqlite_sessions VALUES (9, 0, x'00')")
    assert transaction.query("SELECT 1", (), 1).log_index == transaction.log_index == 7
    assert pool.stream("SELECT 1", with_index=True).log_index == 9
    transaction.close()


def test_a_read_and_its_index_are_of_one_state(db: Database, pool: ReaderPool) -> None:
    for number in range(2, 40):
        db.apply(one("UPDATE t SET b = ? WHERE a = 1", str(number)))
        found = pool.stream("SELECT b FROM t WHERE a = 1", with_index=True)
        assert found.rows == [(str(found.log_index),)]
        assert found.log_index == number
    found = pool.stream("SELECT a FROM t", with_index=True)
    assert found.log_index == 39
    db.apply(one("DELETE FROM t WHERE a > 10"))
    assert len(rest(found)) == ROWS
