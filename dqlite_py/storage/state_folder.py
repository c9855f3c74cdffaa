"""DIR/state: the generations of database files, and which one is current.

DIR/state/CURRENT          sealed file [N]: DIR/state/g<N>/ is the node's state
DIR/state/g<N>/MANIFEST    what that state is a snapshot of, see storage.manifest
DIR/state/g<N>/<database>.db (+ -wal, -shm), <database>.dropped-<index>, see storage.drop_notes
DIR/incoming/, DIR/outgoing/   snapshots on their way; owned by node.snapshot_fetch and node.snapshot_source

A snapshot is installed by filling g<N+1> and switching CURRENT with one rename: a crash at any point leaves
the old generation or the new one. Local compaction replaces MANIFEST inside the generation. Databases may
be ahead of their manifest entry, never behind it.

It never opens a database (the caller compares applied indexes with `check_database`) and does not decide when
to compact. Called by the node from worker threads, one call at a time is enforced by a lock. After a failed
write or fsync whose effect is unknown every later write is refused: the process must restart.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dqlite_py.errors import (
    CorruptState,
    InterfaceError,
    InternalError,
    JournalFailed,
    WrongCluster,
)
from dqlite_py.logs import event
from dqlite_py.ports import Disk
from dqlite_py.storage.drop_notes import DropNotes
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.sealedfile import (
    remove_folder,
    seal,
    storage_full,
    write_temporary,
)
from dqlite_py.storage.state_files import (
    CURRENT_MAGIC,
    CURRENT_NAME,
    CURRENT_VERSION,
    MANIFEST_NAME,
    database_file,
    database_names,
    generation_number,
    generation_path,
    read_current,
    read_manifest,
)

PROGRESS_NAME: Final = "PROGRESS"
_log = logging.getLogger(__name__)


class StateFolder:
    """The open state folder of one node. Make it with `open`."""

    def __init__(self, folder: str, disk: Disk, cluster_id: bytes) -> None:
        self._disk = disk
        self._cluster_id = cluster_id
        self._folder = folder
        self._state = os.path.join(folder, "state")
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._number = 0
        self._manifest = Manifest.empty(cluster_id)
        self._dropped = DropNotes(disk)

    @classmethod
    def open(cls, folder: str, disk: Disk, cluster_id: bytes) -> StateFolder:
        """Open, or create on first start; remove what an interrupted installation left behind.

        Raises CorruptState, UnknownFormat, WrongCluster (the node must not start), OSError.
        """
        self = cls(folder, disk, cluster_id)
        disk.mkdir(self._state)
        disk.fsync_dir(folder)
        if disk.exists(self._current_path):
            self._number = read_current(disk, self._current_path)
        else:
            self._create_first()
        self._manifest = read_manifest(disk, self._manifest_path, cluster_id)
        self._clean()
        self._dropped.read(self.generation_path)
        self._dropped.forget(self.generation_path, self._manifest.index)
        self._remove_abandoned()
        for database in self._manifest.databases:
            path = self.database_path(database.name)
            if not disk.exists(path):
                raise CorruptState(
                    f"database {database.name} is listed in {self._manifest_path} at log index "
                    f"{database.applied_index}, but its file is missing",
                    file=path,
                    expected=f"applied index >= {database.applied_index}",
                    found="no file",
                )
        return self

    # -- what it holds

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def cluster_id(self) -> bytes:
        return self._cluster_id

    @property
    def generation(self) -> int:
        return self._number

    @property
    def generation_path(self) -> str:
        return self._path_of(self._number)

    @property
    def incoming_path(self) -> str:
        return os.path.join(self._folder, "incoming")

    @property
    def outgoing_path(self) -> str:
        return os.path.join(self._folder, "outgoing")

    def database_path(self, name: str) -> str:
        return os.path.join(self.generation_path, database_file(name))

    def list_databases(self) -> list[str]:
        """Names of the database files on disk, sorted; some may be newer than the manifest."""
        return database_names(self._disk, self.generation_path)

    def dropped_at(self, name: str) -> int:
        """The entry behind the manifest's point that dropped this database; 0: none. A replay makes it no earlier."""
        return self._dropped.index_of(name)

    def check_database(self, name: str, applied_index: int) -> None:
        """Raise CorruptState when an opened database is behind its manifest entry: the log is gone there."""
        listed = self._manifest.get(name)
        if listed is not None and applied_index < listed.applied_index:
            raise CorruptState(
                f"database {name} stands at log index {applied_index}, but {self._manifest_path} says it was "
                f"durable at {listed.applied_index}: the file was replaced or has lost committed writes; "
                "remove this member's data folder and let it join again",
                file=self.database_path(name),
                expected=f"applied index >= {listed.applied_index}",
                found=str(applied_index),
            )

    # -- changes

    def write_manifest(self, manifest: Manifest) -> None:
        """Move the compaction point. Every listed database is durable at its entry BEFORE this is called.

        The journal is compacted AFTER it returns. Raises StorageFull (nothing changed) or JournalFailed.
        """
        with self._lock, self._writing():
            self._check_follows(manifest)
            self._check_present(self.generation_path, manifest)
            # The directory entries of new database files, durable BEFORE a manifest that names them.
            self._disk.fsync_dir(self.generation_path)
            self._replace(self.generation_path, MANIFEST_NAME, manifest.to_bytes())
            self._manifest = manifest
            self._dropped.forget(self.generation_path, manifest.index)

    def begin_generation(self) -> str:
        """Give the path of a new, empty generation folder, to be filled and passed to `activate`."""
        with self._lock, self._writing():
            path = self._path_of(max([self._number, *self._generations()]) + 1)
            self._disk.mkdir(path)
            self._disk.fsync_dir(self._state)
            return path

    def activate(self, generation_path: str, manifest: Manifest) -> None:
        """Make a filled generation current. No database of it or of the old one is open.

        Raises StorageFull or InterfaceError/InternalError (nothing changed), JournalFailed (old or new is
        current on disk: the process must restart).
        """
        with self._lock, self._writing():
            number = self._check_generation(generation_path)
            self._check_follows(manifest)
            self._check_present(generation_path, manifest)
            for name in self._disk.listdir(generation_path):
                self._sync_file(os.path.join(generation_path, name))
            self._replace(generation_path, MANIFEST_NAME, manifest.to_bytes())
            # Everything of the new generation is durable BEFORE CURRENT names it.
            self._disk.fsync_dir(self._state)
            self._replace(self._state, CURRENT_NAME, seal(CURRENT_MAGIC, CURRENT_VERSION, [number]))
            self._number = number
            self._manifest = manifest
            self._dropped.read(self.generation_path)
            self._remove_abandoned()

    def discard(self, generation_path: str) -> None:
        """Remove a generation that was begun and will not be activated."""
        with self._lock:
            self._check_generation(generation_path)
            remove_folder(self._disk, generation_path)

    def drop_database(self, name: str, dropped_at: int | None = None) -> None:
        """Remove a database, which is closed; durable on return. A missing one is no error.

        dropped_at: the log index of the DROP. Raises StorageFull (call again), JournalFailed.
        """
        with self._lock, self._writing():
            path = self.database_path(name)
            # ORDER: the manifest forgets it FIRST, or a crash would leave a listed database without a file.
            if self._manifest.get(name) is not None:
                if (
                    dropped_at is not None
                ):  # BEFORE the manifest forgets that the database was there at its point
                    self._dropped.write(self.generation_path, name, dropped_at)
                manifest = self._manifest.without(name)
                self._replace(self.generation_path, MANIFEST_NAME, manifest.to_bytes())
                self._manifest = manifest
            # The database BEFORE its -wal: without its -wal it would be a valid file with an older state.
            for group in ((path,), (path + "-wal", path + "-shm")):
                for file in group:
                    if self._disk.exists(file):
                        self._disk.unlink(file)
                self._disk.fsync_dir(self.generation_path)

    # -- opening

    @property
    def _current_path(self) -> str:
        return os.path.join(self._state, CURRENT_NAME)

    @property
    def _manifest_path(self) -> str:
        return os.path.join(self.generation_path, MANIFEST_NAME)

    def _path_of(self, number: int) -> str:
        return generation_path(self._state, number)

    def _generations(self) -> list[int]:
        found = map(generation_number, self._disk.listdir(self._state))
        return sorted(number for number in found if number is not None)

    def _create_first(self) -> None:
        for number in self._generations():
            left = self._disk.listdir(self._path_of(number))
            if number != 1 or any(name.endswith(".db") for name in left):
                raise CorruptState(
                    f"{self._current_path} is missing, but {self._path_of(number)} exists: this folder has "
                    "lost the record of its current state",
                    file=self._current_path,
                    expected="a record of the current generation",
                    found="no file",
                )
        with self._writing():
            self._disk.mkdir(self._path_of(1))
            self._replace(self._path_of(1), MANIFEST_NAME, self._manifest.to_bytes())
            self._disk.fsync_dir(self._state)
            self._replace(self._state, CURRENT_NAME, seal(CURRENT_MAGIC, CURRENT_VERSION, [1]))
        self._number = 1

    def _clean(self) -> None:
        """Remove what interrupted changes left behind. Databases of the current generation are closed."""
        for name in self._disk.listdir(self.generation_path):
            path = os.path.join(self.generation_path, name)
            # A WAL without its database is what an interrupted drop left: a new database of
            # that name must never meet it.
            orphan = name.endswith((".db-wal", ".db-shm")) and not self._disk.exists(path[: -len("-wal")])
            if orphan or name == MANIFEST_NAME + ".tmp":
                self._disk.unlink(path)
        if self._disk.exists(self._current_path + ".tmp"):
            self._disk.unlink(self._current_path + ".tmp")

    def _remove_abandoned(self) -> None:
        """Remove other generations and partial snapshots without a record: they cost space only."""
        paths = [self._path_of(number) for number in self._generations() if number != self._number]
        if self._disk.exists(self.incoming_path):
            found = [
                os.path.join(self.incoming_path, name) for name in self._disk.listdir(self.incoming_path)
            ]
            paths += [path for path in found if not self._disk.exists(os.path.join(path, PROGRESS_NAME))]
        for path in paths:
            try:
                remove_folder(self._disk, path)
            except OSError as error:
                event(
                    _log,
                    logging.WARNING,
                    "a file could not be removed, trying again at the next start",
                    path=path,
                    reason=error,
                )

    # -- writing

    def _check_generation(self, path: str) -> int:
        number = generation_number(os.path.basename(path))
        if number is None or path != self._path_of(number) or number <= self._number:
            raise InterfaceError(f"{path} is not a generation begun after {self.generation_path}")
        return number

    def _check_follows(self, manifest: Manifest) -> None:
        old = self._manifest
        if manifest.cluster_id != self._cluster_id:
            raise WrongCluster(
                f"manifest of cluster {manifest.cluster_id.hex()}, not {self._cluster_id.hex()}"
            )
        if manifest.index < old.index or manifest.term < old.term:
            # The log before old.index is gone: an older state could never catch up (RF-6).
            raise InternalError(
                f"the state would go back from index {old.index}, term {old.term} to index {manifest.index}, "
                f"term {manifest.term}"
            )

    def _check_present(self, generation_path: str, manifest: Manifest) -> None:
        for database in manifest.databases:
            if not self._disk.exists(os.path.join(generation_path, database_file(database.name))):
                raise InternalError(
                    f"manifest lists database {database.name}, not present in {generation_path}"
                )

    def _sync_file(self, path: str) -> None:
        fd = self._disk.open(path)
        try:
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _replace(self, folder: str, name: str, data: bytes) -> None:
        """Replace a sealed file: old or new after a crash, new and durable on return."""
        path = os.path.join(folder, name)
        temporary = write_temporary(self._disk, path, data)
        self._disk.rename(temporary, path)
        try:
            self._disk.fsync_dir(folder)
        except OSError as error:
            # Whatever the reason, nobody knows which of the two a crash would leave.
            raise self._fail(error) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Map what the disk raises: full is survivable and changed nothing, all else is final."""
        if self._failure is not None:
            raise JournalFailed(f"the state folder failed before: {self._failure}")
        try:
            yield
        except OSError as error:
            full = storage_full(error, self._state)
            if full is not None:
                raise full from error
            raise self._fail(error) from error

    def _fail(self, error: OSError) -> JournalFailed:
        self._failure = str(error)
        return JournalFailed(f"writing {self._state} failed: {error}; the node must restart")
