"""The node's Applier on real databases in a folder, fed with entries by the test. Used by tests/faults
only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.errors import Error
from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.node.applier import Applier
from dqlite_py.ports import SystemDisk
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.manifest import DatabaseState, ordered
from dqlite_py.storage.state_folder import StateFolder
from tests.support.journals import CLUSTER
from tests.support.wire import until

Statement = tuple[str, Sequence[Any]]


def units(index: int, *statements: Statement, database: str = "main") -> Entry:
    """An entry that holds each statement as a unit of its own."""
    packed = [encode_unit([statement]) for statement in statements]
    payload = encode_units(database, 1_700_000_000_000_000 + index, bytes(16), None, packed)
    return Entry(LogIndex(index), Term(1), EntryKind.COMMAND, payload)


def _create_databases(state: StateFolder) -> None:
    """Let the databases exist before the first entry, empty."""
    if state.manifest.databases:
        return
    states = []
    for name in ("main", "other"):
        engine = DatabaseEngine.open(state.database_path(name), create=True)
        states.append(DatabaseState(name, engine.applied_index, engine.state_hash, engine.page_count))
        engine.close()
    state.write_manifest(replace(state.manifest, databases=ordered(states)))


class Applied:
    """An applier and what it reported."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        state = StateFolder.open(str(folder), SystemDisk(), CLUSTER)
        _create_databases(state)
        self.reported: list[tuple[int, Any, Error | None]] = []
        self.fatal: list[BaseException] = []
        self.applier = Applier(
            loop=asyncio.get_running_loop(),
            folder=state,
            on_worker=lambda function, *args: asyncio.to_thread(function, *args),
            wants_results=lambda _index: True,
            on_applied=lambda entry, results, error: self.reported.append((entry.index, results, error)),
            on_divergence=lambda *_: None,
            on_opened=lambda: None,
            on_fatal=self.fatal.append,
        )

    def commit(self, *entries: Entry) -> None:
        self.applier.dispatch(entries)

    async def reached(self, index: int) -> None:
        await until(lambda: bool(self.fatal) or self.applier.applied_index >= index, f"{index} applied")

    async def query(self, sql: str, database: str = "main") -> list[tuple[Any, ...]]:
        await until(lambda: database in self.applier.readers, "the database is open")
        result = await asyncio.to_thread(self.applier.readers[database].query, sql, [])
        return [tuple(row) for row in result.rows]


@asynccontextmanager
async def applying(folder: Path) -> AsyncIterator[Applied]:
    applied = Applied(folder)
    try:
        await applied.applier.open()
        yield applied
    finally:
        await applied.applier.close()
