"""node.applier: databases that are dropped, and what a replay of the log makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from dqlite_py.command import encode_drop, encode_open, encode_unit, encode_units
from dqlite_py.errors import Error, OutcomeUnknown, StorageFull
from dqlite_py.model import Configuration, Entry, EntryKind, LogIndex, Term
from dqlite_py.node import database_worker
from dqlite_py.node.applier import Applier
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.manifest import DatabaseState, Manifest
from dqlite_py.storage.state_folder import StateFolder

CLUSTER = b"c" * 16
NOW_US = 1_700_000_000_000_000
ROWS = "SELECT x FROM t ORDER BY x"


def entry(index: int, payload: bytes) -> Entry:
    return Entry(LogIndex(index), Term(1), EntryKind.COMMAND, payload)


def opens(index: int, now_us: int = NOW_US) -> Entry:
    return entry(index, encode_open("app", now_us))


def drops(index: int) -> Entry:
    return entry(index, encode_drop("app", NOW_US))


def inserts(index: int) -> Entry:
    unit = encode_unit([("CREATE TABLE IF NOT EXISTS t(x)", ()), ("INSERT INTO t VALUES (?)", (index,))])
    return entry(index, encode_units("app", NOW_US, bytes(16), None, [unit]))


class Bench:
    """An applier on a folder, again and again as after crashes."""

    def __init__(self, path: Path) -> None:
        self.folder = StateFolder.open(str(path), SystemDisk(), CLUSTER)
        self.told: list[tuple[int, Error | None]] = []
        self.fatal: list[BaseException] = []
        self.applier = Applier(
            loop=asyncio.get_running_loop(),
            folder=self.folder,
            on_worker=asyncio.to_thread,
            wants_results=lambda _index: False,
            on_applied=lambda entry, _results, error: self.told.append((entry.index, error)),
            on_divergence=lambda *_: None,
            on_opened=lambda: None,
            on_fatal=self.fatal.append,
        )

    async def applied(self, *entries: Entry) -> None:
        self.applier.dispatch(entries)
        await self.until(lambda: self.applier.applied_index >= entries[-1].index)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - threads have no event for it
                await asyncio.sleep(0.001)
        assert not self.fatal

    def horizon(self) -> int:
        """Of the database's keys."""
        with closing(
            apsw.Connection(self.folder.database_path("app"), flags=apsw.SQLITE_OPEN_READONLY)
        ) as file:
            ((found,),) = file.execute("SELECT results FROM _dqlite_sessions WHERE log_index = 0")
        return int.from_bytes(found, "big")

    def rows(self) -> list[int]:
        return [row[0] for row in self.applier.readers["app"].query(ROWS, ()).rows]


@pytest.fixture
async def benches(tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    made: list[Bench] = []

    async def start() -> Bench:
        if made:
            await made[-1].applier.close()
        made.append(Bench(tmp_path))
        await made[-1].applier.open()
        return made[-1]

    yield start
    await made[-1].applier.close()


async def test_a_replay_makes_nothing_of_a_database_before_the_drop_that_removed_it(
    benches: Callable[[], Any],
) -> None:
    """Found by simulation: an OPEN without effect made an empty database when the log was replayed."""
    bench = await benches()
    await bench.applied(opens(1), inserts(2))
    states = tuple(
        DatabaseState(name, LogIndex(2), worker.last_hash.value, 3)
        for name, worker in bench.applier.workers.items()
    )
    bench.folder.write_manifest(Manifest(CLUSTER, LogIndex(2), Term(1), Configuration(), states))
    log = (opens(3), inserts(4), drops(5), opens(6), inserts(7))
    await bench.applied(*log[:3])
    again = await benches()
    await again.applied(*log[:2])
    assert not again.applier.workers
    await again.applied(*log[2:])
    assert again.rows() == [7]


async def test_the_entry_that_makes_a_database_is_the_horizon_of_its_keys(benches: Callable[[], Any]) -> None:
    bench = await benches()
    await bench.applied(opens(1, NOW_US + 1), opens(2, NOW_US + 2), inserts(3))
    await bench.until(lambda: "app" in bench.applier.readers)
    assert bench.horizon() == NOW_US + 1  # the second one made nothing
    await bench.applied(drops(4), opens(5, NOW_US + 5), inserts(6))
    await bench.until(lambda: "app" in bench.applier.readers)
    assert bench.horizon() == NOW_US + 5


async def test_log_time_goes_on_from_the_manifest_s(benches: Callable[[], Any]) -> None:
    """A key that is taken before the first entry came again must be newer than the databases that are there."""
    bench = await benches()
    await bench.applied(opens(1), inserts(2))
    bench.folder.write_manifest(Manifest(CLUSTER, LogIndex(2), Term(1), Configuration(), (), NOW_US + 9))
    again = await benches()
    assert (again.applier.log_time_us, again.applier.last_now_us) == (NOW_US + 9, NOW_US + 9)


async def test_who_waits_for_an_entry_that_a_full_disk_held_up_hears_of_the_drop(
    benches: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the writer waits for ever, and so do all that queue behind it for a database of that name."""
    monkeypatch.setattr(database_worker, "FULL_RETRY_S", 0.001)
    bench = await benches()
    await bench.applied(opens(1), inserts(2))

    def full(*_: Any, **__: Any) -> None:
        raise StorageFull("full")

    monkeypatch.setattr(DatabaseEngine, "apply", full)
    await bench.applied(inserts(3), inserts(4), drops(5))
    assert [index for index, _ in bench.told] == [1, 2, 3, 4, 5]
    assert [type(error) for _, error in bench.told[2:4]] == [OutcomeUnknown] * 2


async def test_a_drop_waits_for_space(benches: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await benches()
    await bench.applied(opens(1), inserts(2))
    drop, calls = bench.folder.drop_database, []

    def full_at_first(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise StorageFull("full")
        drop(*arguments)

    monkeypatch.setattr(bench.folder, "drop_database", full_at_first)
    await bench.applied(drops(3))
    assert calls == [("app", 3)] * 2
    assert not bench.applier.workers


async def test_a_database_dropped_while_it_is_being_opened_leaves_no_readers(
    benches: Callable[[], Any],
) -> None:
    """Found by simulation: reads went on to see the rows of a database that was gone."""
    bench = await benches()
    await bench.applied(opens(1), drops(2))
    assert not bench.applier.readers
    await bench.applied(opens(3), inserts(4))
    await bench.until(lambda: "app" in bench.applier.readers)
    assert bench.rows() == [4]
