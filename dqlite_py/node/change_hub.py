"""The change logs of this node's databases: who is captured, where subscribers find them, what a drop does to them.

A database is captured from the first time somebody follows it on this node, which its folder DIR/changes/<database>
remembers, or from its opening when the node keeps the changes of all. Outlives the databases' workers: subscribers
of a log stay with it while a snapshot is put in place. Any thread.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Container
from typing import Final

from dqlite_py.errors import Error, NodeStopped, OperationalError
from dqlite_py.limits import CHANGES_KEEP_BYTES
from dqlite_py.logs import event
from dqlite_py.ports import Disk
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.sealedfile import remove_folder

FOLDER: Final = "changes"
log = logging.getLogger("dqlite_py.changes")


class ChangeHub:
    """See the module. `keep_bytes`: keep so much of every database's changes; None: of those that are followed."""

    def __init__(self, directory: str, disk: Disk, keep_bytes: int | None) -> None:
        self.keeps_all = keep_bytes is not None
        self._folder = os.path.join(directory, FOLDER)
        self._disk = disk
        self._keep_bytes = CHANGES_KEEP_BYTES if keep_bytes is None else keep_bytes
        self._lock = threading.Lock()
        self._logs: dict[str, ChangeLog] = {}
        self._closed: Error | None = None

    def log_of(self, database: str) -> ChangeLog | None:
        """Where the changes of a database that is being opened go; None: nobody wants them."""
        with self._lock:
            if database in self._logs or self.keeps_all or self._disk.exists(self._folder_of(database)):
                return self._log(database)
            return None

    def want(self, database: str) -> ChangeLog:
        """From now on, and after restarts. Raises NodeStopped."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            return self._log(database)

    def dropped(self, database: str) -> None:
        """The database is gone, and so is what became of its rows. It is closed."""
        with self._lock:
            found = self._logs.pop(database, None)
            if found is not None:
                found.close(
                    OperationalError(f"database {database} was dropped: there are no more changes of it")
                )
            try:
                if self._disk.exists(self._folder_of(database)):
                    remove_folder(self._disk, self._folder_of(database))
            except OSError as error:
                event(log, logging.WARNING, "changes cannot be removed", database=database, reason=error)

    def opened(self, databases: Container[str]) -> None:
        """These are all that there are, now that a state was opened; a snapshot may have left some out."""
        with self._lock:
            gone = [name for name in self._logs if name not in databases]
        for name in gone:
            self.dropped(name)

    def close(self) -> None:
        """The node stops; all databases are closed."""
        with self._lock:
            self._closed = NodeStopped("the node is stopped")
            for found in self._logs.values():
                found.close(self._closed)

    def _folder_of(self, database: str) -> str:
        return os.path.join(self._folder, database)

    def _log(self, database: str) -> ChangeLog:
        found = self._logs.get(database)
        if found is None:
            found = ChangeLog(self._folder_of(database), self._disk, keep_bytes=self._keep_bytes)
            self._logs[database] = found
        return found
