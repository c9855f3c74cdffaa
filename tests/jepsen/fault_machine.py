"""A data folder under the fault library, a process that uses it and is killed, and power losses of that moment."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jepsen.faults import Loss, ProcessFaults, lose_unsynced

HELPERS = """
import os, sys
def opened(name):
    return os.open(D + '/' + name, os.O_RDWR | os.O_CREAT)
def sync_folder(name=''):
    fd = os.open(D + '/' + name, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
def die():
    os.kill(os.getpid(), 9)
"""


class Machine:
    """A data folder, a process that uses it and is killed, and many power losses of the same moment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "data"
        self.folder.mkdir()
        self.faults = ProcessFaults(root / "control", self.folder)

    def run(self, code: str) -> None:
        text = f"D = {str(self.folder)!r}\n{HELPERS}\n{textwrap.dedent(code)}\ndie()\n"
        done = subprocess.run(
            [sys.executable, "-I", "-c", text],
            env={**os.environ, **self.faults.environment()},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == -9, done.stderr

    def outcomes(self, look: Callable[[Path], object], seeds: int = 40) -> Counter[object]:
        """What `look` finds after each of many losses of the present state. The state itself is gone afterwards."""
        found: Counter[object] = Counter()
        for seed in range(seeds):
            with self.copy() as (folder, notes):
                lose(folder, notes, seed)
                found[look(folder)] += 1
        return found

    def copy(self) -> _Copied:
        return _Copied(self)


class _Copied:
    """The notes name files by inode and by path, so the copy takes the original's place: move, link, move back."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._saved = machine.root / "saved"

    def __enter__(self) -> tuple[Path, Path]:
        folder, notes = self._machine.folder, self._machine.faults.undo_folder
        self._saved.mkdir()
        for path in (folder, notes):
            path.rename(self._saved / path.name)
            shutil.copytree(self._saved / path.name, path)
        # The copies' inodes are others: rename the notes accordingly.
        for old in sorted((self._saved / notes.name).glob("f*")):
            (notes / old.name).unlink()
        inodes: dict[int, int] = {}
        for place, copy in ((self._saved / folder.name, folder), (self._saved / notes.name, notes)):
            for file in [place, *place.rglob("*")]:
                if (twin := copy / file.relative_to(place)).exists():
                    inodes[file.stat().st_ino] = twin.stat().st_ino
        for old in sorted((self._saved / notes.name).glob("f*")):
            if (inode := inodes.get(int(old.name[1:]))) is not None:
                shutil.copy(old, notes / f"f{inode}")
        return folder, notes

    def __exit__(self, *_exc: object) -> None:
        for path in (self._machine.folder, self._machine.faults.undo_folder):
            shutil.rmtree(path)
            (self._saved / path.name).rename(path)
        self._saved.rmdir()


def lose(folder: Path, notes: Path, seed: int) -> Loss:
    return lose_unsynced(folder, notes, random.Random(seed))


def content(name: str) -> Callable[[Path], object]:
    def look(folder: Path) -> object:
        path = folder / name
        return path.read_bytes() if path.exists() else None

    return look
