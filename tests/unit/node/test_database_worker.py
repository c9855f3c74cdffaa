"""node.database_worker: what the loop is told of entries that were applied."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqlite_py.command import decode_header, encode_open, encode_unit, encode_units
from dqlite_py.errors import CorruptState
from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.node.database_worker import DatabaseWorker


def test_the_newest_hash_is_of_the_newest_entry_that_has_one(tmp_path: Path) -> None:
    """Found by simulation: an entry without effect behind one with an effect hid the new state's hash."""
    posted: list[Callable[[], None]] = []
    worker = DatabaseWorker(
        "app",
        str(tmp_path / "app.db"),
        create=True,
        post=posted.append,
        on_applied=lambda _worker, _finished: None,
        on_fatal=lambda error: None,
    )
    worker.start()
    try:
        worker.opened.result(10)
        unit = encode_unit([("CREATE TABLE t(x)", [])])
        for index, payload in (
            (5, encode_units("app", 1_700_000_000_000_000, bytes(16), None, [unit])),
            (6, encode_open("app", 1_700_000_000_000_000)),
        ):
            entry = Entry(LogIndex(index), Term(1), EntryKind.COMMAND, payload)
            worker.submit(entry, decode_header(payload), False)
        deadline = time.monotonic() + 10
        while len(worker._done) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        worker._report()
        assert worker.applied_index == 6
        assert worker.last_hash is not None
        assert (worker.last_hash.index, worker.last_hash.value) == (5, worker.hash_at(5))
    finally:
        worker.stop()


def test_a_database_that_cannot_be_read_is_named_with_the_mend(tmp_path: Path) -> None:
    posted: list[Callable[[], None]] = []
    fatal: list[BaseException] = []
    path = tmp_path / "app.db"

    def worker(*, create: bool) -> DatabaseWorker:
        made = DatabaseWorker(
            "app",
            str(path),
            create=create,
            post=posted.append,
            on_applied=lambda _worker, _finished: None,
            on_fatal=fatal.append,
        )
        made.start()
        made.opened.result(10)
        return made

    def apply(to: DatabaseWorker, index: int, *statements: tuple[str, list[Any]]) -> None:
        payload = encode_units("app", 1_700_000_000_000_000, bytes(16), None, [encode_unit(list(statements))])
        to.submit(Entry(LogIndex(index), Term(1), EntryKind.COMMAND, payload), decode_header(payload), False)

    first = worker(create=True)
    apply(first, 2, ("CREATE TABLE t(v)", []))
    apply(first, 3, ("INSERT INTO t VALUES (zeroblob(20000))", []))
    first.stop()
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):  # page 2 holds the applied index
        content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    path.write_bytes(content)
    second = worker(create=False)
    apply(second, 4, ("INSERT INTO t VALUES (1)", []))
    second.stop()
    for report in posted:
        report()
    [error] = fatal
    assert isinstance(error, CorruptState)
    assert str(path) in str(error)
    assert error.details["file"] == str(path)
