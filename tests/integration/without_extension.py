"""Three nodes in a process in which dqlite_py._native cannot be imported (test_both_engines.py runs it)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.modules["dqlite_py._native"] = None  # type: ignore[assignment]

import dqlite_py  # noqa: E402
from dqlite_py.limits import MIB  # noqa: E402
from dqlite_py.nativelib import IMPLEMENTATION  # noqa: E402
from dqlite_py.node import startup  # noqa: E402
from tests.integration.cluster import wait_until  # noqa: E402
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of  # noqa: E402

ON_DEMAND: dict[str, Any] = {"compact_log_bytes": 2**60, "log_tail_bytes": 0}  # Node.compact() only
PIECE = b"x" * (256 * 1024)


def live(folder: Path) -> None:
    with embedded_cluster(folder, **ON_DEMAND) as nodes:
        leader = leader_of(nodes)
        connection = leader.connect("app", isolation_level=None, timeout=30)
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        connection.executemany("INSERT INTO t (v) VALUES (?)", [(n,) for n in range(100)])
        position = next(i for i, node in enumerate(nodes) if node is not leader)
        address, had = nodes[position].address, nodes[position].status()["last_index"]
        nodes[position].stop()
        for _ in range(16):
            connection.execute("INSERT OR REPLACE INTO t VALUES (1000, ?)", (PIECE,))
        others = [node for i, node in enumerate(nodes) if i != position]
        wait_until(lambda: all(n.status()["applied_index"] > had + 10 for n in others), "others apply")
        for node in others:
            node.compact()
        back = dqlite_py.Node(folder / f"n{position}", listen=address, **ON_DEMAND)
        nodes[position] = back.start()
        wait_until(lambda: back.status()["snapshot_index"] > had, "a snapshot is installed")
        connection.execute("INSERT INTO t (v) VALUES ('after')")
        check_same_state(nodes)
        assert back.connect("app", isolation_level=None).execute("SELECT count(*) FROM t").fetchone() == (
            102,
        )
        back.stop()
        nodes[position] = dqlite_py.Node(folder / f"n{position}", listen=address, **ON_DEMAND).start()
        check_same_state(nodes)


if __name__ == "__main__":
    startup.SEGMENT_BYTES = MIB  # type: ignore[misc]  # the log is dropped by whole segments
    print(IMPLEMENTATION)
    live(Path(sys.argv[1]))
    print("done")
