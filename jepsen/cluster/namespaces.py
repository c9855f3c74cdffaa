"""Each node in a network namespace of its own, with an address of its own, on a switch of the keeper.

Needs CAP_SYS_ADMIN and CAP_NET_ADMIN (root), or user namespaces, and /dev/net/tun; no tools. The addresses exist in
these namespaces only and cannot conflict with the machine's. Without the rights entering the cluster raises
SetupError that names what is missing.
"""

from __future__ import annotations

from typing import Final

from jepsen.cluster.base import ProcessCluster
from jepsen.cluster.keeping import KeeperProcess
from jepsen.cluster.node import NodePlace

_NETWORK: Final = "10.77.0"
_PORT: Final = 9001


class NamespaceCluster(ProcessCluster):
    kind = "namespaces"

    def _places(self, keeper: KeeperProcess) -> list[NodePlace]:
        addresses = {name: f"{_NETWORK}.{i}" for i, name in enumerate(self._names, start=1)}
        keeper.request("namespaces", addresses=addresses)
        return [
            NodePlace(name, self.folder / name, f"{address}:{_PORT}", f"{address}:{_PORT}", insecure=True)
            for name, address in addresses.items()
        ]
