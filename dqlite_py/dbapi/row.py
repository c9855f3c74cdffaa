"""The Row factory: `connection.row_factory = Row`, as sqlite3's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from dqlite_py.dbapi.basecursor import BaseCursor
from dqlite_py.dbapi.results import Description


class Row(Sequence[Any]):
    """A row with access by position, slice and column name (ASCII letters in any case).

    Equal to a Row of equal columns and values; hashable when its values are.
    """

    __slots__ = ("_description", "_values")

    def __init__(self, cursor: BaseCursor, values: tuple[Any, ...], /) -> None:
        if not issubclass(type(cursor), BaseCursor):
            raise TypeError(f"Row() argument 1 must be a cursor, not {type(cursor).__name__}")
        if not isinstance(values, tuple):
            raise TypeError(f"Row() argument 2 must be tuple, not {type(values).__name__}")
        self._description: Description = cursor.description or ()
        self._values = values

    def keys(self) -> list[str]:
        """The column names, in order."""
        return [column[0] for column in self._description]

    @overload
    def __getitem__(self, key: int | str) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Any:
        if isinstance(key, (int, slice)):
            return self._values[key]
        if not isinstance(key, str):
            raise IndexError("Index must be int or string")
        wanted = _folded(key)
        for number, column in enumerate(self._description):
            if column[0] == key or _folded(column[0]) == wanted:
                return self._values[number]
        raise IndexError("No item with that key")

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return self._description == other._description and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._description) ^ hash(self._values)

    def __repr__(self) -> str:
        pairs = zip(self.keys(), self._values, strict=True)
        return f"Row({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else "".join(ch.lower() if ch.isascii() else ch for ch in name)
