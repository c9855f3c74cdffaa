"""node.database_worker: what the loop is told of entries that were applied."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from dqlite_py.command import decode_header, encode_open, encode_unit, encode_units
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
