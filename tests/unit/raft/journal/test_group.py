"""One C call per group: errors of the operating system as themselves, short writes continued."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import native_group, python_group
from dqlite_py.raft.journal.group import Group
from tests.support.faultdisk import FaultDisk
from tests.support.journals import FOLDER, entries

BOTH = pytest.mark.parametrize("twin", [native_group, python_group])
SEQUENCE, OFFSET, SALT = 9, 4096, 0xDEADBEEF


def write(twin: ModuleType, fd: int, **changes: Any) -> None:
    arguments = {"truncate_from": None, "entries": entries(1, 3), **changes}
    twin.write_group(fd, SEQUENCE, OFFSET, SALT, arguments["truncate_from"], arguments["entries"])


@BOTH
def test_errors_keep_their_number(twin: ModuleType, tmp_path: Path) -> None:
    with (
        open("/dev/full", "r+b", buffering=0) as full,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        write(twin, full.fileno())
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="Bad file") as caught:
        write(twin, -1)
    assert caught.value.errno == errno.EBADF


@BOTH
def test_a_failed_sync_is_an_error(twin: ModuleType) -> None:
    """/dev/null takes the write and has nothing to sync."""
    with (
        open("/dev/null", "r+b", buffering=0) as null,
        pytest.raises(OSError, match="Invalid argument") as caught,
    ):
        write(twin, null.fileno())
    assert caught.value.errno == errno.EINVAL


@BOTH
@pytest.mark.parametrize("room", [1, 39, 40, 41, 72, 100, 171, 172, 173, 200, 350, 447])
def test_a_short_write_is_continued(twin: ModuleType, tmp_path: Path, room: int) -> None:
    """Up to the process's limit on file sizes the kernel writes a part; the call for the rest meets the error."""
    expected = Group(SEQUENCE, OFFSET, SALT, None, entries(1, 3)).build()
    assert room < len(expected)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open(tmp_path / "file", "w+b") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (OFFSET + room, before[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                write(twin, file.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, signals)
        assert caught.value.errno == errno.EFBIG
        assert os.pread(file.fileno(), 1000, OFFSET) == expected[:room]


def test_the_systems_disk_takes_the_group_at_once(tmp_path: Path) -> None:
    class Watched(SystemDisk):
        def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
            raise AssertionError("in steps")

    group = Group(SEQUENCE, OFFSET, SALT, 1, entries(1, 3))
    disk = Watched()
    fd = disk.open(str(tmp_path / "file"), create=True)
    disk.write_group(fd, group)
    assert disk.pread(fd, 1000, OFFSET) == group.build()
    disk.close(fd)


def test_other_disks_see_a_write_and_a_sync() -> None:
    """So that a crash can come between them."""
    disk = FaultDisk(FOLDER)
    seen: list[bytes] = []
    fd = disk.open(FOLDER + "/file", create=True)
    disk.before_sync = lambda: seen.append(disk.contents(FOLDER + "/file"))
    group = Group(SEQUENCE, OFFSET, SALT, None, entries(1, 3))
    before = disk.change_count
    disk.write_group(fd, group)
    assert disk.change_count == before + 2
    assert seen == [bytes(OFFSET) + group.build()]
    disk.close(fd)
