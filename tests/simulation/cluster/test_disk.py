"""The simulated disk by itself: what survives, what is lost, what a dead life can do (nothing)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.simulation.cluster.disk import (
    Crashed,
    MountedDisk,
    SimDisk,
)
from tests.simulation.cluster.disk_model import ModelDisk, ModelFile
from tests.simulation.cluster.disk_testing import FOLDERS, machine, never, nothing, put

NAMES = ["x", "y", "z"]


def image(disk: SimDisk) -> dict[str, dict[str, bytes]]:
    return {
        name: {path.name: path.read_bytes() for path in sorted(Path(disk.folder, name).iterdir())}
        for name in FOLDERS
    }


# -- any operations, any crash -------------------------------------------------------------------------------

Operation = tuple[str, str, str, str, str, int, int]
OPERATIONS = st.tuples(
    st.sampled_from(
        ["write"] * 6
        + ["truncate"] * 2
        + ["sync"] * 2
        + ["rename"] * 2
        + ["sync_folder", "unlink", "kill", "power"]
    ),
    st.sampled_from(FOLDERS),
    st.sampled_from(NAMES),
    st.sampled_from(FOLDERS),
    st.sampled_from(NAMES),
    st.sampled_from([0, 1, 100, 511, 512, 513, 1024, 1500]),
    st.sampled_from([1, 100, 512, 700, 1200]),
)


class Pair:
    """A disk and its model, taking the same operations."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.model = ModelDisk(FOLDERS)
        self.crash_count = 0
        self.mounted = disk.mount(self._crashed)
        self._fill = 0

    def _crashed(self) -> None:
        self.crash_count += 1

    def path(self, folder: str, name: str) -> str:
        return f"{self.disk.folder}/{folder}/{name}"

    def do(self, operation: Operation) -> None:
        kind, folder, name, other, new_name, offset, size = operation
        try:
            if kind == "kill":
                self.disk.settle(lose_unsynced=False)
                self.mounted = self.disk.mount(self._crashed)
            elif kind == "power":
                self.lose()
            elif kind == "sync_folder":
                self.mounted.fsync_dir(f"{self.disk.folder}/{folder}")
                self.model.sync_folder(folder)
            elif kind == "rename":
                self._rename(folder, name, other, new_name)
            elif kind == "unlink":
                self._unlink(folder, name)
            else:
                self._file_operation(kind, folder, name, offset, size)
        except Crashed:
            assert self.crash_count == 1
            self.lose()

    def lose(self) -> None:
        self.disk.settle(lose_unsynced=True)
        found = image(self.disk)
        assert self.model.allows(found)
        self.model.settled(found)
        self.crash_count = 0
        self.mounted = self.disk.mount(self._crashed)
        assert image(self.disk) == found

    def _rename(self, folder: str, name: str, other: str, new_name: str) -> None:
        names, others = self.model.folders[folder], self.model.folders[other]
        if name not in names or (folder, name) == (other, new_name):
            return
        others[new_name] = names.pop(name)
        self.model.change(*dict.fromkeys((folder, other)))
        self.mounted.rename(self.path(folder, name), self.path(other, new_name))

    def _unlink(self, folder: str, name: str) -> None:
        if name in self.model.folders[folder]:
            del self.model.folders[folder][name]
            self.model.change(folder)
            self.mounted.unlink(self.path(folder, name))

    def _file_operation(self, kind: str, folder: str, name: str, offset: int, size: int) -> None:
        names = self.model.folders[folder]
        if name not in names:
            names[name] = ModelFile()
            self.model.change(folder)
        file = names[name]
        fd = self.mounted.open(self.path(folder, name), create=True)
        if kind == "write":
            self._fill = self._fill % 255 + 1
            data = bytes([self._fill]) * size
            try:
                self.mounted.pwrite(fd, data, offset)
                file.write(data, offset)
            except Crashed:
                found = Path(self.path(folder, name)).read_bytes()
                done = data[: found.count(data[0])]  # the fill is new: what of it is there has been written
                if done:
                    file.write(done, offset)
                assert found == file.now
                raise
        elif kind == "truncate":
            file.truncate(offset)
            self.mounted.ftruncate(fd, offset)
        else:
            self.mounted.fdatasync(fd)
            file.sync()
        assert self.mounted.pread(fd, 10_000, 0) == file.now
        assert self.mounted.size(fd) == len(file.now)
        self.mounted.close(fd)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    operations=st.lists(OPERATIONS, max_size=25),
    seed=st.integers(0, 2**32),
    crash_after=st.one_of(st.none(), st.integers(1, 30)),
)
def test_a_power_loss_leaves_what_the_model_allows(
    operations: list[Operation], seed: int, crash_after: int | None
) -> None:
    with machine(seed) as disk:
        pair = Pair(disk)
        disk.crash_after(crash_after)
        for operation in operations:
            pair.do(operation)
        pair.lose()
        left = sorted(os.listdir(disk.folder + ".lost"))
        assert left == []


def scripted(seed: int) -> tuple[dict[str, dict[str, bytes]], dict[str, int]]:
    """A life with unsynced changes of every kind, and what a power loss leaves."""
    with machine(seed) as disk:
        mounted = disk.mount(nothing)
        a = disk.folder + "/a/"
        put(mounted, a + "old", b"o" * 3000)
        put(mounted, a + "file", b"d" * 2000)
        fd = mounted.open(a + "file")
        for number in range(6):
            mounted.pwrite(fd, bytes([number]) * 1500, number * 700)
        mounted.ftruncate(fd, 900)
        mounted.pwrite(fd, b"end", 2000)
        put(mounted, a + "new", b"n" * 600, synced=False)
        mounted.rename(a + "old", disk.folder + "/b/moved")
        mounted.unlink(a + "file")
        put(mounted, a + "file", b"again", synced=False)
        disk.cut_power()
        disk.settle(lose_unsynced=True)
        return image(disk), disk.counts()


def test_every_kind_of_loss_occurs_and_repeats_by_seed() -> None:
    images = {}
    total: dict[str, int] = {}
    for seed in range(60):
        images[seed], counts = scripted(seed)
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    for name in ("kept", "lost", "torn", "sizes_lost", "names_kept", "names_undone"):
        assert total[name] > 20, (name, total)
    assert scripted(7) == (images[7], scripted(7)[1])
    moved = [("old" in found["a"], "moved" in found["b"]) for found in images.values()]
    assert {(True, False), (False, True)} == set(moved)  # a rename between folders is atomic
    assert len({repr(found) for found in images.values()}) > 20


def test_what_follows_a_lost_change_is_lost_where_it_must_be() -> None:
    """New data is in new blocks, behind a truncation; and no operation of a folder outlives an earlier one."""
    found = set()
    for seed in range(100):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            a, b = disk.folder + "/a/", disk.folder + "/b/"
            put(mounted, a + "file", b"o" * 2048)
            put(mounted, a + "moves", b"m")
            fd = mounted.open(a + "file")
            mounted.ftruncate(fd, 0)
            mounted.pwrite(fd, b"n" * 2048, 0)
            mounted.rename(a + "moves", b + "moved")
            mounted.close(mounted.open(a + "later", create=True))
            mounted.close(mounted.open(b + "later", create=True))
            disk.settle(lose_unsynced=True)
            content = Path(a, "file").read_bytes()
            assert not (b"o" in content and b"n" in content)
            is_moved = os.path.exists(b + "moved")
            assert is_moved != os.path.exists(a + "moves")
            assert is_moved or not (os.path.exists(a + "later") or os.path.exists(b + "later"))
            found.add((b"o" in content, is_moved, os.path.exists(a + "later"), os.path.exists(b + "later")))
    assert len(found) > 6


def test_the_last_write_of_a_killed_process_may_be_cut() -> None:
    sizes = set()
    for seed in range(20):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            fd = mounted.open(disk.folder + "/a/x", create=True)
            disk.crash_after(1)
            with pytest.raises(Crashed):
                mounted.pwrite(fd, b"1" * 10_000, 0)
            disk.settle(lose_unsynced=False)
            sizes.add(os.path.getsize(disk.folder + "/a/x"))
    assert 10_000 in sizes
    assert len(sizes) > 5


# -- lives ---------------------------------------------------------------------------------------------------


def test_a_killed_process_loses_nothing_but_its_unsynced_data_stays_unsynced() -> None:
    lost = 0
    for seed in range(20):
        with machine(seed) as disk:
            path = disk.folder + "/a/x"
            put(disk.mount(nothing), path, b"1" * 600, synced=False)
            disk.settle(lose_unsynced=False)
            assert Path(path).read_bytes() == b"1" * 600
            assert disk.pending == 1
            mounted = disk.mount(nothing)
            mounted.close(mounted.open(path))
            disk.settle(lose_unsynced=True)
            lost += not os.path.exists(path) or Path(path).read_bytes() != b"1" * 600
    assert 5 < lost < 20


def test_nothing_of_a_dead_life_has_an_effect() -> None:
    with machine() as disk:
        crashes: list[int] = []
        path = disk.folder + "/a/x"
        mounted = disk.mount(lambda: crashes.append(disk.operations))
        put(mounted, path, b"durable")
        fd = mounted.open(path)
        disk.crash_after(2)
        mounted.pwrite(fd, b"1", 0)
        with pytest.raises(Crashed):
            mounted.pwrite(fd, b"2", 0)
        before = disk.counts(), image(disk)
        calls: list[Callable[[], object]] = [
            lambda: mounted.pwrite(fd, b"3", 0),
            lambda: mounted.pread(fd, 1, 0),
            lambda: mounted.ftruncate(fd, 0),
            lambda: mounted.fsync(fd),
            lambda: mounted.fdatasync(fd),
            lambda: mounted.fsync_dir(disk.folder + "/a"),
            lambda: mounted.size(fd),
            lambda: mounted.lock(fd),
            lambda: mounted.close(fd),
            lambda: mounted.open(path),
            lambda: mounted.open(path + "new", create=True),
            lambda: mounted.rename(path, path + "new"),
            lambda: mounted.unlink(path),
            lambda: mounted.listdir(disk.folder),
            lambda: mounted.mkdir(disk.folder + "/c"),
            lambda: mounted.rmdir(disk.folder + "/b"),
            lambda: mounted.exists(path),
            lambda: mounted.free_bytes(path),
        ]
        for call in calls:
            with pytest.raises(Crashed):
                call()
        assert (disk.counts(), image(disk)) == before
        assert crashes == [6]
        disk.settle(lose_unsynced=True)
        disk.mount(never)
        with pytest.raises(Crashed):
            mounted.pread(fd, 1, 0)


LAST: dict[str, Callable[[MountedDisk, str, int], object]] = {
    "create": lambda mounted, folder, fd: mounted.open(folder + "/a/y", create=True),
    "rename": lambda mounted, folder, fd: mounted.rename(folder + "/a/x", folder + "/a/y"),
    "unlink": lambda mounted, folder, fd: mounted.unlink(folder + "/a/x"),
    "mkdir": lambda mounted, folder, fd: mounted.mkdir(folder + "/c"),
    "rmdir": lambda mounted, folder, fd: mounted.rmdir(folder + "/b"),
    "fsync_dir": lambda mounted, folder, fd: mounted.fsync_dir(folder + "/a"),
    "fsync": lambda mounted, folder, fd: mounted.fsync(fd),
}


@pytest.mark.parametrize("operation", LAST)
def test_the_last_operation_may_be_any(operation: str) -> None:
    outcomes: set[tuple[str, ...]] = set()
    for seed in range(30):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            put(mounted, disk.folder + "/a/x", b"1")
            fd = mounted.open(disk.folder + "/a/x")
            disk.crash_after(1)
            with pytest.raises(Crashed):
                LAST[operation](mounted, disk.folder, fd)
            disk.settle(lose_unsynced=True)
            outcomes.add(
                tuple(sorted(str(at.relative_to(disk.folder)) for at in Path(disk.folder).rglob("*")))
            )
    assert len(outcomes) == (1 if "fsync" in operation else 2)


def test_locks_end_with_their_life() -> None:
    with machine() as disk:
        mounted = disk.mount(nothing)
        path = disk.folder + "/a/LOCK"
        first, second = mounted.open(path, create=True), mounted.open(path)
        assert mounted.lock(first)
        assert mounted.lock(first)
        assert not mounted.lock(second)
        mounted.close(first)
        assert mounted.lock(second)
        disk.settle(lose_unsynced=False)
        mounted = disk.mount(nothing)
        assert mounted.lock(mounted.open(path))


def test_folders_and_their_names() -> None:
    gone = 0
    for seed in range(30):
        with machine(seed) as disk:
            mounted = disk.mount(nothing)
            deep = disk.folder + "/a/deep/er"
            mounted.mkdir(deep)
            put(mounted, deep + "/x", b"1")
            assert mounted.listdir(disk.folder + "/a/deep") == ["er"]
            disk.settle(lose_unsynced=True)
            gone += not os.path.exists(deep)
            mounted = disk.mount(nothing)
            mounted.mkdir(deep)
            put(mounted, deep + "/x", b"1")
            mounted.fsync_dir(disk.folder + "/a/deep")
            mounted.fsync_dir(disk.folder + "/a")
            disk.settle(lose_unsynced=True)
            mounted = disk.mount(nothing)
            assert mounted.listdir(deep) == ["x"]
            mounted.unlink(deep + "/x")
            os.rmdir(deep)  # as the product does it, past the port
            disk.settle(lose_unsynced=True)
            assert not os.path.exists(deep) or os.listdir(deep) in ([], ["x"])
    assert 0 < gone < 30


def test_wiping() -> None:
    with machine() as disk:
        mounted = disk.mount(nothing)
        put(mounted, disk.folder + "/a/x", b"1", synced=False)
        mounted.unlink(disk.folder + "/a/x")
        disk.settle(lose_unsynced=False)
        disk.wipe()
        disk.mount(nothing)
        disk.settle(lose_unsynced=True)
        assert os.listdir(disk.folder) == []
