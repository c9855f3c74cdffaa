"""What the C part of the simulated disk calls: the end of a life, and SQLite's opening and removing of files.

Runs inside SQLite: nothing here may raise or switch greenlets.
"""

from __future__ import annotations

import errno
import itertools
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.cluster.disk_mounted import Crashed, File
from tests.simulation.cluster.disk_native import ffi, lib

if TYPE_CHECKING:
    from tests.simulation.cluster.disk import SimDisk

_numbers: Final = itertools.count(1)
_disks: Final[weakref.WeakValueDictionary[int, SimDisk]] = weakref.WeakValueDictionary()


def register(disk: SimDisk) -> int:
    """Give a disk the number by which C names it."""
    number = next(_numbers)
    _disks[number] = disk
    return number


def free(machine: Any, files: dict[str, File], orphans: list[File]) -> None:
    """With the disk's last reference. What SQLite still holds is left alone: its memory must stay."""
    machine.is_dead = 1
    every = [*files.values(), *orphans]
    if not any(file.raw.refs for file in every):
        for file in every:
            file.free()
        lib.sd_machine_free(machine)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sd_py_crashed(number: int) -> None:
    disk = _disks.get(number)
    if disk is not None:
        disk.crashed()


def _answer(number: int, call: Callable[[SimDisk], object]) -> int:
    """Run a callback of the VFS; its exceptions become numbers."""
    disk = _disks.get(number)
    if disk is None:
        return int(lib.SD_CRASHED)
    try:
        call(disk)
    except Crashed:
        return int(lib.SD_CRASHED)
    except OSError as error:
        return -(error.errno or errno.EIO)
    return 0


@ffi.def_extern(error=-errno.EIO)  # type: ignore[untyped-decorator]
def sd_py_open(number: int, path: Any, create: int, exclusive: int, file: Any) -> int:
    def call(disk: SimDisk) -> None:
        found = disk.file_at(_text(path), create=bool(create), exclusive=bool(exclusive))
        file[0] = found.raw

    return _answer(number, call)


@ffi.def_extern(error=-errno.EIO)  # type: ignore[untyped-decorator]
def sd_py_unlink(number: int, path: Any) -> int:
    return _answer(number, lambda disk: disk.unlink(_text(path)))


@ffi.def_extern(error=-errno.EIO)  # type: ignore[untyped-decorator]
def sd_py_sync_folder(number: int, path: Any) -> int:
    return _answer(number, lambda disk: disk.sync_folder(os.path.dirname(_text(path))))


def _text(path: Any) -> str:
    return os.fsdecode(ffi.string(path))
