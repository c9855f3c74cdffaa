"""Live transactions beside the apply thread: who waits, who is interrupted, and who never is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import TransactionEnded
from dqlite_py.storage.engine_api import LiveFlag, LiveResult
from dqlite_py.storage.live import LiveTransaction
from tests.support.engines import Database, entry, one, script
from tests.support.live import Live, body, unit_entry

pytestmark = pytest.mark.usefixtures("implementation")

INTERRUPT = 9
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
ENDLESS_WRITE = f"INSERT INTO t (k) {ENDLESS}"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "a.db") as database:
        database.apply(script("CREATE TABLE t (id INTEGER PRIMARY KEY, k)", "INSERT INTO t VALUES (1, 'a')"))
        yield database


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


class Started:
    """Tells when the engine has begun a group."""

    def __init__(self, transaction: LiveTransaction, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event = threading.Event()
        engine = transaction._engine
        run = engine.live_run

        def begin(data: bytes, timeout_s: float | None, flag: LiveFlag) -> LiveResult:
            self.event.set()
            return run(data, timeout_s, flag)

        monkeypatch.setattr(engine, "live_run", begin)

    def wait(self) -> None:
        assert self.event.wait(10)


def running(
    live: Live, sql: str, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> Future[LiveResult]:
    """A statement that does not end by itself, under way."""
    started = Started(live.transaction, monkeypatch)
    future = pool.submit(live.transaction.run, body(sql), 60)
    started.wait()
    return future


def test_any_thread_interrupts_a_read(
    db: Database, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    future = running(live, ENDLESS, pool, monkeypatch)
    live.transaction.interrupt()
    assert msgpack.unpackb(future.result(10).results) == [INTERRUPT, "interrupted", 0]
    assert live.rows("SELECT k FROM t") == [["a"], ["b"]]


@pytest.mark.parametrize("sql", [ENDLESS, ENDLESS_WRITE])
@pytest.mark.parametrize("how", ["apply", "rollback", "close"])
def test_applying_and_ending_interrupt_what_runs(
    db: Database, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, how: str, sql: str
) -> None:
    live = Live(db.engine)
    live.good("INSERT INTO t (k) VALUES ('b')")
    future = running(live, sql, pool, monkeypatch)
    ways: dict[str, Callable[[], Any]] = {
        "apply": lambda: db.apply(one("INSERT INTO t (k) VALUES ('c')")),
        "rollback": live.transaction.rollback,
        "close": db.engine.close,
    }
    ways[how]()
    with pytest.raises(TransactionEnded):
        future.result(10)
    assert not live.is_open
    db.reopen()
    assert db.query("SELECT k FROM t") == ([["a"], ["c"]] if how == "apply" else [["a"]])


def test_an_apply_is_never_interrupted(
    db: Database, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupts arrive all the time while it runs: of a transaction that it ended, and of a run that waits for it."""
    live = Live(db.engine)
    live.good("SELECT 1")
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.is_set():
            live.transaction.interrupt()

    futures = [pool.submit(interrupt)]
    try:
        long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
        for _ in range(3):
            assert db.apply(one(f"{long} INSERT INTO t (k) SELECT sum(i) FROM n"))[0][0] == 0
    finally:
        is_over.set()
    for future in futures:
        future.result(10)


def test_an_interrupt_is_of_one_run(db: Database) -> None:
    live = Live(db.engine)
    live.transaction.interrupt()
    assert live.rows("SELECT 1") == [[1]]
    live.transaction.interrupt()
    assert live.rows("SELECT count(*) FROM t, t, t") == [[1]]


def test_an_interrupt_reaches_a_run_that_waits(
    db: Database, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(db.engine)
    armed = threading.Event()
    flag = live.transaction._flag
    arm = flag.arm

    def note() -> None:
        arm()
        armed.set()

    monkeypatch.setattr(type(flag), "arm", lambda self: note() if self is flag else arm())
    with db.engine._lock:
        future = pool.submit(live.transaction.run, body(ENDLESS), 60)
        assert armed.wait(10)
        live.transaction.interrupt()
    assert msgpack.unpackb(future.result(10).results) == [INTERRUPT, "interrupted", 0]
    assert live.is_open


def test_transactions_and_entries_of_many_threads(db: Database, pool: ThreadPoolExecutor) -> None:
    """Every transaction is ended by an entry, or gives out a unit that is applied, or refused, as a whole."""
    apply_lock, outcomes, done = threading.Lock(), [], threading.Event()

    def apply(payload: bytes) -> list[Any]:
        with apply_lock:  # the apply thread is one
            return db.apply_bytes(payload)

    def transact() -> None:
        for number in range(150):
            live = Live(db.engine)
            try:
                for _ in range(3):
                    live.good(("INSERT INTO t (k) VALUES (?)", [number]))
                outcomes.append(apply(unit_entry(live.finish()))[0][0])
            except TransactionEnded:
                outcomes.append(-1)
        done.set()

    def write() -> None:
        while not done.is_set():
            assert apply(entry(one("INSERT INTO t (k) VALUES ('plain')")))[0][0] == 0

    for future in [pool.submit(transact), pool.submit(write)]:
        future.result(60)
    counts = db.query("SELECT count(*) FROM t WHERE k NOT IN ('a', 'plain') GROUP BY k")
    assert counts == [[3]] * outcomes.count(0)
    assert len(outcomes) == 150
