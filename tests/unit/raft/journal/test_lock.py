"""RF-17: one process per data folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dqlite_py.errors import DirectoryLocked
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import lock_folder

pytestmark = pytest.mark.rf("RF-17")

# Only fcntl: the child must show what another program sees, and end when its standard input closes.
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_lock_ends_with_close(tmp_path: Path) -> None:
    folder, disk = str(tmp_path), SystemDisk()
    first = lock_folder(disk, folder)
    with pytest.raises(DirectoryLocked, match="in use by another process") as error:
        lock_folder(disk, folder)
    assert error.value.details == {"folder": folder}
    first.close()
    first.close()
    lock_folder(disk, folder).close()
    assert (tmp_path / "LOCK").exists()


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "LOCK")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(DirectoryLocked):
            lock_folder(SystemDisk(), str(tmp_path))
        child.kill()
        child.wait(10)
    lock_folder(SystemDisk(), str(tmp_path)).close()
