"""Nodes on 127.0.0.1 behind proxies: no rights needed, on any Linux. What the proxies cannot do: keeper/proxies.py.

All nodes share one network namespace: a fault of a node's network outside the peers' connections cannot be made.
"""

from __future__ import annotations

from jepsen.cluster.base import ProcessCluster
from jepsen.cluster.keeping import KeeperProcess
from jepsen.cluster.node import NodePlace


class LoopbackCluster(ProcessCluster):
    kind = "loopback"

    def _places(self, keeper: KeeperProcess) -> list[NodePlace]:
        ports = keeper.request("loopback", names=self._names)
        return [
            NodePlace(name, self.folder / name, listen, advertise, insecure=False)
            for name, (listen, advertise) in ports.items()
        ]
