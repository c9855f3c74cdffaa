"""A data folder of a node that does not run, held so that none starts meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dqlite_py.errors import DirectoryLocked, InterfaceError
from dqlite_py.ports import ReadOnlyDisk
from dqlite_py.raft.journal.lock import NAME


@contextmanager
def held_still(folder: str) -> Iterator[str]:
    """Hold the folder's lock, if it has one, without changing a byte; gives its absolute path.

    Raises InterfaceError (there is no such folder), DirectoryLocked (a node runs there), OSError.
    """
    path = os.path.abspath(folder)
    if not os.path.isdir(path):
        raise InterfaceError(f"there is no folder {path}")
    disk = ReadOnlyDisk()
    lock = os.path.join(path, NAME)
    if not disk.exists(lock):  # a copy of a folder need not have it
        yield path
        return
    fd = disk.open(lock)
    try:
        if not disk.lock(fd):
            raise DirectoryLocked(
                f"{path} is in use by a running node: stop it, or ask it (dqlite-py status, dump)",
                folder=path,
            )
        yield path
    finally:
        disk.close(fd)
