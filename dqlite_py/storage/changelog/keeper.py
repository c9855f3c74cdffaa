"""Applies entries with their changes going into a log, once that is possible. Apply thread."""

from __future__ import annotations

import apsw

from dqlite_py.storage.changelog.capture import Capture
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.engine_api import ApplyEngine, State
from dqlite_py.storage.sqlerrors import error_from_apsw


class ChangeKeeper:
    """Of one open writer, for which somebody wants changes."""

    def __init__(self, connection: apsw.Connection, engine: ApplyEngine, log: ChangeLog) -> None:
        self._connection = connection
        self._engine = engine
        self._log = log
        self._capture: Capture | None = None

    def start(self, applied: int) -> bool:
        """Capture every entry after `applied`, the present state, if FOLLOW_SQL was applied. No transaction is open."""
        if self._capture is None and self._engine.is_followed:
            try:
                self._capture = Capture(self._connection, self._engine, self._log, applied)
            except apsw.Error as error:
                raise error_from_apsw(error) from error
        return self._capture is not None

    def apply(self, index: int, payload: bytes, want_results: bool) -> State:
        """ApplyEngine.apply, what it raises too."""
        capture = self._capture
        if capture is None:
            state = self._engine.apply(index, payload, want_results)
            self.start(index)
            return state
        capture.begin(index)
        try:
            state = self._engine.apply(index, payload, want_results)
        finally:
            capture.end()
        capture.committed()
        return state

    def close(self) -> None:
        """BEFORE the engine is."""
        if self._capture is not None:
            self._capture.close()
            self._capture = None
