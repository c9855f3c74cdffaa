"""`ProcessFaults`: the suite's end of the page that the preloaded library reads (layout: native/faults.h).

Settings outlive the process: a node that is killed and started again still has its shifted clock and its full disk,
until `heal`. One thread at a time. Does not start or stop processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jepsen.errors import SetupError
from jepsen.faults.library import build_library
from jepsen.faults.unsynced import Loss, lose_unsynced

_MAGIC: Final = 0x31544C5541464A44
_BYTES: Final = 4096
_SEGMENT: Final = struct.Struct("=5q")
_BEFORE: Final = 32
_AFTER: Final = _BEFORE + _SEGMENT.size
_FIELDS: Final = {
    name: (_AFTER + _SEGMENT.size + 8 * position, code)
    for position, (name, code) in enumerate(
        [
            ("sync_failures", "q"),
            ("sync_chance", "Q"),
            ("write_failures", "q"),
            ("write_chance", "Q"),
            ("has_quota", "Q"),
            ("free_bytes", "q"),
            ("is_lossy", "Q"),
            ("syncs_failed", "Q"),
            ("writes_failed", "Q"),
            ("spaces_refused", "Q"),
            ("undo_failures", "Q"),
            ("attached_pid", "Q"),
        ]
    )
} | {"clock_sequence": (8, "Q"), "clock_is_warped": (16, "Q"), "clock_switch_ns": (24, "q")}
_FOLDER: Final = _AFTER + _SEGMENT.size + 8 * 12
_UNDO: Final = _FOLDER + 1024
_PATH_MAX: Final = 1023
_BILLION: Final = 1_000_000_000
# A new rate begins this much later, so that no reading was already made under it when it is published.
_SWITCH_NS: Final = 2_000_000
RATE_RANGE: Final = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class ClockSetting:
    """Seconds that the wall clock is ahead, and how fast the two clocks run (1.0: as they should)."""

    offset_s: float = 0.0
    rate: float = 1.0
    monotonic_rate: float = 1.0


@dataclass(frozen=True, slots=True)
class FaultCounts:
    """What the library has done since the control file was made."""

    syncs_failed: int
    writes_failed: int
    spaces_refused: int


@dataclass(frozen=True, slots=True)
class _Segment:
    anchor_ns: int
    real_offset_ns: int = 0
    mono_offset_ns: int = 0
    real_ppb: int = 0
    mono_ppb: int = 0

    def moved_to(self, at_ns: int) -> _Segment:
        """The same clocks, anchored at another moment."""
        passed = at_ns - self.anchor_ns
        return replace(
            self,
            anchor_ns=at_ns,
            real_offset_ns=self.real_offset_ns + passed * self.real_ppb // _BILLION,
            mono_offset_ns=self.mono_offset_ns + passed * self.mono_ppb // _BILLION,
        )


class ProcessFaults:
    """Make with the path of the control file (created) and the node's data folder, which need not exist yet.

    `environment()` belongs into the environment of every process of that node. Unsynced content is noted in a folder
    beside the data folder, `<folder>.unsynced`, on the same file system.
    """

    def __init__(self, path: Path, folder: Path, *, is_lossy: bool = True) -> None:
        self.path = path.resolve()
        self.folder = folder.parent.resolve() / folder.name
        self.undo_folder = self.folder.with_name(self.folder.name + ".unsynced")
        for name in (self.folder, self.undo_folder):
            if len(os.fsencode(name)) > _PATH_MAX:
                raise SetupError(
                    f"the path {name} is too long for the fault library: use a shorter run folder"
                )
        self.undo_folder.mkdir(parents=True, exist_ok=True)
        self._clock = ClockSetting()
        self._segment = _Segment(0)
        self._page = self._create(is_lossy)

    def _create(self, is_lossy: bool) -> mmap.mmap:
        page = bytearray(_BYTES)
        struct.pack_into("=Q", page, 0, _MAGIC)
        struct.pack_into("=Q", page, _FIELDS["is_lossy"][0], is_lossy)
        for offset, path in ((_FOLDER, self.folder), (_UNDO, self.undo_folder)):
            data = os.fsencode(path)
            page[offset : offset + len(data)] = data
        self.path.write_bytes(page)
        with self.path.open("r+b") as file:
            return mmap.mmap(file.fileno(), _BYTES)

    def close(self) -> None:
        """Unmap and delete the control file and the notes; the node's processes are gone."""
        self._page.close()
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.undo_folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Variables for the node's process; raises MissingTool when the library cannot be compiled."""
        others = os.environ.get("LD_PRELOAD")
        libraries = [str(build_library()), *([others] if others else [])]
        return {"LD_PRELOAD": ":".join(libraries), "JEPSEN_FAULTS": str(self.path)}

    @property
    def attached_pid(self) -> int | None:
        """The last process that has read the page."""
        return self._get("attached_pid") or None

    # -- clocks -----------------------------------------------------------------------------------------------

    @property
    def clock(self) -> ClockSetting:
        return self._clock

    def jump_clock(self, offset_s: float) -> None:
        """Set the wall clock `offset_s` ahead of (negative: behind) the true one, at once, at the true pace."""
        self._publish(ClockSetting(offset_s), int(offset_s * _BILLION), keep_offset=False)

    def drift_clock(self, rate: float, monotonic_rate: float | None = None) -> None:
        """From now on let the clocks run at `rate` times the true pace; offsets stay. The monotonic clock, by
        default at the same rate, never goes back. Raises ValueError outside 0.5 to 2."""
        monotonic_rate = rate if monotonic_rate is None else monotonic_rate
        if not all(RATE_RANGE[0] <= value <= RATE_RANGE[1] for value in (rate, monotonic_rate)):
            raise ValueError(f"a clock's rate lies in {RATE_RANGE}, not {rate}, {monotonic_rate}")
        self._publish(replace(self._clock, rate=rate, monotonic_rate=monotonic_rate), 0, keep_offset=True)

    def reset_clock(self) -> None:
        """True wall clock, true pace. The monotonic clock keeps what it gained or lost: it may not go back."""
        self._publish(ClockSetting(), 0, keep_offset=False)

    def _publish(self, setting: ClockSetting, offset_ns: int, *, keep_offset: bool) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        after = self._segment.moved_to(now + _SWITCH_NS)
        after = replace(
            after,
            real_offset_ns=after.real_offset_ns if keep_offset else offset_ns,
            real_ppb=round((setting.rate - 1) * _BILLION),
            mono_ppb=round((setting.monotonic_rate - 1) * _BILLION),
        )
        sequence = self._get("clock_sequence")
        self._set("clock_sequence", sequence + 1)
        _SEGMENT.pack_into(self._page, _BEFORE, *_words(self._segment))
        _SEGMENT.pack_into(self._page, _AFTER, *_words(after))
        self._set("clock_switch_ns", after.anchor_ns)
        self._set("clock_is_warped", 1)
        self._set("clock_sequence", sequence + 2)
        self._segment, self._clock = after, setting
        # The next change takes `after` for what holds: wait until it does.
        time.sleep(_SWITCH_NS / _BILLION)

    # -- disk -------------------------------------------------------------------------------------------------

    def fail_syncs(self, calls: int | None = None, chance: float = 0.0) -> None:
        """Let the next `calls` of fsync, fdatasync and sync_file_range fail with EIO (None: all), or each by chance.

        What was dirty in that file then counts as lost: see `lose_unsynced`.
        """
        self._fail("sync", calls, chance)

    def fail_writes(self, calls: int | None = None, chance: float = 0.0) -> None:
        """Let the next `calls` that write, truncate or allocate fail with EIO (None: all), or each by chance."""
        self._fail("write", calls, chance)

    def _fail(self, kind: str, calls: int | None, chance: float) -> None:
        if not 0.0 <= chance <= 1.0 or (calls is not None and calls < 0):
            raise ValueError(f"calls is at least 0, chance lies in [0, 1], not {calls}, {chance}")
        self._set(f"{kind}_chance", int(chance * 2**32))
        self._set(f"{kind}_failures", 0 if chance else -1 if calls is None else calls)

    def limit_space(self, free_bytes: int | None) -> None:
        """Leave only so much free space for files to grow (ENOSPC beyond, statvfs shows it); None: no limit.

        Removing and shrinking files gives space back. Overwriting costs none.
        """
        self._set("free_bytes", free_bytes or 0)
        self._set("has_quota", free_bytes is not None)

    def heal_disk(self) -> None:
        """No more errors, no quota. What failed syncs have lost stays lost."""
        for name in ("sync_chance", "sync_failures", "write_chance", "write_failures", "has_quota"):
            self._set(name, 0)

    def heal(self) -> None:
        """True clocks and a good disk."""
        self.heal_disk()
        if self._clock != ClockSetting():
            self.reset_clock()

    def counts(self) -> FaultCounts:
        return FaultCounts(*(self._get(name) for name in ("syncs_failed", "writes_failed", "spaces_refused")))

    # -- power loss -------------------------------------------------------------------------------------------

    def lose_unsynced(self, rng: random.Random) -> Loss:
        """Change the data folder of the killed node to what a power loss could have left (see unsynced.py).

        Raises SetupError when the library could not keep all notes, or the process may still run.
        """
        failures = self._get("undo_failures")
        if failures:
            raise SetupError(
                f"{failures} changes below {self.folder} could not be noted: is the file system full?"
            )
        if (pid := self.attached_pid) is not None and _reads(pid, self.path):
            raise SetupError(
                f"process {pid} still runs on {self.folder}: kill the node before it loses its writes"
            )
        return lose_unsynced(self.folder, self.undo_folder, rng)

    def forget(self) -> None:
        """Drop all notes: the data folder was deleted or replaced while no process ran."""
        shutil.rmtree(self.undo_folder, ignore_errors=True)
        self.undo_folder.mkdir(parents=True, exist_ok=True)
        self._set("undo_failures", 0)

    # -- the page ---------------------------------------------------------------------------------------------

    # Native alignment: one store or load of 8 bytes each, as the library reads and writes beside us.

    def _get(self, name: str) -> int:
        offset, code = _FIELDS[name]
        return int(struct.unpack_from("@" + code, self._page, offset)[0])

    def _set(self, name: str, value: int) -> None:
        offset, code = _FIELDS[name]
        struct.pack_into("@" + code, self._page, offset, value)


def _words(segment: _Segment) -> tuple[int, int, int, int, int]:
    return (
        segment.anchor_ns,
        segment.real_offset_ns,
        segment.mono_offset_ns,
        segment.real_ppb,
        segment.mono_ppb,
    )


def _reads(pid: int, control: Path) -> bool:
    """Whether that process lives and is one of this control file (ids are used again)."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"JEPSEN_FAULTS=" + os.fsencode(control) in variables


@contextlib.contextmanager
def process_faults(path: Path, folder: Path, *, is_lossy: bool = True) -> Iterator[ProcessFaults]:
    """`ProcessFaults` that are closed at the end of a with block."""
    faults = ProcessFaults(path, folder, is_lossy=is_lossy)
    try:
        yield faults
    finally:
        faults.close()
