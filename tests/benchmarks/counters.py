"""What processes used, read from /proc (Linux), and fsync calls counted by perf where it is allowed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SYNC_EVENTS = ("syscalls:sys_enter_fsync", "syscalls:sys_enter_fdatasync")
PERF_INTERVAL_MS = 100


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node's process."""

    name: str
    pid: int
    is_leader: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """Of one process since it started."""

    cpu_s: float
    write_bytes: int


def used(pid: int) -> Used:
    """CPU of all its threads, and bytes it caused to be written to disk. Raises OSError when it has gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return Used(cpu_s, _field(f"/proc/{pid}/io", "write_bytes"))


def disk_written(folder: Path) -> int | None:
    """Bytes written so far to the disk that holds `folder`, by everybody; None when it is no plain block device.

    A process's own write_bytes would not do: the kernel counts the whole folio (up to 2 MiB) for each small write.
    """
    device = os.stat(folder).st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return int(fields[9]) * 512
    return None


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """`RssAnon`: without pages of files, which the kernel can drop."""
    return _field(f"/proc/{pid}/status", field) / 1024


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise KeyError(f"{path} has no {name}")


def per_operation(
    nodes: list[NodeRef], before: dict[int, Used], after: dict[int, Used], operations: int
) -> dict[str, float | None]:
    """The fields of Sample that come from /proc; None of nothing."""
    if not operations or not nodes:
        return {"cpu_us": None, "cpu_leader_us": None, "write_bytes": None}
    cpu_us = {n.pid: (after[n.pid].cpu_s - before[n.pid].cpu_s) * 1e6 / operations for n in nodes}
    written = sum(after[n.pid].write_bytes - before[n.pid].write_bytes for n in nodes)
    leader = [cpu_us[n.pid] for n in nodes if n.is_leader]
    return {
        "cpu_us": sum(cpu_us.values()),
        "cpu_leader_us": leader[0] if leader else None,
        "write_bytes": written / operations / len(nodes),
    }


@cache
def perf_counts_syncs() -> bool:
    """Whether perf may count system calls here (root, or a permissive kernel)."""
    if shutil.which("perf") is None:
        return False
    command = ["perf", "stat", "-x", ",", "-e", ",".join(SYNC_EVENTS), "--", "true"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "<not" not in found.stderr and SYNC_EVENTS[0] in found.stderr


class SyncCounter:
    """fsync and fdatasync calls per second of some processes, from `start` to `stop`."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        if not self._pids or not perf_counts_syncs():
            return
        command = ["perf", "stat", "-x", ",", "-I", str(PERF_INTERVAL_MS), "-e", ",".join(SYNC_EVENTS)]
        command += ["-p", ",".join(map(str, self._pids))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def stop(self) -> float | None:
        """Calls per second, or None when they could not be counted."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(signal.SIGINT)
        try:
            _out, text = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
        return syncs_per_second(text)


def syncs_per_second(text: str) -> float | None:
    """From `perf stat -I -x ,`: lines `seconds,count,,event,...`. None when there is no whole interval."""
    last_s, count = 0.0, 0
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) < 4 or fields[3] not in SYNC_EVENTS or not fields[1].isdecimal():
            continue
        last_s, count = max(last_s, float(fields[0])), count + int(fields[1])
    return count / last_s if last_s else None


def fdatasync_ms(folder: Path, count: int = 60) -> float:
    """The median of `fdatasync_times_ms`."""
    return sorted(fdatasync_times_ms(folder, count))[count // 2]


def fdatasync_times_ms(folder: Path, count: int) -> list[float]:
    """A 512-byte write into a preallocated file, then fdatasync: what every durable write pays."""
    path = folder / "fdatasync"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    times = []
    try:
        os.pwrite(fd, bytes(count * 512), 0)
        os.fsync(fd)
        for i in range(count):
            began = time.perf_counter()
            os.pwrite(fd, b"x" * 512, i * 512)
            os.fdatasync(fd)
            times.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    return times
