"""The statements that are executed together, those of a unit or of one group of a transaction: body.c."""

from __future__ import annotations

import ctypes
from ctypes import c_int
from typing import NamedTuple

import apsw

from dqlite_py.storage.python_engine.engine import EngineState
from dqlite_py.storage.python_engine.msgpack import ItemWriter
from dqlite_py.storage.python_engine.payload import Body
from dqlite_py.storage.python_engine.run_statement import is_environmental, run_statement
from dqlite_py.storage.python_engine.sqlite_api import sqlite
from dqlite_py.storage.python_engine.statements import SqlError


class Broken(Exception):
    """Nothing of the entry may be applied: this node's disk, memory or files failed."""

    def __init__(self, error: SqlError) -> None:
        super().__init__(error)
        self.error = error


class Failed(NamedTuple):
    error: SqlError
    position: int  # of the statement


def put_success(results: ItemWriter, statement_count: int) -> None:
    """[0, [...]]: the results of as many statements must follow."""
    results.put_array(2)
    results.put_int(0)
    results.put_array(statement_count)


def put_failure(results: ItemWriter, failed: Failed) -> None:
    results.put_array(3)
    results.put_int(failed.error.code)
    results.put_text(failed.error.message)
    results.put_int(failed.position)


def run_body(engine: EngineState, body: Body) -> Failed | None:
    """Run all statements up to the first failure; raises Broken."""
    for position, statement in enumerate(body):
        try:
            run_statement(engine, statement)
        except SqlError as error:
            if is_environmental(error.code):
                raise Broken(error) from None
            return Failed(error, position)
    return None


def has_open_foreign_keys(db: int) -> bool:
    """Whether a COMMIT would fail now, of deferred foreign keys."""
    current, highest = c_int(0), c_int(0)
    code = sqlite.db_status(
        db, apsw.SQLITE_DBSTATUS_DEFERRED_FKS, ctypes.byref(current), ctypes.byref(highest), 0
    )
    return code == apsw.SQLITE_OK and current.value != 0


def open_foreign_keys() -> SqlError:
    return SqlError(apsw.SQLITE_CONSTRAINT_FOREIGNKEY, b"FOREIGN KEY constraint failed", wrote=True)
