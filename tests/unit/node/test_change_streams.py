"""Streams of changes for threads and for event loops: waiting, closing, time-outs, cancelling, places to go on from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dqlite_py.errors import ChangesCompacted, InterfaceError, OperationalError
from dqlite_py.node.change_hub import ChangeHub
from dqlite_py.node.change_streams import AsyncChangeStream, ChangeStream
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.changelog.cursor import Cursor
from dqlite_py.storage.changelog.log import Extent
from tests.support.changes import FollowedDatabase
from tests.support.engines import one, script


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FollowedDatabase]:
    with FollowedDatabase(tmp_path / "main.db") as database:
        database.apply(one("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
        database.apply(script("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"))
        yield database


def stream(database: FollowedDatabase, after: int, timeout: float | None = None) -> ChangeStream:
    return ChangeStream(Cursor(database.log, "main", after), timeout=timeout)


def insert(database: FollowedDatabase, number: int) -> None:
    database.apply(one("INSERT INTO t VALUES (?)", number))


def test_the_position_follows_what_was_taken(database: FollowedDatabase) -> None:
    with stream(database, 0) as changes:
        assert changes.position == 0
        assert next(changes).log_index == 2
        assert changes.position == 0, "it may not be worked off yet"
        assert not next(changes).is_last
        assert changes.position == 2
        assert next(changes).is_last
        assert changes.position == 2
        insert(database, 3)
        assert next(changes).key == {"id": 3}
        assert changes.position == 3


def test_a_time_out_leaves_the_stream_usable(database: FollowedDatabase) -> None:
    with stream(database, 3, timeout=0.001) as changes:
        with pytest.raises(TimeoutError, match=r"no change within 0\.001 s"):
            next(changes)
        insert(database, 3)
        assert next(changes).key == {"id": 3}


def test_waiting_ends_with_the_next_entry(database: FollowedDatabase) -> None:
    waits = threading.Event()
    found: list[object] = []
    cursor = Cursor(database.log, "main", 3)

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    changes = ChangeStream(cursor)
    changes._wakeup = Watched()
    thread = threading.Thread(target=lambda: found.extend(change.key for change in changes))
    thread.start()
    assert waits.wait(30)
    waits.clear()
    insert(database, 3)
    assert waits.wait(30), "it took the change and waits for the next one"
    changes.close()
    thread.join()
    assert found == [{"id": 3}]
    changes.close()
    with pytest.raises(StopIteration):
        next(changes)


def test_an_interrupt_while_waiting_loses_nothing(database: FollowedDatabase) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            insert(database, 3)
            raise KeyboardInterrupt

    with stream(database, 3) as changes:
        event, changes._wakeup = changes._wakeup, Interrupted()
        with pytest.raises(KeyboardInterrupt):
            next(changes)
        changes._wakeup = event
        assert next(changes).key == {"id": 3}
        assert database.log._waiters == []


def test_an_error_is_told_again(database: FollowedDatabase) -> None:
    database.log.restart(3)
    with stream(database, 1) as changes:
        for _ in range(2):
            with pytest.raises(ChangesCompacted):
                next(changes)


# -- event loops -------------------------------------------------------------------------------------------


def when_waiting(database: FollowedDatabase, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when somebody begins to wait for the next entry."""
    waits = asyncio.Event()
    original = database.log.call_when_changed

    def call_when_changed(known: Extent, callback: Callable[[], None]) -> bool:
        waits.set()
        return original(known, callback)

    monkeypatch.setattr(database.log, "call_when_changed", call_when_changed)
    return waits


async def test_a_task_follows(database: FollowedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = when_waiting(database, monkeypatch)
    async with AsyncChangeStream(lambda: Cursor(database.log, "main", 0)) as changes:
        found = [await anext(changes) for _ in range(3)]
        assert [change.log_index for change in found] == [2, 3, 3]
        assert changes.position == 2
        waiting = asyncio.ensure_future(anext(changes))
        await waits.wait()
        assert changes.position == 3
        insert(database, 3)
        assert (await waiting).key == {"id": 3}


async def test_cancelling_loses_nothing(database: FollowedDatabase) -> None:
    async with AsyncChangeStream(lambda: Cursor(database.log, "main", 3)) as changes:
        for number in range(3, 40):
            waiting = asyncio.ensure_future(anext(changes))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                found = await waiting
            except asyncio.CancelledError:
                insert(database, number)
                found = await anext(changes)
            else:
                raise AssertionError("there was nothing to find")
            assert found.key == {"id": number}
        assert database.log._waiters == []


async def test_time_out_and_close(database: FollowedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = AsyncChangeStream(lambda: Cursor(database.log, "main", 3), timeout=0.001)
    with pytest.raises(TimeoutError, match="no change within"):
        await anext(changes)
    changes.timeout = None
    waits = when_waiting(database, monkeypatch)
    waiting = asyncio.ensure_future(anext(changes))
    await waits.wait()
    with pytest.raises(InterfaceError, match="another task"):
        await anext(changes)
    await changes.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


# -- which databases ----------------------------------------------------------------------------------------


def test_the_wish_to_follow_is_remembered(tmp_path: Path) -> None:
    hub = ChangeHub(str(tmp_path), SystemDisk(), None)
    assert hub.log_of("app") is None
    wanted = hub.want("app")
    wanted.open(5)
    assert hub.log_of("app") is wanted
    hub.close()
    again = ChangeHub(str(tmp_path), SystemDisk(), None)
    assert again.log_of("app") is not None
    assert again.log_of("other") is None
    again.close()
    assert ChangeHub(str(tmp_path), SystemDisk(), 1).log_of("other") is not None


def test_a_drop_ends_the_streams_and_removes_the_files(tmp_path: Path) -> None:
    hub = ChangeHub(str(tmp_path), SystemDisk(), None)
    wanted = hub.want("app")
    wanted.open(5)
    changes = ChangeStream(Cursor(wanted, "app", 5))
    hub.opened(["app"])
    hub.opened(["other"])
    with pytest.raises(OperationalError, match="database app was dropped"):
        next(changes)
    changes.close()
    assert not (tmp_path / "changes" / "app").exists()
    assert hub.log_of("app") is None
    hub.close()
    with pytest.raises(OperationalError):
        hub.want("app")
