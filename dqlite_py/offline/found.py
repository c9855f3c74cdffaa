"""A new cluster of one node, whose state begins with the contents of an SQLite file.

The folder is what a node's would be that had taken a snapshot at the end of its log: the log begins behind it, so that
every node that joins is sent the snapshot. Its identity is written last (node.startup): a crash leaves a folder that
was never in use, and the next try makes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address, Configuration, LogIndex, Member, Role, Term
from dqlite_py.node.startup import NO_CLUSTER, create_folder, load_identity, new_cluster_id
from dqlite_py.ports import Disk, SystemClock, SystemDisk
from dqlite_py.raft.journal import Identity, Journal, JournalBatch, lock_folder
from dqlite_py.storage.founding import found_database
from dqlite_py.storage.manifest import Manifest
from dqlite_py.storage.source_file import SourceFile
from dqlite_py.storage.state_files import database_file
from dqlite_py.storage.state_folder import StateFolder

OPEN_INDEX: Final = 2  # behind the configuration
_TERM: Final = Term(1)
_LEFT_BEHIND: Final = ("LOCK", "identity.tmp")  # by a try that was interrupted at once
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Founded:
    folder: str
    cluster_id: bytes
    node_id: int
    log_index: int
    state_hash: int


def found_cluster(
    folder: str, database: str, file: str, address: Address, progress: Progress | None = None
) -> Founded:
    """Make `folder` the data folder of the first node of a new cluster, with `file` as its `database`.

    address: where the node will be; one that starts elsewhere corrects it by itself.
    Raises InterfaceError (the folder is in use, no such file), what SourceFile and found_database raise, OSError.
    """
    check_database_name(database)
    path = os.path.abspath(folder)
    disk, clock = SystemDisk(), SystemClock()
    with SourceFile(file) as source:
        if os.path.isdir(path) and not disk.exists(os.path.join(path, "identity")):
            left = [name for name in disk.listdir(path) if name not in _LEFT_BEHIND]
            if left:
                raise InterfaceError(f"{path} is not empty ({', '.join(left[:5])}): name a new folder")
        disk.mkdir(path)
        lock = lock_folder(disk, path)
        try:
            identity = load_identity(disk, path, clock.wall_us())
            if identity.cluster_id != NO_CLUSTER:
                raise InterfaceError(
                    f"{path} is a node's of cluster {identity.cluster_id.hex()} already: name a new folder, or restore "
                    "into the running cluster (-s)"
                )
            owner = Identity(new_cluster_id(), identity.node_id, identity.created_us)
            work = _Founding(disk, owner, database, source, address, clock.wall_us(), progress)
            create_folder(disk, path, owner, bootstrap=address, fill=work.fill).journal.close()
        finally:
            lock.close()
    return Founded(path, owner.cluster_id, int(owner.node_id), work.log_index, work.state_hash)


class _Founding:
    def __init__(
        self, disk: Disk, owner: Identity, database: str, source: SourceFile, address: Address, now_us: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._disk = disk
        self._owner = owner
        self._database = database
        self._source = source
        self._address = address
        self._now_us = now_us
        self._progress = progress
        self._done = 0
        self.log_index = self.state_hash = 0

    def fill(self, journal: Journal, state: StateFolder) -> None:
        """Put the database and its manifest in place, THEN let the log begin behind it."""
        generation = state.begin_generation()
        made = found_database(
            os.path.join(generation, database_file(self._database)),
            self._database,
            self._source,
            first_index=OPEN_INDEX,
            now_us=self._now_us,
            advanced=self._advanced,
        )
        for suffix in ("-wal", "-shm"):
            left = os.path.join(generation, database_file(self._database) + suffix)
            if self._disk.exists(left):
                self._disk.unlink(left)
        me = Configuration((Member(self._owner.node_id, self._address, Role.VOTER),), LogIndex(1))
        manifest = Manifest(self._owner.cluster_id, made.applied_index, _TERM, me, (made,), self._now_us)
        state.activate(generation, manifest)
        journal.write([JournalBatch(reset=(int(made.applied_index), int(_TERM)))])
        self.log_index, self.state_hash = int(made.applied_index), made.state_hash

    def _advanced(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._database, self._done, max(self._done, self._source.size_bytes))
