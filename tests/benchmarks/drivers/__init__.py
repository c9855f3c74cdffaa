"""Databases under test, each behind base.Cluster. `OPENERS` names them; modules load only when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# name: (module, function that says why it cannot run here or "", function that opens a cluster)
OPENERS = {
    "ours": ("ours", "missing", "open_cluster"),
    "ours-spread": ("ours", "missing", "open_cluster"),
    "ours-python": ("ours", "missing_python", "open_cluster"),
    "ours-network": ("network", "missing", "open_cluster"),
    "ours-network-python": ("network", "missing_python", "open_cluster"),
    "sqlite-apsw": ("plain", "missing", "open_apsw"),
    "sqlite-sqlite3": ("plain", "missing", "open_sqlite3"),
    "dqlite": ("dqlite", "missing", "open_cluster"),
    "rqlite": ("rqlite", "missing", "open_cluster"),
    "etcd": ("etcd", "missing", "open_cluster"),
    "hiqlite": ("hiqlite", "missing", "open_cluster"),
}
# The leader's process, which holds the client threads, stays on one processor (docs/performance.md says why).
ONE_PROCESSOR = "BENCHMARK_ONE_PROCESSOR"
ENVIRONMENT = {
    name: {"DQLITE_PY_IMPL": "python" if name.endswith("python") else "c", ONE_PROCESSOR: ""}
    for name in OPENERS
    if name.startswith("ours")
}
for _name in ("ours", "ours-python"):
    ENVIRONMENT[_name][ONE_PROCESSOR] = "1"
TITLES = {
    "ours": "ours, in process (C)",
    "ours-spread": "ours, in process (C), leader not kept on one processor",
    "ours-python": "ours, in process (Python)",
    "ours-network": "ours, over the network (C)",
    "ours-network-python": "ours, over the network (Python)",
    "sqlite-apsw": "SQLite through apsw",
    "sqlite-sqlite3": "SQLite through sqlite3",
    "dqlite": "dqlite (dqlite-benchmark)",
    "rqlite": "rqlite",
    "etcd": "etcd",
    "hiqlite": "hiqlite",
}


def missing(name: str) -> str:
    """Why this driver cannot run here; empty when it can."""
    module, why, _opener = OPENERS[name]
    return str(getattr(_load(module), why)())


def opener(name: str) -> Callable[..., Any]:
    module, _why, function = OPENERS[name]
    found: Callable[..., Any] = getattr(_load(module), function)
    return found


def _load(module: str) -> Any:
    return importlib.import_module(f"tests.benchmarks.drivers.{module}")
