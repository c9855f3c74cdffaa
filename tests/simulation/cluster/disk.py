"""A machine's disk in the whole-cluster simulation: Python's file calls and SQLite's share one page cache and one
log of what is not durable yet.

Files are real files in the machine's folder (best on a tmpfs): what they hold is what the page cache would show. The
C part (native/) notes every change of content, disk_names.py every change of names, until a sync; `settle` decides
what a power loss leaves. One thread (greenlets): nothing is locked. Two lives of one disk never overlap, and every
SQLite connection of a life is closed before `settle`.

The model, after Pillai et al., "All File Systems Are Not Created Equal" (ALICE, OSDI 2014), sections 2 and 4, and
SQLite's assumptions (sqlite.org/atomiccommit.html section 2, sqlite.org/psow.html):
- Sectors of 512 bytes are atomic. Each unsynced write is kept, lost or torn at sectors, writes reach the disk in any
  order, within a file and between files. A sector that reaches the disk carries all earlier writes to it, as a page
  of the page cache does; bytes beside a write do not change (powersafe overwrite).
- A file's size is metadata: changes of size survive as a prefix of their order. Data may be missing below a size that
  survived (zeros), and is gone above it. Behind a truncation that was lost, later data was lost, too.
- fsync and fdatasync of a file make its content and size durable, not its name. A failed one keeps the data visible,
  and no later sync writes it (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
- Names: of each folder's operations a prefix survives; a rename is atomic, also between folders. A sync of the folder
  makes them durable. A folder whose own name was lost is gone with all that is in it.
- The end of a process loses nothing that its calls had done.
Not modelled: sectors that a power loss makes unreadable (`rot` damages bits at rest), and a machine whose disk
reorders behind a sync that it reports as done.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.cluster import disk_callbacks as callbacks
from tests.simulation.cluster.disk_mounted import Crashed, DiskFaults, File, MountedDisk
from tests.simulation.cluster.disk_mounted import os_error as _error
from tests.simulation.cluster.disk_names import Names
from tests.simulation.cluster.disk_native import ffi, lib

__all__ = ["Crashed", "DiskFaults", "MountedDisk", "Rot", "SimDisk", "seed_sqlite", "set_sqlite_time"]

UNLIMITED: Final = -1


@dataclass(frozen=True, slots=True)
class Rot:
    """Which bit was flipped."""

    path: str
    offset: int
    bit: int


class SimDisk:
    """One machine's disk, across its lives. `folder` exists; the node's data folder lies in it.

    `sleep` suspends the simulated thread; it is never called with 0, nor for SQLite's operations.
    """

    def __init__(
        self, folder: str, rng: random.Random, *, sleep: Callable[[float], None], faults: DiskFaults
    ) -> None:
        if os.path.realpath(folder) != folder:
            raise ValueError(f"a simulated disk needs a folder without links in its path, not {folder}")
        self.folder = folder
        self.faults = faults
        self.rng = rng
        self.sleep = sleep
        self.files: dict[str, File] = {}
        self._aside = self.folder + ".lost"
        shutil.rmtree(self._aside, ignore_errors=True)
        os.mkdir(self._aside)
        self.names = Names(self._aside, self._moved, self._dropped)
        self._orphans: list[File] = []
        self._losses = ffi.new("sd_losses *")
        self._life: MountedDisk | None = None
        self._on_crash: Callable[[], None] = lambda: None
        self._errors: list[BaseException] = []
        self.rotted = 0
        self.lives = 0
        self.crashes = 0
        self.machine: Any = lib.sd_machine_new(callbacks.register(self), self.folder.encode())
        self.machine.used_bytes = _used_bytes(self.folder)
        weakref.finalize(self, callbacks.free, self.machine, self.files, self._orphans)

    # -- lives

    def mount(self, on_crash: Callable[[], None]) -> MountedDisk:
        """Begin a life. `on_crash` is called once when the operation set by `crash_after` has happened, from within
        that operation (maybe inside SQLite): it must not switch greenlets, nor raise."""
        assert self._life is None, "the life before goes on: cut_power and settle first"
        self.lives += 1
        self._on_crash = on_crash
        self.machine.life += 1
        self.machine.is_dead = 0
        self._life = MountedDisk(self)
        return self._life

    def crash_after(self, operations: int | None) -> None:
        """The k-th further mutating operation is the last that happens, and may be torn; None: none will be."""
        assert operations is None or operations >= 1, operations
        self.machine.crash_after = UNLIMITED if operations is None else operations
        self.machine.torn_at = self.rng.random() if self.rng.random() < 0.5 else 1.0

    def cut_power(self) -> None:
        """End the life now; nothing of it has an effect any more. Without a life nothing happens."""
        self.machine.is_dead = 1
        self.machine.crash_after = UNLIMITED
        if self._life is not None:
            self._life.is_over = True

    def close_life(self) -> None:
        """Close what Python code of the dead life left open. Again: nothing happens."""
        if self._life is not None and self._life.is_over:
            self._life.release()
            self._life = None

    def settle(self, *, lose_unsynced: bool) -> None:
        """Choose what the next life finds. The life has ended, and its SQLite connections are closed.

        Without `lose_unsynced` all stays, unsynced as it was: a later power loss may still take it.
        """
        self.cut_power()
        self.close_life()
        held = [path for path, file in self.files.items() if file.raw.refs]
        if held or any(file.raw.refs for file in self._orphans):
            raise RuntimeError(
                f"SQLite connections of the dead life are still open on {held or 'removed files'}"
            )
        if self._errors:
            raise RuntimeError("on_crash failed") from self._errors.pop()
        for file in self._orphans:
            file.free()
        self._orphans.clear()
        if lose_unsynced:
            self._lose()
        for path in [path for path, file in self.files.items() if not file.raw.count]:
            self.files.pop(path).free()
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name.endswith("-shm"):  # memory of the dead process
                    os.unlink(os.path.join(folder, name))
        self.machine.used_bytes = _used_bytes(self.folder)

    def _lose(self) -> None:
        for path, file in self.files.items():
            if file.raw.count:
                code = lib.sd_settle(file.raw, path.encode(), self.rng.getrandbits(64), self._losses)
                if code:
                    raise _error(-code, path)
        self.names.lose(self.rng)

    def close(self) -> None:
        """The machine is not needed any more: let go of all but its files."""
        self.cut_power()
        self.close_life()
        shutil.rmtree(self._aside, ignore_errors=True)

    def wipe(self) -> None:
        """Between two lives: empty the disk, durably."""
        assert self._life is None, "the machine runs"
        for file in self.files.values():
            file.free()
        self.files.clear()
        self.names.forget_all()
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        self.machine.used_bytes = 0

    # -- faults

    @property
    def full(self) -> bool:
        """Nothing that needs more space succeeds."""
        return bool(self.machine.is_full)

    @full.setter
    def full(self, value: bool) -> None:
        self.machine.is_full = value

    @property
    def capacity_bytes(self) -> int | None:
        """Room for all files together, counted by their sizes."""
        return None if self.machine.capacity_bytes < 0 else int(self.machine.capacity_bytes)

    @capacity_bytes.setter
    def capacity_bytes(self, value: int | None) -> None:
        self.machine.capacity_bytes = UNLIMITED if value is None else value

    @property
    def fail_syncs(self) -> int:
        """So many further syncs of files fail with EIO, and what they should have synced is never written."""
        return int(self.machine.fail_syncs)

    @fail_syncs.setter
    def fail_syncs(self, value: int) -> None:
        self.machine.fail_syncs = value

    def rot(self, path: str, offset: int, bit: int) -> None:
        """Flip one bit of a file at rest."""
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1 << bit]))
        self.rotted += 1

    def rot_some(self, kind: str, rng: random.Random) -> Rot | None:
        """Flip one random bit in a random file of a kind (see `paths_of`); None when there is none with bytes."""
        paths = [path for path in self.paths_of(kind) if os.path.getsize(path)]
        if not paths:
            return None
        path = rng.choice(paths)
        found = Rot(path, rng.randrange(os.path.getsize(path)), rng.randrange(8))
        self.rot(found.path, found.offset, found.bit)
        return found

    def paths_of(self, kind: str) -> list[str]:
        """Files of a kind, sorted: "journal" (segments), "hardstate", "database", "wal", "manifest", "current"."""
        matches = _KINDS[kind]
        return sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.folder)
            for name in names
            if matches(os.path.basename(folder), name)
        )

    # -- counts

    @property
    def operations(self) -> int:
        """Mutating operations, Python's and SQLite's."""
        return int(self.machine.operations)

    @property
    def syncs(self) -> int:
        return int(self.machine.syncs)

    @property
    def pending(self) -> int:
        """Changes of content that a power loss could take now."""
        return sum(int(file.raw.count) for file in self.files.values())

    def counts(self) -> dict[str, int]:
        """What happened so far, for coverage."""
        machine, losses = self.machine, self._losses
        return {
            "operations": int(machine.operations),
            "sqlite_operations": int(machine.sqlite_operations),
            "writes": int(machine.writes),
            "written_bytes": int(machine.written_bytes),
            "syncs": int(machine.syncs),
            "failed_syncs": int(machine.failed_syncs),
            "refused_full": int(machine.refused_full),
            "crashes": self.crashes,
            "lives": self.lives,
            "kept": int(losses.kept),
            "lost": int(losses.lost),
            "torn": int(losses.torn),
            "sizes_lost": int(losses.sizes_lost),
            "names_kept": self.names.kept,
            "names_undone": self.names.undone,
            "rotted": self.rotted,
        }

    # -- of MountedDisk and the callbacks

    def file_at(self, path: str, *, create: bool, exclusive: bool) -> File:
        """Give the file with one more reference; raises OSError, Crashed."""
        last = 0
        if not os.path.exists(path):
            if not create:
                raise _error(errno.ENOENT, path)
            last = self.step()
            self.names.create(path)
        elif exclusive:
            raise _error(errno.EEXIST, path)
        elif os.path.isdir(path):
            raise _error(errno.EISDIR, path)
        file = self.files.get(path)
        if file is None:
            file = self.files[path] = File(self.machine)
        if last:
            self.crash()
        code = lib.sd_file_open(file.raw, path.encode())
        if code:
            raise _error(-code, path)
        return file

    def unlink(self, path: str) -> None:
        if not os.path.lexists(path):
            raise _error(errno.ENOENT, path)
        last = self.step()
        self.machine.used_bytes -= os.path.getsize(path)
        if path.endswith("-shm"):
            os.unlink(path)
        else:
            self.names.unlink(path)
        if last:
            self.crash()

    def sync_folder(self, path: str) -> None:
        if not os.path.isdir(path):
            raise _error(errno.ENOENT, path)
        last = self.step()
        if not last or self.machine.torn_at >= 0.5:
            self.machine.syncs += 1
            self.names.sync(path)
        if last:
            self.crash()

    def step(self) -> int:
        """Count a mutating operation; nonzero: `crash` follows it. Raises Crashed."""
        code: int = lib.sd_step(self.machine)
        if code < 0:
            raise Crashed
        return code

    def crash(self) -> None:
        lib.sd_crash(self.machine)
        raise Crashed

    def crashed(self) -> None:
        """C has ended the life."""
        self.crashes += 1
        if self._life is not None:
            self._life.is_over = True
        try:
            self._on_crash()
        except BaseException as error:  # noqa: BLE001 - C cannot pass it on; settle does
            self._errors.append(error)

    def _moved(self, old: str, new: str) -> None:
        file = self.files.pop(old, None)
        if file is not None:
            self.files[new] = file

    def _dropped(self, path: str) -> None:
        file = self.files.pop(path, None)
        if file is None:
            return
        if file.raw.refs:
            self._orphans.append(file)
        else:
            file.free()


def seed_sqlite(seed: int) -> None:
    """Make SQLite's random numbers (WAL salts, random rowids) repeat from here on; 0: the system's again."""
    lib.sd_vfs_seed(seed)


def set_sqlite_time(unix_ms: int | None) -> None:
    """Set the clock that SQLite sees; SQLite then never sleeps. None: the system's clock."""
    lib.sd_vfs_set_time(UNLIMITED if unix_ms is None else unix_ms)


_KINDS: Final[dict[str, Callable[[str, str], bool]]] = {
    "journal": lambda _folder, name: name.endswith(".seg"),
    "hardstate": lambda folder, name: folder == "hardstate" or name.startswith("hardstate"),
    "database": lambda _folder, name: name.endswith(".db"),
    "wal": lambda _folder, name: name.endswith(".db-wal"),
    "manifest": lambda _folder, name: name == "MANIFEST",
    "current": lambda _folder, name: name == "CURRENT",
}


def _used_bytes(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names
    )
