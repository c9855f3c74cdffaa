"""Results in pieces: what is held, for how long, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import Busy, DataError, NotSupportedError, OperationalError, ProgrammingError
from dqlite_py.gateway import Interrupt, QueryResult, RowStream
from dqlite_py.limits import MIB, STREAM_CHUNK_BYTES
from dqlite_py.storage.readers import HoldLimits, ReaderPool
from tests.support.engines import Database, one, script

pytestmark = pytest.mark.usefixtures("implementation")

NUMBERS = (
    "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {}) SELECT x, 'v' || x FROM c"
)
ENDLESS = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
SILENT = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
ROWS = 20_000


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


def rest(found: QueryResult) -> list[Any]:
    rows = list(found.rows)
    if found.more is not None:
        while piece := found.more.fetch():
            rows += piece
    return rows


def hold_all(pool: ReaderPool, count: int) -> list[QueryResult]:
    return [pool.stream("SELECT a FROM t") for _ in range(count)]


def test_a_small_result_is_whole_at_once(pool: ReaderPool) -> None:
    for _ in range(3):
        assert pool.stream("SELECT a FROM t WHERE a < ? ORDER BY a", [3]) == QueryResult(
            ("a",), ("INTEGER",), [(1,), (2,)]
        )
    assert not pool.has_held


def test_a_large_one_comes_in_pieces_and_frees_its_reader(pool: ReaderPool) -> None:
    for _ in range(3):
        found = pool.stream("SELECT a, b FROM t ORDER BY a")
        assert 100 < len(found.rows) < 1_000
        assert pool.has_held
        assert rest(found) == [(n, f"v{n}") for n in range(1, ROWS + 1)]
        assert not pool.has_held
        assert found.more is not None
        assert found.more.fetch() == []
        found.more.close()


def test_a_stream_keeps_its_state_beside_writes_and_checkpoints(db: Database, pool: ReaderPool) -> None:
    found = pool.stream("SELECT a, b FROM t ORDER BY a")
    for _ in range(5):
        db.apply(one("UPDATE t SET b = b || 'x'"))
        db.engine.checkpoint_step()
        assert found.more is not None
        found.rows.extend(found.more.fetch())
    assert not db.engine.checkpoint_full()
    assert rest(found) == [(n, f"v{n}") for n in range(1, ROWS + 1)]
    assert db.engine.checkpoint_full()
    assert pool.query("SELECT b FROM t WHERE a = 1").rows == [("v1xxxxx",)]


def test_pieces_are_cut_by_bytes(db: Database, pool: ReaderPool) -> None:
    db.apply(
        script("CREATE TABLE big (a INTEGER PRIMARY KEY, b BLOB)"),
        [("INSERT INTO big SELECT x, zeroblob(?) FROM (SELECT a AS x FROM t LIMIT 6)", [3 * MIB])],
    )
    found = pool.stream("SELECT a, b FROM big")
    assert len(found.rows) == 1
    assert found.more is not None
    assert [len(row[1]) for row in found.more.fetch()] == [3 * MIB]
    found.more.close()
    found = pool.stream("SELECT printf('%.*c', 1000, 'x') FROM t LIMIT 1000")
    assert STREAM_CHUNK_BYTES / 2 < sum(len(text) for (text,) in found.rows) <= STREAM_CHUNK_BYTES
    assert len(rest(found)) == 1000


def test_a_value_of_the_largest_size_is_read(db: Database, pool: ReaderPool) -> None:
    found = pool.stream("SELECT zeroblob(?), 1", [60 * MIB])
    assert len(found.rows[0][0]) == 60 * MIB
    assert rest(found)[1:] == []


def test_an_error_amidst_the_rows_ends_the_stream(pool: ReaderPool) -> None:
    sql = "SELECT CASE WHEN a < ? THEN a ELSE abs(-9223372036854775808) END FROM t"
    for _ in range(2):
        found = pool.stream(sql, [5_000])
        with pytest.raises(OperationalError, match="integer overflow"):
            rest(found)
        assert found.more is not None
        assert found.more.fetch() == []
        assert not pool.has_held
    found = pool.stream("SELECT CASE WHEN a < 5000 THEN 'x' ELSE CAST(x'ff' AS TEXT) END FROM t")
    with pytest.raises(DataError):
        rest(found)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("DELETE FROM t", NotSupportedError),
        ("SELECT 1; SELECT 2", ProgrammingError),
        ("SELECT applied_index FROM _dqlite_meta", NotSupportedError),
        ("BEGIN", NotSupportedError),
    ],
)
def test_refusals(pool: ReaderPool, sql: str, error: type[Exception]) -> None:
    for with_index in (False, True):
        with pytest.raises(error):
            pool.stream(sql, with_index=with_index)
    assert rest(pool.stream("SELECT count(*) FROM t")) == [(ROWS,)]


def test_a_stream_that_is_dropped_or_closed_frees_its_reader(pool: ReaderPool) -> None:
    found = pool.stream("SELECT a FROM t")
    del found
    gc.collect()
    assert not pool.has_held
    found = pool.stream("SELECT a FROM t")
    assert found.more is not None
    found.more.close()
    found.more.close()
    assert not pool.has_held
    assert found.more.fetch() == []


def test_a_stream_that_nobody_reads_is_ended(
    db: Database, pool: ReaderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dqlite_py.storage.readers.STREAM_LIMITS", HoldLimits(0, 1000))
    found = pool.stream("SELECT a FROM t")
    pool._connections.end_overdue()
    assert not pool.has_held
    db.apply(one("DELETE FROM t WHERE a = 1"))
    assert db.engine.checkpoint_full()
    assert found.more is not None
    with pytest.raises(OperationalError, match=r"result of SELECT a FROM t was not used for over 0 s"):
        found.more.fetch()
    monkeypatch.setattr("dqlite_py.storage.readers.STREAM_LIMITS", HoldLimits(1000, 0))
    found = pool.stream("SELECT a FROM t")
    pool._connections.end_overdue()
    assert found.more is not None
    with pytest.raises(OperationalError, match="was open for over 0 s"):
        found.more.fetch()


def test_one_that_is_read_is_not_ended(pool: ReaderPool) -> None:
    found = pool.stream("SELECT a FROM t")
    pool._connections.end_overdue()
    assert len(rest(found)) == ROWS


def test_many_streams_at_a_time_and_one_too_many(db: Database) -> None:
    pool = ReaderPool(str(db.path), 2)
    held = hold_all(pool, 64)
    with pytest.raises(
        Busy, match=r"64 results and read transactions are open.*64 times the result of SELECT a FROM t"
    ):
        pool.stream("SELECT a FROM t")
    assert pool.query("SELECT count(*) FROM t").rows == [(ROWS,)]  # short reads go on
    expected = [(n,) for n in range(1, ROWS + 1)]
    for found in held:
        assert sorted(rest(found)) == expected
    assert len(pool._connections._all) == 4  # the others are closed again
    pool.close()


def test_threads_read_streams_side_by_side(pool: ReaderPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        counts = threads.map(lambda _: len(rest(pool.stream("SELECT a, b FROM t"))), range(64))
    assert set(counts) == {ROWS}
    assert not pool.has_held


# -- ending a call that runs ---------------------------------------------------------------------------------


class Watched(Interrupt):
    """Tells when a call begins."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def begin(self) -> None:
        super().begin()
        self.begun.set()


class Bell:
    """Rings when the next call has begun."""

    def __init__(self, interrupt: Watched, action: Any) -> None:
        self._begun = interrupt.begun
        self._begun.clear()
        self._thread = threading.Thread(target=self._wait, args=(action,), daemon=True)
        self._thread.start()

    def _wait(self, action: Any) -> None:
        self._begun.wait()
        action()

    def join(self) -> None:
        self._thread.join()


def test_an_interrupt_ends_the_first_piece(pool: ReaderPool) -> None:
    interrupt = Watched()
    bell = Bell(interrupt, interrupt.request)
    with pytest.raises(OperationalError, match="interrupted") as caught:
        pool.stream(SILENT, timeout_s=None, interrupt=interrupt)
    bell.join()
    assert caught.value.code == 9
    interrupt.request()  # nothing runs: nothing happens
    assert pool.stream("SELECT 1", interrupt=interrupt).rows == [(1,)]


def near_the_slow_row(found: QueryResult) -> RowStream:
    assert found.more is not None
    while len(found.rows) < 4_400:
        found.rows.extend(found.more.fetch())
    return found.more


def read_all(more: RowStream) -> None:
    while more.fetch():
        pass


SLOW_LATER = (
    "SELECT a, CASE WHEN a > 5000 THEN "
    "(WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c) END FROM t ORDER BY a"
)


def test_an_interrupt_ends_a_later_piece(pool: ReaderPool) -> None:
    interrupt = Watched()
    found = pool.stream(SLOW_LATER, timeout_s=None, interrupt=interrupt)
    more = near_the_slow_row(found)
    bell = Bell(interrupt, interrupt.request)
    with pytest.raises(OperationalError, match="interrupted"):
        read_all(more)
    bell.join()
    assert not pool.has_held


def test_time_is_up_for_one_piece(pool: ReaderPool) -> None:
    found = pool.stream(SLOW_LATER, timeout_s=0.1)
    with pytest.raises(OperationalError, match="in time"):
        rest(found)


def test_closing_a_stream_ends_the_fetch_that_runs(pool: ReaderPool) -> None:
    interrupt = Watched()
    found = pool.stream(SLOW_LATER, timeout_s=None, interrupt=interrupt)
    more = near_the_slow_row(found)
    bell = Bell(interrupt, more.close)
    with pytest.raises(OperationalError, match="was closed meanwhile"):
        read_all(more)
    bell.join()
    assert not pool.has_held
    assert all(reader.ending is None for reader in pool._idle)


def test_ctrl_c_ends_the_query(pool: ReaderPool) -> None:
    interrupt = Watched()
    for sql in (SILENT, ENDLESS):
        bell = Bell(interrupt, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            rest(pool.stream(sql, timeout_s=None, interrupt=interrupt))
        bell.join()
    gc.collect()
    assert not pool.has_held
    assert pool.stream("SELECT 1").rows == [(1,)]


def test_closing_the_pool_ends_streams_and_queries(db: Database) -> None:
    pool = ReaderPool(str(db.path), 2)
    idle = pool.stream("SELECT a FROM t")
    running = pool.submit(SILENT, timeout_s=None)
    while not running.running():
        pass
    pool.close(OperationalError("the database was dropped"))
    assert idle.more is not None
    for call in (idle.more.fetch, running.result):
        with pytest.raises(OperationalError, match="was dropped"):
            call()
    with pytest.raises(OperationalError, match="was dropped"):
        pool.stream("SELECT 1")
    assert not pool.has_held
