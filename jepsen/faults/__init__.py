"""Faults inside a node's process: clocks that jump and drift, disks that fail, fill up or lose what was not synced.

A small C library (native/) is preloaded into the node and steered through a page of shared memory, so faults begin
and end while the process runs, limited to the files below its data folder. strace's system-call injection could do
the failing syncs and writes; it stops the process at every system call (a node becomes several times slower, which
would be a fault of its own), cannot be switched on by path and moment, and knows no clocks, quotas or undo records.
So it is not used.

What users need: `FaultKit` (one per cluster), `ProcessFaults` (one per node), `missing_tool`.
"""

from __future__ import annotations

from jepsen.faults.control import ClockSetting, FaultCounts, ProcessFaults
from jepsen.faults.kit import FaultKit
from jepsen.faults.library import build_library, missing_tool
from jepsen.faults.unsynced import Loss, lose_unsynced

__all__ = [
    "ClockSetting",
    "FaultCounts",
    "FaultKit",
    "Loss",
    "ProcessFaults",
    "build_library",
    "lose_unsynced",
    "missing_tool",
]
