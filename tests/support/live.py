"""Live transactions for tests: statements in, decoded results out, and what a commit proposes as an entry."""

from __future__ import annotations

from typing import Any

import msgpack

from dqlite_py.command import encode_statements, encode_units, transaction_unit
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.engine_api import LiveUnit
from tests.support.engines import NOW_US, SEED, Statement


def body(*statements: str | Statement) -> bytes:
    """A group; a str has no parameters."""
    return encode_statements([(s, []) if isinstance(s, str) else s for s in statements])


def unit_entry(unit: LiveUnit, now_us: int = NOW_US, seed: bytes = SEED) -> bytes:
    """The UNITS payload that a commit proposes."""
    return encode_units("main", now_us, seed, None, [transaction_unit(unit.groups, unit.digest, None)])


class Live:
    """A live transaction of an engine."""

    def __init__(self, engine: DatabaseEngine, now_us: int = NOW_US, seed: bytes = SEED) -> None:
        self.transaction = engine.live_begin(now_us, seed)

    @property
    def is_open(self) -> bool:
        return self.transaction.is_open

    def run(self, *statements: str | Statement, timeout_s: float | None = None) -> Any:
        """The decoded result of a group."""
        result = self.transaction.run(body(*statements), timeout_s)
        assert result.is_open or not self.is_open
        return msgpack.unpackb(result.results)

    def good(self, *statements: str | Statement) -> list[Any]:
        """One [rowcount, rowid, columns, rows] for each statement of a group that must succeed."""
        result = self.run(*statements)
        assert result[0] == 0, result
        return list(result[1])

    def rows(self, sql: str, *params: Any) -> Any:
        return self.good((sql, list(params)))[0][3]

    def code(self, *statements: str | Statement) -> int:
        """Of a group that must fail."""
        result = self.run(*statements)
        assert result[0] != 0, result
        return int(result[0])

    def finish(self) -> LiveUnit:
        return self.transaction.finish()
