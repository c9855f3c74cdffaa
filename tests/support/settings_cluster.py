"""Clusters of node processes with settings and disk faults (support.settings_node), and what their tests share."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dqlite_py.cli.demo.processes import NodeProcess, _die_with_parent
from tests.integration.cluster import Cluster, wait_until

ROOT = Path(__file__).parents[2]
KIB, MIB = 1024, 1024 * 1024
BIG_ROWS = (
    "INSERT INTO big(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "SELECT randomblob(100000) FROM n"
)
COMPACTING = {
    "segment_bytes": MIB,
    "node": {"compact_log_bytes": 2**60, "log_tail_bytes": 0},
}  # only when told to


@dataclass(slots=True)
class SettingsNode(NodeProcess):
    """A node process that is started with `options`."""

    options: dict[str, Any] = field(default_factory=dict)
    log_folder: Path | None = None  # when the data folder's parent is not to hold it

    @property
    def log_path(self) -> Path:
        return (self.log_folder or self.folder.parent) / f"{self.name}.log"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.support.settings_node", "--dir", str(self.folder)]
        command += ["--listen", self.address, "--join", ",".join(self.join)]
        command += ["--options", json.dumps(self.options)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                preexec_fn=_die_with_parent(),
            )

    def exit_code(self, timeout_s: float = 60.0) -> int:
        """Wait until the process has ended by itself."""
        assert self.process is not None
        return self.process.wait(timeout_s)


class SettingsCluster(Cluster):
    """A cluster whose nodes have `options`; `nodes[i].options` may be changed before a restart."""

    def __init__(self, folder: Path, count: int = 3, **options: Any) -> None:
        super().__init__(folder, count)
        self.processes.nodes = [
            SettingsNode(
                node.name, node.address, node.folder, node.join, options=dict(options), log_folder=folder
            )
            for node in self.processes.nodes
        ]

    def settled(self) -> list[dict[str, Any]]:
        """As Cluster's, but of all nodes: one that has ended would be compared with nobody."""
        wait_until(lambda: all(self.status(node) for node in self.nodes), "all nodes answer")
        return super().settled()

    def compact(self, node: NodeProcess) -> int:
        """Compact the node's log now; the new compaction point."""
        return int(self.client.call(node.address, "test.compact", timeout_s=30.0))

    def fill(self, node: NodeProcess, size_bytes: int) -> None:
        """Make the database this big, by few and small log entries."""
        self.client.write(node.address, "CREATE TABLE IF NOT EXISTS big(id INTEGER PRIMARY KEY, v BLOB)")
        for _ in range(max(1, size_bytes // (5 * MIB))):
            self.client.write(node.address, BIG_ROWS, 5 * MIB // 100_000, timeout_s=30.0)

    def advance_log(self, node: NodeProcess, size_bytes: int = 3 * MIB) -> None:
        """Write this much to the log, with little effect, so that compaction can drop segments."""
        self.client.write(node.address, "CREATE TABLE IF NOT EXISTS pad(id INTEGER PRIMARY KEY, v BLOB)")
        for _ in range(size_bytes // (256 * KIB)):
            self.client.write(
                node.address, "INSERT OR REPLACE INTO pad VALUES (1, ?)", b"x" * (256 * KIB), timeout_s=30.0
            )

    def leave_behind(self, node: NodeProcess) -> int:
        """Write and compact on the others until `node`, which is down, needs a snapshot; the compaction point."""
        leader = self.leader()
        self.advance_log(leader)
        points = []
        for other in self.running:
            wait_until(
                lambda o=other: self.status(o)["applied_index"] >= self.status(leader)["commit_index"],
                f"{other.name} follows",
            )
            points.append(self.compact(other))
            assert self.status(other)["first_index"] > 1, "the beginning of the log is gone"
        assert node not in self.running
        return min(points)
