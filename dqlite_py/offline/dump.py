"""A database as a file of its own, out of the folder of a node that does not run, or out of a fetched copy.

The result appears under its name only when it is whole and durable. Blocking.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from dqlite_py.command import check_database_name
from dqlite_py.errors import CorruptState, InterfaceError
from dqlite_py.offline.folder import held_still
from dqlite_py.ports import ReadOnlyDisk
from dqlite_py.raft.journal.identity import Identity
from dqlite_py.storage.dump_file import make_plain, write_sql
from dqlite_py.storage.examine import copy_database, files_size, remove_files, settle_copy
from dqlite_py.storage.pagehash import scan_file
from dqlite_py.storage.state_files import (
    CURRENT_NAME,
    database_file,
    database_names,
    generation_path,
    read_current,
)

Progress = Callable[[str, int, int], None]
_NO_LINKS = frozenset(
    (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
)  # FAT, some network file systems


@contextmanager
def new_file(path: str, *, replace: bool) -> Iterator[str]:
    """A name beside `path` for a file in the making; on success it is renamed, durably. Nothing is left on an error.

    Raises InterfaceError when `path` exists and is not to be replaced, or what belongs to another file of its name does
    (SQLite would read the new file with it), OSError.
    """
    target = os.path.abspath(path)
    if os.path.isdir(target):
        raise InterfaceError(f"{target} is a folder: name a file")
    if os.path.lexists(target) and not replace:
        raise _exists(target)
    for suffix in ("-wal", "-journal"):
        if os.path.lexists(target + suffix):
            raise InterfaceError(
                f"{target}{suffix} is there, with which SQLite would read the dump: choose another name, or see whose "
                "it is"
            )
    temporary = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        if replace:
            os.replace(temporary, target)
        else:
            _place(temporary, target)
        _sync_folder(os.path.dirname(target))
    finally:
        remove_files(temporary)


def _place(temporary: str, target: str) -> None:
    """Never over a file that came meanwhile, if the file system can see to that."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise _exists(target) from None
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def _exists(target: str) -> InterfaceError:
    return InterfaceError(f"{target} exists already: choose another name, or say --force")


def finish_copy(copy: str, target: str, *, sql: bool, keep_internal: bool) -> int:
    """Make what was copied to `copy` the dump at `target` (both in the making); the log index of its state."""
    index = make_plain(copy, keep_internal=keep_internal)
    if not sql:
        if copy != target:
            os.rename(copy, target)
        return int(index)
    with open(target, "x", encoding="utf-8", newline="\n") as text:
        write_sql(copy, text.write)
        _sync(text)
    return int(index)


def check_hash(copy: str, state_hash: int) -> None:
    """Raise CorruptState unless the copied file has this state hash."""
    found, _pages = scan_file(copy)
    if found != state_hash:
        raise CorruptState(
            f"the copy has state hash {found:016x} instead of {state_hash:016x}",
            file=copy,
            expected=f"{state_hash:016x}",
            found=f"{found:016x}",
        )


def copy_from_folder(folder: str, database: str, target: str, progress: Progress | None = None) -> None:
    """Copy a database out of a stopped node's folder, which stays as it is; `target` is then one file.

    Raises InterfaceError (no such folder or database), DirectoryLocked, CorruptState, StorageFull, OSError.
    """
    check_database_name(database)
    with held_still(folder) as path:
        disk = ReadOnlyDisk()
        if Identity.load(disk, path) is None:
            raise InterfaceError(f"{path} is no data folder of a node: it has no identity")
        state = os.path.join(path, "state")
        current = os.path.join(state, CURRENT_NAME)
        if not disk.exists(current):
            raise InterfaceError(f"{path} holds no databases")
        generation = generation_path(state, read_current(disk, current))
        names = database_names(disk, generation)
        if database not in names:
            raise InterfaceError(f"{path} has no database {database}; it has: {', '.join(names) or 'none'}")
        source = os.path.join(generation, database_file(database))
        total, done = sum(files_size(source)), 0

        def advanced(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(database, done, total)

        copy_database(source, target, advanced)
    settle_copy(target)


def _sync(text: IO[str]) -> None:
    text.flush()
    os.fsync(text.fileno())


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
