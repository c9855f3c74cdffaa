"""DIR/state/g<N>/<database>.dropped-<log index>: databases that were dropped after the manifest's point.

The log is replayed from the manifest's point, and an OPEN between that point and the DROP did nothing when it was
first applied, because the database was there. With the file gone it would make an empty one, to which the entries
before the DROP would then be applied. The note says up to which entry the name is not to be made again. An empty file:
its name is all, so that it is there as a whole or not at all.

Needed only for a database that the manifest lists: any other was made by the log itself, and is made again by it.
Used by storage.state_folder, under its lock.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Final

from dqlite_py.logs import event
from dqlite_py.ports import Disk

_NOTE: Final = re.compile(r"(.+)\.dropped-([1-9][0-9]{0,18})")
_log = logging.getLogger(__name__)


class DropNotes:
    """The notes of one generation. `index_of` may be called from any thread."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._indexes: dict[str, int] = {}

    def index_of(self, name: str) -> int:
        """The entry that dropped it, 0 when none is noted."""
        return self._indexes.get(name, 0)

    def read(self, folder: str) -> None:
        """Take what the folder holds."""
        found: dict[str, int] = {}
        for file in self._disk.listdir(folder):
            match = _NOTE.fullmatch(file)
            if match is not None:
                found[match[1]] = max(found.get(match[1], 0), int(match[2]))
        self._indexes = found

    def write(self, folder: str, name: str, index: int) -> None:
        """Durable on return. Raises OSError."""
        self._disk.close(self._disk.open(os.path.join(folder, f"{name}.dropped-{index}"), create=True))
        self._disk.fsync_dir(folder)
        self._indexes[name] = max(index, self._indexes.get(name, 0))

    def forget(self, folder: str, upto: int) -> None:
        """The manifest's point has passed them: no replay meets those entries again. One that stays is harmless."""
        self._indexes = {name: index for name, index in self._indexes.items() if index > upto}
        for file in self._disk.listdir(folder):
            match = _NOTE.fullmatch(file)
            if match is not None and int(match[2]) <= upto:
                try:
                    self._disk.unlink(os.path.join(folder, file))
                except OSError as error:
                    event(
                        _log,
                        logging.WARNING,
                        "a file could not be removed, trying again at the next start",
                        path=file,
                        reason=error,
                    )
