"""The interface of a driver: a cluster of nodes on this machine, clients for it, measurements.

A driver lives in a process of its own (tests.benchmarks.hosting), on its main thread. One that has clients implements
`client`; one that is measured by its own tool overrides `measure`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import counters, load
from tests.benchmarks.counters import NodeRef, SyncCounter, Used
from tests.benchmarks.measures import Sample, Tally, Window, summary
from tests.benchmarks.workloads import KNOWN, Client, Operation, Workload, workload

DISK = 0  # no process: the disk, among a meter's readings


class NotSupported(Exception):
    """This database has no such operation."""


class Cluster:
    """Base class; subclasses say what they are and how a client speaks."""

    name = ""
    workloads: frozenset[str] = frozenset(KNOWN)
    note = ""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.node_count = nodes

    def nodes(self) -> list[NodeRef]:
        """The processes whose use is counted."""
        return []

    def sync_count(self) -> int | None:
        """fsync and fdatasync calls of all nodes so far, as they tell it; None: they do not."""
        return None

    def client(self, level: str) -> Client:
        """A new client whose reads have this level; called before the load begins."""
        raise NotSupported(f"{self.name} has no clients")

    def close(self) -> None:
        """End every process that was started. Called once, also after a failure."""

    def supports(self, name: str) -> bool:
        return name in self.workloads or (name.startswith("insert:") and "insert" in self.workloads)

    def measure(self, name: str, clients: int, seconds: float, rate: float | None = None) -> Sample:
        """One measurement of a workload: closed loop, or open loop at `rate` arrivals per second."""
        if not self.supports(name):
            raise NotSupported(f"{self.name} cannot run {name}")
        chosen = workload(name)
        fdatasync_ms = counters.fdatasync_ms(self.folder)
        meter = Meter(self.nodes(), self.sync_count, self.folder)
        tally, window = self.run(chosen, clients, seconds, rate, meter)
        return self.sample(chosen, clients, tally, window, meter, rate, fdatasync_ms)

    def run(
        self, chosen: Workload, clients: int, seconds: float, rate: float | None, meter: Meter
    ) -> tuple[Tally, Window]:
        """Threads of this process as clients."""

        def make(number: int) -> Operation:
            return chosen.make(self.client(chosen.level), random.Random(number))

        return load.run_threads(make, clients, seconds, rate, meter.at_edge)

    def sample(
        self,
        chosen: Workload,
        clients: int,
        tally: Tally,
        window: Window,
        meter: Meter,
        rate: float | None,
        fdatasync_ms: float,
    ) -> Sample:
        return Sample(
            driver=self.name,
            workload=chosen.name,
            clients=clients,
            nodes=self.node_count,
            seconds=window.seconds,
            rows_per_op=chosen.rows_per_op,
            offered=rate,
            fdatasync_ms=fdatasync_ms,
            note=self.note,
            **summary(tally, window.seconds),
            **meter.per_operation(tally.done, window.seconds),
        )


class Meter:
    """Reads what the nodes used at both edges of a window.

    Syncs are counted by perf where it may, else by what the nodes tell.
    """

    def __init__(
        self,
        nodes: list[NodeRef],
        told: Callable[[], int | None] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Without `told`, syncs are not counted at all."""
        self._nodes = nodes
        self._told = told
        self._folder = folder
        self._readings: list[dict[int, Used]] = []
        self._syncs = SyncCounter([node.pid for node in nodes])
        self._counts: list[int | None] = []
        self._syncs_per_s: float | None = None

    def at_edge(self) -> None:
        self.add(self.read())
        if self._told is None:
            return
        if not counters.perf_counts_syncs():
            self._counts.append(self._told())
        elif len(self._readings) == 1:
            self._syncs.start()
        else:
            self._syncs_per_s = self._syncs.stop()

    def read(self) -> dict[int, Used]:
        reading = {node.pid: counters.used(node.pid) for node in self._nodes}
        written = counters.disk_written(self._folder) if self._folder is not None else None
        if written is not None:
            reading[DISK] = Used(0.0, written)
        return reading

    def add(self, reading: dict[int, Used]) -> None:
        """A reading of one edge, taken with `read` at another time than now."""
        self._readings.append(reading)

    def per_operation(self, operations: int, seconds: float) -> dict[str, Any]:
        if len(self._readings) != 2:
            return {}
        before, after = self._readings
        fields: dict[str, Any] = counters.per_operation(self._nodes, before, after, operations)
        fields["write_bytes"] = None
        if DISK in before and DISK in after and operations and self._nodes:
            written = after[DISK].write_bytes - before[DISK].write_bytes
            fields["write_bytes"] = written / operations / len(self._nodes)
        if self._counts and operations:
            first, last = self._counts
            fields["fsyncs"] = None if first is None or last is None else (last - first) / operations
        elif self._syncs_per_s is not None and operations:
            fields["fsyncs"] = self._syncs_per_s * seconds / operations
        return fields
