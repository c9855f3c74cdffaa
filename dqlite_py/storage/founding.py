"""A database file for a new cluster, made from an SQLite file: the same that its entries in a log would have made.

The schema goes through the engine, which refuses what a cluster cannot hold; the rows past it, in one transaction, as
they are data only. Nobody else has the new file open. Called by offline tools.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import apsw
import msgpack

from dqlite_py.command import encode_units
from dqlite_py.errors import InternalError
from dqlite_py.limits import MIB, UNIT_BYTES_MAX
from dqlite_py.model import LogIndex
from dqlite_py.resultcodes import error_from_code
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.manifest import DatabaseState
from dqlite_py.storage.meta import MadeBy
from dqlite_py.storage.source_file import SourceFile, quoted
from dqlite_py.storage.sqlerrors import error_from_apsw
from dqlite_py.units import encode_unit

_BATCH_BYTES: Final = 4 * MIB

Advanced = Callable[[int], None]


def found_database(
    path: str,
    name: str,
    source: SourceFile,
    *,
    first_index: int,
    now_us: int,
    advanced: Advanced | None = None,
) -> DatabaseState:
    """Make the file at `path`, as if the log held its OPEN at `first_index` and its schema in the two entries behind.

    advanced: hears bytes of rows. The state returned stands at `first_index + 2` and is durable there.
    Raises the error of a statement that is refused, StorageFull, OperationalError.
    """
    plan = source.plan
    engine = DatabaseEngine.open(path, create=True, made_by=MadeBy(first_index, now_us))
    try:
        _apply(engine, name, first_index + 1, now_us, [table.create for table in plan.tables])
    finally:
        engine.close()
    _put_rows(path, source, advanced)
    engine = DatabaseEngine.open(path, create=False)
    try:
        analyzed = [f"ANALYZE {quoted(table)}" for table in plan.analyzed]
        _apply(engine, name, first_index + 2, now_us, [*plan.others, *analyzed])
        if not engine.checkpoint_full():
            raise InternalError(f"{path} could not be checkpointed, though nobody else has it open")
        return DatabaseState(name, LogIndex(first_index + 2), engine.state_hash, engine.page_count)
    finally:
        engine.close()


def _apply(engine: DatabaseEngine, name: str, index: int, now_us: int, statements: list[str]) -> None:
    unit = encode_unit([(sql, ()) for sql in statements or ["SELECT 1"]])
    payload = encode_units(name, now_us, secrets.token_bytes(16), None, [unit])
    [result] = msgpack.unpackb(engine.apply(index, payload, want_results=True).results, raw=False)
    if result[0] != 0:
        raise error_from_code(result[0], f"{result[1]} (in: {statements[result[2]]:.300})")


def _put_rows(path: str, source: SourceFile, advanced: Advanced | None) -> None:
    plan = source.plan
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, UNIT_BYTES_MAX)  # or no node could read it
            connection.execute("BEGIN IMMEDIATE")
            for table in plan.tables:
                for rows, size in source.batches(table, _BATCH_BYTES):
                    connection.executemany(table.insert, rows)
                    if advanced is not None:
                        advanced(size)
            for name, sequence in plan.sequences:
                connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
                connection.execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (name, sequence))
            connection.execute(f"PRAGMA user_version = {plan.user_version}")
            connection.execute(f"PRAGMA application_id = {plan.application_id}")
            connection.execute("COMMIT")
        finally:
            connection.close()
    except apsw.Error as error:
        raise error_from_apsw(error) from error
