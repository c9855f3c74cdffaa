"""Directory operations of a simulated disk, done at once and undone when they were lost.

Each operation is carried out on the real folder and noted until a sync of its folder. What a removal or a
replacement takes away waits in a folder aside, so that it can be put back. Knows files only by path: whoever tracks
them is told of moves. Counting, crashing and the files' contents are disk.py's and the C code's.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

KEEP_ALL: Final = 0.3
LOSE_ALL: Final = 0.5


@dataclass(slots=True)
class _Change:
    kind: str  # "create", "mkdir", "unlink", "rmdir", "rename"
    path: str
    folders: tuple[str, ...]  # those whose sync makes it durable
    aside: str = ""  # where the file lies that it took away
    new_path: str = ""  # of a rename


class Names:
    """The names below one machine's folder. `moved(old, new)` is called for each file that changes its path,
    `dropped(path)` when a file is gone for good."""

    def __init__(self, aside: str, moved: Callable[[str, str], None], dropped: Callable[[str], None]) -> None:
        self._aside = aside
        self._moved = moved
        self._dropped = dropped
        self._changes: list[_Change] = []
        self._count = 0
        self.kept = 0
        self.undone = 0

    def create(self, path: str) -> None:
        """Create an empty file; raises OSError."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._changes.append(_Change("create", path, (os.path.dirname(path),)))

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)
        self._changes.append(_Change("mkdir", path, (os.path.dirname(path),)))

    def unlink(self, path: str) -> None:
        if os.path.isdir(path):
            raise OSError(errno.EISDIR, "Is a directory", path)
        aside = self._put_aside(path)
        self._changes.append(_Change("unlink", path, (os.path.dirname(path),), aside))

    def rmdir(self, path: str) -> None:
        """Of an empty folder: durable only with all that emptied it."""
        os.rmdir(path)
        self._changes.append(_Change("rmdir", path, (os.path.dirname(path), path)))

    def rename(self, old: str, new: str) -> None:
        """Of a file, over an existing one or not; within a folder or between two it is one operation."""
        if os.path.isdir(old):
            raise ValueError(f"the simulated disk renames files only, {old} is a folder")
        if not os.path.exists(old):
            raise OSError(errno.ENOENT, "No such file or directory", old)
        if not os.path.isdir(os.path.dirname(new)):
            raise OSError(errno.ENOENT, "No such file or directory", new)
        if old == new:
            return
        aside = self._put_aside(new) if os.path.exists(new) else ""
        self._move(old, new)
        folders = tuple(dict.fromkeys((os.path.dirname(old), os.path.dirname(new))))
        self._changes.append(_Change("rename", old, folders, aside, new))

    def sync(self, folder: str) -> None:
        """Make the folder's names durable, and what must have reached the disk before them."""
        folders = {folder}
        left: list[_Change] = []
        for change in reversed(self._changes):
            if folders.isdisjoint(change.folders):
                left.append(change)
                continue
            folders.update(change.folders)
            self._forget(change)
        left.reverse()
        self._changes = left

    def lose(self, rng: random.Random) -> None:
        """Power loss: of each folder's operations a prefix survives."""
        counts: dict[str, int] = {}
        for change in self._changes:
            for folder in change.folders:
                counts[folder] = counts.get(folder, 0) + 1
        left = {folder: _prefix(count, rng) for folder, count in counts.items()}
        lost: list[_Change] = []
        for change in self._changes:
            if all(left[folder] > 0 for folder in change.folders):
                for folder in change.folders:
                    left[folder] -= 1
                self.kept += 1
                self._forget(change)
                continue
            lost.append(change)
            for folder in change.folders:
                left[folder] = 0
            if change.kind == "mkdir":
                left[change.path] = 0
        self._changes = []
        for change in reversed(lost):
            self.undone += 1
            self._undo(change)

    def forget_all(self) -> None:
        """All names as they are become durable."""
        for change in self._changes:
            self._forget(change)
        self._changes = []

    # -- steps

    def _put_aside(self, path: str) -> str:
        self._count += 1
        aside = os.path.join(self._aside, str(self._count))
        self._move(path, aside)
        return aside

    def _move(self, old: str, new: str) -> None:
        # The folder may be gone unnoticed (os.rmdir): then its removal never became durable.
        os.makedirs(os.path.dirname(new), mode=0o700, exist_ok=True)
        os.rename(old, new)
        self._moved(old, new)

    def _forget(self, change: _Change) -> None:
        if change.aside:
            os.unlink(change.aside)
            self._dropped(change.aside)

    def _undo(self, change: _Change) -> None:
        path = change.path
        if change.kind == "create":
            os.unlink(path)
            self._dropped(path)
        elif change.kind == "mkdir":
            for folder, _, files in os.walk(path):
                for name in files:
                    self._dropped(os.path.join(folder, name))
            shutil.rmtree(path, ignore_errors=True)
        elif change.kind == "rmdir":
            os.makedirs(path, mode=0o700, exist_ok=True)
        elif change.kind == "unlink":
            self._move(change.aside, path)
        else:
            self._move(change.new_path, path)
            if change.aside:
                self._move(change.aside, change.new_path)


def _prefix(count: int, rng: random.Random) -> int:
    drawn = rng.random()
    if drawn < KEEP_ALL:
        return count
    return 0 if drawn < LOSE_ALL else rng.randint(0, count)
