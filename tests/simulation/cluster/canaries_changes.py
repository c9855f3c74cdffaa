"""Canaries of streams of changes: one rule switched off each."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

from dqlite_py.storage.changelog import capture as capture_module
from dqlite_py.storage.changelog import schema
from dqlite_py.storage.changelog.capture import Capture
from dqlite_py.storage.changelog.cursor import Cursor
from dqlite_py.storage.changelog.log import ChangeLog
from tests.simulation.cluster.canaries import POWER, Canary
from tests.simulation.cluster.canaries_patches import replaced
from tests.simulation.cluster.plans import PROFILES


def gap_not_noticed() -> AbstractContextManager[None]:
    """A change log that ends before the state goes on as if nothing were missing."""
    opens = ChangeLog.open

    def goes_on(self: Any, applied: int) -> bool:
        segments = self._find_segments() if self._disk.exists(self.folder) else []
        while segments and segments[-1].base > applied:
            segments.pop()
        reached = self._scan(segments[-1], applied)[1] if segments else applied
        return opens(self, reached)

    return replaced((ChangeLog, "open", goes_on))


def compaction_not_told() -> AbstractContextManager[None]:
    """A consumer that comes too late is told what is there, as if that were all."""
    next_record = Cursor._next_record

    def skips(self: Any, extent: Any) -> Any:
        self.after = max(self.after, extent.oldest)
        return next_record(self, extent)

    return replaced((Cursor, "_next_record", skips))


def undescribed_not_told() -> AbstractContextManager[None]:
    """An entry whose changes could not be written is left out."""

    def leaves_out(self: Any) -> None:
        self._schema = self._next
        if self._why_not is None:
            self.log.commit(self._index)

    return replaced((Capture, "committed", leaves_out))


def table_not_watched() -> AbstractContextManager[None]:
    """Only rows of some tables are watched."""
    read_schema = schema.read_schema

    def forgets(connection: Any) -> Any:
        found = read_schema(connection)
        layout = {table: shape for table, shape in found.layout.items() if table != "registers"}
        return replace(found, layout=layout)

    return replaced((capture_module, "read_schema", forgets))


CHANGES: Final[dict[str, Canary]] = {
    "gap not noticed": Canary(
        "", "a change log that ends before the state goes on", gap_not_noticed, faults=POWER, followers=3, seed=20
    ),
    "compaction not told": Canary(
        "", "a consumer that comes too late is told the rest", compaction_not_told, operations_per_s=60.0,
        followers=3
    ),
    "undescribed not told": Canary(
        "", "an entry whose changes could not be written is left out", undescribed_not_told,
        faults=PROFILES["clogged"], operations_per_s=60.0, followers=3
    ),
    "table not watched": Canary("", "a table's rows are not told", table_not_watched, followers=3),
}  # fmt: skip
