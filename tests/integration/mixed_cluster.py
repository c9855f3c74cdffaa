"""A cluster of node processes, which can be killed, and one node in the test's process, whose users must not notice."""

from __future__ import annotations

from pathlib import Path

import dqlite_py
from tests.integration.cluster import Cluster, wait_until


class MixedCluster:
    """Two node processes and a third node here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Cluster(folder, 2)

    def __enter__(self) -> MixedCluster:
        self.processes.__enter__()
        try:
            join = [node.address for node in self.processes.nodes]
            self.node = dqlite_py.Node(self.folder / "embedded", join=join).start()
        except BaseException:
            self.processes.__exit__(None, None, None)
            raise
        self.node.wait_ready(30.0)
        wait_until(lambda: all(m["role"] == "voter" for m in self.node.members()), "all vote")
        self.node.gateway.open_database("app", 30.0)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.node.stop(hand_over=False)
        self.processes.__exit__(None, None, None)

    def let_a_process_lead(self) -> None:
        if self.node.status()["is_leader"]:
            self.node.transfer_leadership()
        self.processes.leader()

    def kill_leader(self) -> None:
        """kill -9 of the leader, a process; it comes back."""
        self.let_a_process_lead()
        victim = self.processes.leader()
        victim.kill()
        wait_until(lambda: self.node.status()["leader_id"], "another leader")
        victim.start()
        wait_until(lambda: self.processes.status(victim)["leader_id"], f"{victim.name} is back")
