"""`restore --dir` interrupted at any step: the folder never was in use, and the same command makes it anew."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.errors import Error
from dqlite_py.model import Address
from dqlite_py.node.startup import NO_CLUSTER
from dqlite_py.offline import found
from dqlite_py.offline.found import found_cluster
from dqlite_py.offline.verify import verify_folder
from dqlite_py.ports import SystemDisk, disk_error
from dqlite_py.raft.journal import Identity

HERE = Address("127.0.0.1:1")


class StoppingDisk(SystemDisk):
    """From the n-th call on that changes something, nothing changes any more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise disk_error(errno.EIO)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if any(bytes(data[:64])):  # not each part of the space that a segment takes ahead
            self._count()
        return super().pwrite(fd, data, offset)

    def write_group(self, fd: int, group: Any) -> None:
        self._count()
        super().write_group(fd, group)

    def rename(self, old: str, new: str) -> None:
        self._count()
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self._count()
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._count()
        super().mkdir(path)

    def fsync_dir(self, path: str) -> None:
        self._count()
        super().fsync_dir(path)


def test_interrupted_anywhere_it_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by reading: what was left of an identity not yet in place made the folder one that is not empty."""
    file = tmp_path / "file.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b)")
        db.executemany("INSERT INTO t(b) VALUES (?)", [(str(number),) for number in range(100)])
    monkeypatch.setattr("dqlite_py.node.startup.SEGMENT_BYTES", 64 * 1024)
    step = 0
    while True:
        folder = tmp_path / f"node{step}"
        with monkeypatch.context() as patched:
            patched.setattr(found, "SystemDisk", lambda step=step: StoppingDisk(step))
            try:
                found_cluster(str(folder), "app", str(file), HERE)
            except (Error, OSError):
                interrupted = True
            else:
                interrupted = False
        identity = Identity.load(SystemDisk(), str(folder))
        is_made = identity is not None and identity.cluster_id != NO_CLUSTER
        if not is_made:
            found_cluster(str(folder), "app", str(file), HERE)
        report = verify_folder(str(folder))
        assert report.is_sound, (step, report.findings)
        assert [(d.name, d.matches) for d in report.databases] == [("app", True)]
        if not interrupted:
            break
        step += 1
    assert step > 15
