"""DIR/LOCK: one process per data folder (flock, so it ends with the process, however that ends).

Called by the node before it reads anything in the folder.
"""

from __future__ import annotations

from typing import Final

from dqlite_py.errors import DirectoryLocked
from dqlite_py.ports import Disk

NAME: Final = "LOCK"


class FolderLock:
    """Held until `close` or the end of the process."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd: int | None = fd

    def close(self) -> None:
        """Release the lock; the file stays, or two processes could lock two files of one name."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)


def lock_folder(disk: Disk, folder: str) -> FolderLock:
    """Take the folder's lock or raise DirectoryLocked; OSError passes through."""
    fd = disk.open(f"{folder}/{NAME}", create=True)
    try:
        if not disk.lock(fd):
            raise DirectoryLocked(
                f"{folder} is in use by another process; stop it, or give this node a folder of its own",
                folder=folder,
            )
    except BaseException:
        disk.close(fd)
        raise
    return FolderLock(disk, fd)
