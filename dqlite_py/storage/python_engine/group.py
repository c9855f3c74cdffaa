"""The groups of a transaction, live or replayed: group.c; the digest is explained in group.h."""

from __future__ import annotations

from typing import Final

import apsw

from dqlite_py.storage.python_engine.body import (
    Broken,
    Failed,
    has_open_foreign_keys,
    open_foreign_keys,
    put_failure,
    put_success,
    run_body,
)
from dqlite_py.storage.python_engine.engine import EngineState
from dqlite_py.storage.python_engine.guard import Place
from dqlite_py.storage.python_engine.payload import DIGEST_BYTES, Body, Unit
from dqlite_py.storage.python_engine.sqlite_api import sqlite
from dqlite_py.storage.python_engine.statements import SqlError, error_of
from dqlite_py.storage.python_engine.xxh3 import INPUT_BYTES_MIN, xxh3_64
from dqlite_py.storage.python_engine.xxh3_short import xxh3_64_short

DIGEST_DIFFERS: Final = apsw.SQLITE_ABORT | 203 << 8
FIRST_DIGEST: Final = bytes(DIGEST_BYTES)
_FIRST_POSITION: Final = 0x80000000  # in the entry, as the generator of random() sees it: no unit has it


def start_transaction(engine: EngineState) -> None:
    """Before the first group of a transaction; raises Broken."""
    engine.schema_changed = False
    engine.functions.start_total()
    sqlite.set_last_insert_rowid(engine.db, 0)
    code = engine.run_own("reset_changes")
    if code != apsw.SQLITE_OK:
        raise Broken(error_of(engine.db, code))


def start_group(engine: EngineState, group: Body, seed: bytes, ordinal: int) -> int:
    """Before a group: `ordinal` counts those that may have written. Returns where its result begins."""
    engine.max_rowid_used = engine.wrote = engine.changed = False
    engine.row_bytes = 0
    engine.functions.start_chance(seed, _FIRST_POSITION + ordinal)
    start = engine.results.size
    put_success(engine.results, len(group))
    return start


def fail_group(engine: EngineState, start: int, failed: Failed) -> None:
    """Replace the result since `start` by an error."""
    engine.results.cut(start)
    put_failure(engine.results, failed)


def next_digest(digest: bytes, result: bytes) -> bytes:
    data = digest + result
    value = xxh3_64_short(data) if len(data) < INPUT_BYTES_MIN else xxh3_64(data, 0)
    return value.to_bytes(DIGEST_BYTES, "big")


def _replay(engine: EngineState, unit: Unit, seed: bytes) -> bool:
    """Whether all groups gave the results that they gave live; raises Broken."""
    digest = FIRST_DIGEST
    for ordinal, group in enumerate(unit.groups):
        start = start_group(engine, group, seed, ordinal)
        failed = run_body(engine, group)
        if engine.max_rowid_used or sqlite.get_autocommit(engine.db):
            return False  # it would not have been recorded
        if failed is not None:
            fail_group(engine, start, failed)
        digest = next_digest(digest, engine.results.content()[start:])
        engine.results.cut(start)
    return digest == unit.digest


def replay_groups(engine: EngineState, unit: Unit, seed: bytes) -> Failed | None:
    """Replay the groups of a transaction unit inside the unit's savepoint, without a result; raises Broken."""
    results, guard = engine.results, engine.guard
    discard, start = results.discard, results.size
    results.discard = False  # they are what the digest is of
    guard.place = Place.GROUP
    try:
        is_same = _replay(engine, unit, seed)
    finally:
        guard.place = Place.UNIT
        results.cut(start)
        results.discard = discard
    if not is_same:
        differs = b"the transaction does not give the results that it gave before: nothing of it was applied"
        return Failed(SqlError(DIGEST_DIFFERS, differs, wrote=True), 0)
    return Failed(open_foreign_keys(), 0) if has_open_foreign_keys(engine.db) else None
