"""Log entries for DatabaseEngine tests: statements in, decoded results out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from dqlite_py.command import encode_unit, encode_units
from dqlite_py.storage.engine import DatabaseEngine

NOW_US = 1_700_000_000_000_000
SEED = bytes(range(16))

Statement = tuple[str, Any]
Unit = Sequence[Statement]


def entry(*units: Unit, now_us: int = NOW_US, seed: bytes = SEED) -> bytes:
    """A UNITS payload."""
    return encode_units("main", now_us, seed, None, [encode_unit(unit) for unit in units])


def one(sql: str, *params: Any) -> Unit:
    """A unit of one statement."""
    return [(sql, list(params))]


def script(*statements: str) -> Unit:
    """A unit of statements without parameters."""
    return [(sql, []) for sql in statements]


class Database:
    """An engine that numbers its entries itself and gives results as Python values."""

    def __init__(self, path: Path, *, create: bool = True, **options: Any) -> None:
        self.path = path
        self.options = options
        self.engine = DatabaseEngine.open(str(path), create=create, **options)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, *units: Unit, **header: Any) -> list[Any]:
        """Apply one entry; returns one result per unit."""
        return self.apply_bytes(entry(*units, **header))

    def apply_bytes(self, payload: bytes) -> list[Any]:
        result = self.engine.apply(self.engine.applied_index + 1, payload, want_results=True)
        return list(msgpack.unpackb(result.results))

    def run(self, *statements: Statement) -> list[Any]:
        """Apply one unit that must succeed; returns its statements' results."""
        (result,) = self.apply(statements)
        assert result[0] == 0, result
        return list(result[1])

    def query(self, sql: str, *params: Any) -> list[Any]:
        """Rows of a SELECT, read through the log (so on the writer)."""
        rows: list[Any] = self.run((sql, list(params)))[0][3]
        return rows

    def reopen(self) -> None:
        self.close()
        self.engine = DatabaseEngine.open(str(self.path), create=False, **self.options)

    def close(self) -> None:
        self.engine.close()
