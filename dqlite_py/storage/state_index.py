"""The log index of the state that a reader connection sees.

It is the larger of two: the index in `_dqlite_meta`, and the newest one in `_dqlite_sessions`, whose entries do not
write the former. The second table is made by the first write that has a key. Used by reader.py.
"""

from __future__ import annotations

from typing import Final

import apsw

from dqlite_py.storage.authorizer import ReadAuthorizer

_META: Final = "SELECT applied_index FROM _dqlite_meta"
_BOTH: Final = (
    "SELECT max(applied_index, coalesce((SELECT max(log_index) FROM _dqlite_sessions), 0)) FROM _dqlite_meta"
)


class StateIndex:
    """A statement that is kept open: while it has a row left, its connection sees one state."""

    def __init__(self, connection: apsw.Connection, authorizer: ReadAuthorizer) -> None:
        self._authorizer = authorizer
        self._cursor = connection.cursor()
        self._sql = _META
        self._is_open = False

    def look(self) -> int:
        """Look, and hold the state until `let_go`. Raises apsw.Error."""
        authorizer = self._authorizer
        authorizer.is_internal = True
        authorizer.was_asked = False
        self._is_open = True
        try:
            cursor = self._cursor
            cursor.execute(self._sql)
            if authorizer.was_asked:  # prepared anew: since the schema changed the other table may be there
                self._choose(cursor)
            (index,) = next(cursor)
        finally:
            authorizer.is_internal = False
        return int(index)

    def _choose(self, cursor: apsw.Cursor) -> None:
        try:
            self._sql = _BOTH
            cursor.execute(_BOTH)
        except apsw.SQLError:  # no such table
            self._sql = _META
            cursor.execute(_META)

    def let_go(self) -> None:
        """End the hold; nothing held is no error."""
        if self._is_open:
            self._is_open = False
            self._cursor.execute("")
