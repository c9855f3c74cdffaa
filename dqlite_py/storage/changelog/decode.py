"""A record of the change log as `Change`s. Any thread; raises MalformedMessage for what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import apsw

from dqlite_py.changes import ROWID, Change, ChangeKind
from dqlite_py.errors import MalformedMessage
from dqlite_py.storage.changelog.format import Body, Definition, Layout

_PARTS: Final = ("type", "name", "tbl_name", "sql")
_ABSENT: Final = apsw.no_change
Row = tuple[Any, ...]


def changes_of(index: int, body: Body, layout: Layout) -> list[Change]:
    """What entry `index` changed; `layout` is that of the tables after it."""
    found = [_definition(index, *pair) for pair in body.definitions or ()]
    try:
        if body.changeset:
            found.extend(_Rows(index, layout, body.known or {}).read(body.changeset))
        for table, rows in (body.created or {}).items():
            shape = _Shape(*layout[table])
            found.extend(shape.change(index, table, ChangeKind.INSERT, None, row) for row in rows)
    except (apsw.Error, UnicodeDecodeError, KeyError, IndexError, ValueError) as error:
        raise MalformedMessage(f"changes of entry {index} cannot be read: {error}", what="changes") from None
    if found:
        found[-1] = found[-1]._replace(is_last=True)
    return found


class _Shape:
    """How a table's rows become mappings."""

    def __init__(self, columns: list[str], keys: list[int], is_loose: bool) -> None:
        self.is_loose = is_loose
        self.columns = columns
        self.keys = keys
        self.first = 1 if list(keys) == [0] and columns[0] == ROWID else 0  # a rowid is no column

    def change(self, index: int, table: str, kind: ChangeKind, old: Row | None, new: Row | None) -> Change:
        row = old if old is not None else new
        assert row is not None
        if len(row) != len(self.columns):
            raise ValueError(f"table {table} has {len(self.columns)} columns, not {len(row)}")
        return Change(
            index,
            table,
            kind,
            {self.columns[place]: row[place] for place in self.keys},
            None if old is None else self._values(old),
            None if new is None else self._values(new),
            False,
        )

    def update(self, index: int, table: str, old: Row, new: Row) -> Change:
        keys = self.keys
        shown = range(self.first, len(self.columns))
        columns = self.columns
        if len(old) != len(columns):
            raise ValueError(f"table {table} has {len(columns)} columns, not {len(old)}")
        return Change(
            index,
            table,
            ChangeKind.UPDATE,
            {columns[place]: old[place] for place in keys},
            {columns[place]: old[place] for place in shown if new[place] is not _ABSENT},
            {columns[place]: new[place] for place in shown if new[place] is not _ABSENT},
            False,
        )

    def _values(self, row: Row) -> dict[str, Any]:
        if not self.first:
            return dict(zip(self.columns, row, strict=True))
        return dict(zip(self.columns[1:], row[1:], strict=True))


class _Rows:
    """A changeset's changes: deletes, then updates, then inserts, so that no key is taken twice on the way."""

    def __init__(self, index: int, layout: Layout, known: dict[str, list[Row]]) -> None:
        self._index = index
        self._layout = layout
        self._known = known

    def read(self, changeset: bytes) -> list[Change]:
        index = self._index
        shapes: dict[str, _Shape] = {}
        deletes: list[Change] = []
        updates: list[Change] = []
        inserts: list[Change] = []
        moved: list[tuple[str, Row, Row]] = []  # keys that became ones that compare equal
        for each in apsw.Changeset.iter(changeset):
            table, old, new = each.name, each.old, each.new
            shape = shapes.get(table)
            if shape is None:
                shape = shapes[table] = _Shape(*self._layout[table])
            if old is None:
                inserts.append(shape.change(index, table, ChangeKind.INSERT, None, new))
            elif new is None:
                deletes.append(shape.change(index, table, ChangeKind.DELETE, old, None))
            elif any(new[place] is not _ABSENT for place in shape.keys):
                moved.append((table, old, new))
            else:
                updates.append(shape.update(index, table, old, new))
        for table, old, new in moved:
            deletes.append(self._moved(table, shapes[table], old, new, inserts))
        for table, shape in shapes.items():
            if shape.is_loose:
                inserts = _without_repeated(table, self._known.get(table, ()), inserts)
        return deletes + updates + inserts

    def _moved(self, table: str, shape: _Shape, old: Row, new: Row, inserts: list[Change]) -> Change:
        """Where a key becomes another one that compares equal ('a' and 'A' under NOCASE), SQLite tells the new row as
        inserted, and the old one as if it were changed. It is gone, and was as the new one but for what is told."""
        key = {shape.columns[i]: old[i] if new[i] is _ABSENT else new[i] for i in shape.keys}
        rows = (change.new for change in inserts if change.table == table and _is_same(change.key, key))
        row = next(rows, None) or {}
        whole = tuple(
            row.get(name) if value is _ABSENT else value
            for name, value in zip(shape.columns, old, strict=True)
        )
        return shape.change(self._index, table, ChangeKind.DELETE, whole, None)


def _is_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """1 and 1.0 are not."""
    return _identity(left) == _identity(right)


def _identity(key: Mapping[str, Any]) -> Row:
    return tuple((type(value), value) for value in key.values())


def _without_repeated(table: str, known: Iterable[Row], inserts: list[Change]) -> list[Change]:
    """A row whose key went through equal ones is told as inserted for each of them, also where it was there before."""
    told = {tuple((type(value), value) for value in key) for key in known}
    kept = []
    for change in inserts:
        if change.table == table:
            identity = _identity(change.key)
            if identity in told:
                continue
            told.add(identity)
        kept.append(change)
    return kept


def _definition(index: int, old: Definition | None, new: Definition | None) -> Change:
    shown = new if new is not None else old
    assert shown is not None
    return Change(
        index,
        shown[2],
        ChangeKind.SCHEMA,
        {"type": shown[0], "name": shown[1]},
        None if old is None else dict(zip(_PARTS, old, strict=True)),
        None if new is None else dict(zip(_PARTS, new, strict=True)),
        False,
    )
