"""`make_cluster`: the kind that was asked for, or the best one that this machine allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from jepsen.cluster.api import Cluster
from jepsen.cluster.keeping import KeeperProcess
from jepsen.cluster.loopback import LoopbackCluster
from jepsen.cluster.namespaces import NamespaceCluster
from jepsen.errors import SetupError

KINDS: Final = ("auto", "namespaces", "loopback")


def why_no_namespaces() -> str | None:
    """What this machine lacks for namespaces, or None; tried out in a process that ends at once."""
    with KeeperProcess(Path(os.devnull)) as keeper:
        try:
            keeper.request("namespaces", addresses={"n1": "10.77.0.1"})
        except SetupError as error:
            return str(error)
    return None


def make_cluster(kind: str, folder: Path, nodes: int, **options: Any) -> Cluster:
    """A cluster to be entered. `options`: settings, process_environment, faults_factory (see ProcessCluster).

    "auto" takes namespaces where they can be made, else loopback. Raises SetupError for another kind, and for
    "namespaces" where they cannot be made (with the reason and the way round).
    """
    if kind not in KINDS:
        raise SetupError(f"a cluster's kind is one of {', '.join(KINDS)}, not {kind!r}")
    if kind != "loopback":
        missing = why_no_namespaces()
        if missing is None:
            return NamespaceCluster(folder, nodes, **options)
        if kind == "namespaces":
            raise SetupError(missing)
    return LoopbackCluster(folder, nodes, **options)
