"""What a change log must know of the schema: the tables' columns, and what an entry changed of it.

Reads on the writer connection, between two statements of it. Apply thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from dqlite_py.changes import ROWID
from dqlite_py.limits import CHANGES_ENTRY_BYTES_MAX
from dqlite_py.storage.authorizer import RESERVED_PREFIX
from dqlite_py.storage.changelog.format import Definition, Layout

VALUE_BYTES: Final = 16  # what a value counts for besides its text or blob
_DEFINITIONS: Final = "SELECT type, name, tbl_name, rootpage, coalesce(sql, '') FROM sqlite_schema"
_COLUMNS: Final = (
    "SELECT t.name, c.name, c.pk, c.type FROM pragma_table_list t, pragma_table_xinfo(t.name, 'main') c "
    "WHERE t.schema = 'main' AND t.type = 'table' AND c.hidden = 0 ORDER BY t.name, c.cid"
)


class NotDescribed(Exception):
    """What the entry did cannot be told row by row; the message says why."""


@dataclass(frozen=True, slots=True)
class Schema:
    """`layout`: of the tables whose rows are followed. `tables`: every one, shadow tables too, with its root page."""

    version: int
    layout: Layout
    tables: dict[str, int]
    definitions: dict[tuple[str, str], Definition]  # by type and name

    @property
    def was_always_empty(self) -> bool:
        """No table of a client has ever been there: each change of the schema counts, and each was one that made a
        table of the engine's own."""
        return not self.definitions and self.version == len(self.tables)


def schema_version(connection: apsw.Connection) -> int:
    """A number that is another one after each change of the schema."""
    version = connection.execute("PRAGMA main.schema_version").fetchall()[0][0]
    assert type(version) is int
    return version


def read_schema(connection: apsw.Connection) -> Schema:
    """Of the state that the connection sees, its own open transaction included."""
    columns: dict[str, list[tuple[str, int, str]]] = {}
    for table, *column in connection.execute(_COLUMNS):
        if not _is_internal(table):
            columns.setdefault(table, []).append(tuple(column))
    tables: dict[str, int] = {}
    definitions: dict[tuple[str, str], Definition] = {}
    for kind, name, table, root, sql in connection.execute(_DEFINITIONS):
        if kind == "table":
            tables[name] = root
        if sql and not _is_internal(name) and (kind != "table" or name in columns or _is_virtual(sql)):
            definitions[kind, name] = (kind, name, table, sql)
    layout: Layout = {}
    for table, each in columns.items():
        found = _layout(each, definitions["table", table][3])
        if found is not None:
            layout[table] = found
    return Schema(schema_version(connection), layout, tables, definitions)


def _is_internal(name: str) -> bool:
    return name.lower().startswith(("sqlite_", RESERVED_PREFIX))


def _is_virtual(sql: str) -> bool:
    return sql.upper().startswith("CREATE VIRTUAL")


def _layout(columns: list[tuple[str, int, str]], sql: str) -> tuple[list[str], list[int], bool] | None:
    """As SQLite's sessions number them: a rowid comes first where no primary key is declared."""
    names = [name for name, _, _ in columns]
    keys = [place for place, (_, key, _) in enumerate(columns) if key]
    if keys:
        # 1 and 1.0 are kept apart where a column has no numeric or text affinity.
        has_blob = any(not columns[place][2] or "BLOB" in columns[place][2].upper() for place in keys)
        return names, keys, has_blob or "COLLATE" in sql.upper()
    if any(name.lower() == ROWID for name in names):
        return None  # its rowid cannot be named
    return [ROWID, *names], [0], False


def redefinitions(old: Schema, new: Schema, drops: int) -> list[tuple[Definition | None, Definition | None]]:
    """What is defined otherwise: dropped ones first, then renamed and altered ones, then created ones.

    `drops`: tables that the entry's statements dropped. Raises NotDescribed when these are not just the ones that are
    missing afterwards: a table may have been replaced by another one of its name.
    """
    missing = {name: root for name, root in old.tables.items() if name not in new.tables}
    added = {root: name for name, root in new.tables.items() if name not in old.tables}
    renamed = {name: added[root] for name, root in missing.items() if root and root in added}
    if drops != len(missing) - len(renamed):
        raise NotDescribed("it dropped a table whose name is used again")
    targets = {("table", name) for name in renamed.values()}
    dropped, altered, created = [], [], []
    for key, definition in old.definitions.items():
        target = ("table", renamed[key[1]]) if key[0] == "table" and key[1] in renamed else key
        found = new.definitions.get(target)
        if found is None:
            dropped.append((definition, None))
        elif found != definition:
            altered.append((definition, found))
    for key, definition in new.definitions.items():
        if key not in old.definitions and key not in targets:
            created.append((None, definition))
    return [*dropped, *altered, *created]


def created_tables(old: Schema, new: Schema) -> list[str]:
    """Followed tables that were not there before under any name."""
    known = {root for name, root in old.tables.items() if name not in new.tables}
    return [name for name in new.layout if name not in old.tables and new.tables[name] not in known]


def all_rows(connection: apsw.Connection, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    """Raises NotDescribed when they are too large."""
    names = ", ".join(_quoted(column) if column != ROWID else ROWID for column in columns)
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in connection.execute(f"SELECT {names} FROM main.{_quoted(table)}"):
        size += VALUE_BYTES * len(row) + sum(len(value) for value in row if type(value) in (str, bytes))
        if size > CHANGES_ENTRY_BYTES_MAX:
            raise NotDescribed("it created a table with too many rows")
        rows.append(row)
    return rows


def known_keys(
    changeset: bytes, layout: Layout, reader: Callable[[], apsw.Connection]
) -> dict[str, list[tuple[Any, ...]]]:
    """Of tables with loose keys: keys that the changeset inserts though `reader`, at the state before, has them. Such
    a row had its key changed to an equal one and back."""
    loose = {table: shape for table, shape in layout.items() if shape[2]}
    found: dict[str, list[tuple[Any, ...]]] = {}
    for each in apsw.Changeset.iter(changeset) if loose else ():
        if each.op == "INSERT" and each.name in loose:
            columns, places, _ = loose[each.name]
            assert each.new is not None
            key = tuple(each.new[place] for place in places)
            names = [_quoted(columns[place]) for place in places]
            where = " AND ".join(f"{name} IS ?" for name in names)
            sql = f"SELECT {', '.join(names)} FROM main.{_quoted(each.name)} WHERE {where}"
            for row in reader().execute(sql, key):
                if all(type(a) is type(b) and a == b for a, b in zip(row, key, strict=True)):
                    found.setdefault(each.name, []).append(key)
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
