"""Committed changes of rows, as a subscriber sees them. Records only; `Node.changes` gives streams of them.

A stream is in log order, entry after entry; within one, definitions come first, then deleted, changed and inserted
rows. An entry's changes are its net effect: a row that several statements changed shows once, one that was put back as
it was does not show.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from dqlite_py.command import SqlValue

ROWID: Final = "_rowid_"


class ChangeKind(enum.Enum):
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    SCHEMA = "SCHEMA"


class Change(NamedTuple):
    """One row that is different after a log entry, or one definition.

    `log_index`: of the entry. `is_last`: it has no further changes, so that `after=log_index` goes on behind it.
    `key`: the primary key's columns and values, or {"_rowid_": n} of a table without a declared one.
    `old`, `new`: columns and values. INSERT: the whole row in `new`; DELETE: the whole row in `old`; UPDATE: exactly
    the columns whose values differ, in both. Generated columns are left out. A row whose key changes is deleted and
    inserted.
    SCHEMA: `key` is {"type", "name"} as in sqlite_schema, `table` what it belongs to; `old` and `new` are {"type",
    "name", "tbl_name", "sql"}; None where it was created or dropped. Rows of a dropped table are not told one by one.
    """

    log_index: int
    table: str
    kind: ChangeKind
    key: Mapping[str, SqlValue]
    old: Mapping[str, SqlValue] | None
    new: Mapping[str, SqlValue] | None
    is_last: bool
