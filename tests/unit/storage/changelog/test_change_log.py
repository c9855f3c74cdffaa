"""The change log: resumed at every index, opened after restarts, torn tails and damage, bounded, never in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.changes import Change, ChangeKind
from dqlite_py.errors import ChangesCompacted, InterfaceError
from dqlite_py.limits import CHANGES_SEGMENT_BYTES_MIN
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.changelog.cursor import Cursor
from dqlite_py.storage.changelog.format import HEADER_BYTES, Body
from dqlite_py.storage.changelog.log import ChangeLog
from tests.support.changes import FollowedDatabase
from tests.support.engines import one, script


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FollowedDatabase]:
    """Entries 2 to 6 changed something, entry 4 failed."""
    with FollowedDatabase(tmp_path / "main.db") as database:
        database.apply(script("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'a')"))
        database.apply(one("INSERT INTO t VALUES (2, 'b')"), one("UPDATE t SET v = 'c' WHERE id = 1"))
        database.apply(one("INSERT INTO missing VALUES (1)"))
        database.apply(one("DELETE FROM t"))
        database.apply(one("INSERT INTO t VALUES (9, ?)", "x" * 1000))
        yield database


def indexes(changes: list[Change]) -> list[int]:
    return [change.log_index for change in changes]


def only_segment(database: FollowedDatabase) -> str:
    (segment,) = database.log.extent.segments
    return segment.path


def test_it_can_be_resumed_at_every_index(database: FollowedDatabase) -> None:
    everything = database.changes(0)
    assert indexes(everything) == [2, 2, 3, 3, 5, 5, 6]
    assert [change.is_last for change in everything] == [False, True, False, True, False, True, True]
    for after in range(10):
        assert database.changes(after) == [change for change in everything if change.log_index > after]


def test_updates_hold_exactly_what_differs(database: FollowedDatabase) -> None:
    (update,) = [change for change in database.changes() if change.kind is ChangeKind.UPDATE]
    assert (update.key, update.old, update.new) == ({"id": 1}, {"v": "a"}, {"v": "c"})


def test_a_restart_loses_nothing(database: FollowedDatabase) -> None:
    before = database.changes()
    database.reopen()
    assert database.changes() == before
    database.apply(one("INSERT INTO t VALUES (10, 1)"))
    assert database.changes(6)[0].new == {"id": 10, "v": 1}


def test_a_record_beyond_the_database_is_cut(database: FollowedDatabase) -> None:
    """It was written and its entry was not committed: the entry comes again."""
    before = database.changes()
    database.log.prepare(7, Body(b""), {})
    assert database.changes() == before, "what is not committed does not show"
    database.reopen()
    database.apply(one("INSERT INTO t VALUES (10, 1)"))
    assert indexes(database.changes(6)) == [7]


@pytest.mark.parametrize("cut", [1, 100, 1100, 10_000])
def test_a_torn_tail_is_a_gap_that_begins_anew(database: FollowedDatabase, cut: int) -> None:
    path = only_segment(database)
    database.engine.close()
    size = max(HEADER_BYTES, os.path.getsize(path) - cut)
    os.truncate(path, size)
    database.reopen()
    with pytest.raises(ChangesCompacted) as caught:
        database.changes(2)
    assert caught.value.details == {"oldest": 6, "newest": 6}
    assert database.changes(6) == []
    database.apply(one("INSERT INTO t VALUES (10, 1)"))
    assert indexes(database.changes(6)) == [7]


def read_until_compacted(database: FollowedDatabase) -> list[Change]:
    found: list[Change] = []
    cursor = Cursor(database.log, "main", 0)

    def read_all() -> None:
        for changes in iter(cursor.read, None):
            found.extend(changes)

    with pytest.raises(ChangesCompacted, match="read transaction"):
        read_all()
    cursor.close()
    return found


def test_every_flipped_byte_is_noticed(database: FollowedDatabase) -> None:
    path = only_segment(database)
    everything = database.changes()
    content = Path(path).read_bytes()
    for place in range(HEADER_BYTES, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        Path(path).write_bytes(damaged)
        found = read_until_compacted(database)
        assert found == everything[: len(found)]
    Path(path).write_bytes(content)
    assert database.changes() == everything


def test_a_file_of_another_release_is_not_read(database: FollowedDatabase) -> None:
    path = only_segment(database)
    database.engine.close()
    content = bytearray(Path(path).read_bytes())
    content[8] = 9
    Path(path).write_bytes(content)
    database.reopen()
    with pytest.raises(ChangesCompacted):
        database.changes(2)


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    keep = 4 * CHANGES_SEGMENT_BYTES_MIN
    with FollowedDatabase(tmp_path / "main.db", keep_bytes=keep) as database:
        database.apply(one("CREATE TABLE t (id INTEGER PRIMARY KEY, v)"))
        for _ in range(60):
            database.apply(one("INSERT INTO t (v) VALUES (?)", "x" * 10_000))
        oldest = database.log.extent.oldest
        assert 30 < oldest < 60
        kept = sum(os.path.getsize(segment.path) for segment in database.log.extent.segments)
        assert kept <= keep
        assert {segment.path for segment in database.log.extent.segments} == {
            os.path.join(database.log.folder, name) for name in os.listdir(database.log.folder)
        }
        with pytest.raises(ChangesCompacted) as caught:
            database.changes(oldest - 1)
        assert caught.value.details["oldest"] == oldest
        for after in (oldest, oldest + 1, 61):
            assert indexes(database.changes(after)) == list(range(after + 1, 63))
        database.reopen()
        assert indexes(database.changes(oldest)) == list(range(oldest + 1, 63))


def test_a_reader_is_not_disturbed_by_what_is_written_meanwhile(tmp_path: Path) -> None:
    with FollowedDatabase(tmp_path / "main.db", keep_bytes=8 * CHANGES_SEGMENT_BYTES_MIN) as database:
        database.apply(one("CREATE TABLE t (id INTEGER PRIMARY KEY, v)"))
        cursor = Cursor(database.log, "main", 2)
        found = []
        for number in range(60):
            database.apply(one("INSERT INTO t VALUES (?, ?)", number, "x" * 5_000))
            if number % 4 == 3:
                for changes in iter(cursor.read, None):
                    found.extend(changes)
        cursor.close()
        assert [change.key["id"] for change in found] == list(range(60))
        assert len(database.log.extent.segments) > 3


class FullDisk(SystemDisk):
    is_full = False

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left")
        return super().pwrite(fd, data, offset)


def test_a_full_disk_costs_the_changes_and_not_the_entry(tmp_path: Path) -> None:
    disk = FullDisk()
    with FollowedDatabase(tmp_path / "main.db", disk=disk) as database:
        database.apply(one("CREATE TABLE t (id INTEGER PRIMARY KEY, v)"))
        disk.is_full = True
        for number in range(3):
            assert database.apply(one("INSERT INTO t VALUES (?, 0)", number))[0][0] == 0
        disk.is_full = False
        with pytest.raises(ChangesCompacted) as caught:
            database.changes(2)
        assert caught.value.details["oldest"] == 5
        database.apply(one("INSERT INTO t VALUES (3, 0)"))
        assert indexes(database.changes(5)) == [6]


def test_a_snapshot_put_in_its_place_begins_anew(database: FollowedDatabase, tmp_path: Path) -> None:
    """The database is another file, further on; subscribers stay with the log."""
    cursor = Cursor(database.log, "main", 6)
    assert cursor.read() is None
    with FollowedDatabase(tmp_path / "other.db") as other:
        for _ in range(20):
            other.apply(one("CREATE TABLE IF NOT EXISTS t (id)"))
        database.engine.close()
        assert other.engine.keep_changes(other.log)
    database.engine = type(database.engine).open(str(tmp_path / "other.db"), create=False)
    database.engine.keep_changes(database.log)
    with pytest.raises(ChangesCompacted) as caught:
        cursor.read()
    cursor.close()
    assert caught.value.details["oldest"] == 21


def test_a_closed_log_is_read_to_its_end(database: FollowedDatabase) -> None:
    cursor = Cursor(database.log, "main", 5)
    database.log.close(InterfaceError("gone"))
    changes = cursor.read()
    assert changes is not None
    assert indexes(changes) == [6]
    with pytest.raises(InterfaceError, match="gone"):
        cursor.read()
    cursor.close()


def test_whoever_waits_is_called_once(database: FollowedDatabase) -> None:
    calls: list[str] = []
    cursor = Cursor(database.log, "main", 6)
    assert cursor.read() is None
    assert cursor.when_changed(lambda: calls.append("first"))
    database.apply(one("INSERT INTO t VALUES (10, 1)"))
    database.apply(one("INSERT INTO t VALUES (11, 1)"))
    assert calls == ["first"]
    assert not cursor.when_changed(lambda: calls.append("late")), "there is something already"
    assert cursor.read() is not None
    cursor.close()


def test_a_log_in_a_folder_that_cannot_be_made_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = ChangeLog(str(tmp_path / "file" / "log"), SystemDisk())
    assert not log.open(5)
    assert log.extent.oldest == 5
    log.close(InterfaceError("closed"))
