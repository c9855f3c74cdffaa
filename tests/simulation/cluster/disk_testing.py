"""Simulated disks for tests, in a folder of their own that goes with them."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.simulation.cluster.disk import DiskFaults, MountedDisk, SimDisk

FOLDERS = ["a", "b"]


def never() -> None:
    raise AssertionError("no crash was ordered")


def nothing() -> None:
    pass


@contextmanager
def machine(
    seed: int = 0, faults: DiskFaults | None = None, sleep: Callable[[float], None] | None = None
) -> Iterator[SimDisk]:
    """A disk with two empty, durable folders."""
    parent = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        for name in FOLDERS:
            os.makedirs(f"{parent}/disk/{name}")
        disk = SimDisk(
            os.path.realpath(f"{parent}/disk"),
            random.Random(seed),
            sleep=sleep or (lambda seconds: None),
            faults=faults or DiskFaults(),
        )
        try:
            yield disk
        finally:
            disk.close()
    finally:
        shutil.rmtree(parent)


def put(disk: MountedDisk, path: str, data: bytes, *, synced: bool = True, offset: int = 0) -> None:
    fd = disk.open(path, create=True)
    disk.pwrite(fd, data, offset)
    if synced:
        disk.fsync(fd)
        disk.fsync_dir(os.path.dirname(path))
    disk.close(fd)
