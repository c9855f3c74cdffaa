"""`ProcessCluster`: what both kinds of cluster share: forming, health, membership, final states.

The kinds differ in where nodes live and how traffic is cut (loopback.py, namespaces.py). A cluster's calls may come
from any thread; membership changes from one at a time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from jepsen.checkers.roles import STANDBY, VOTER, WantedRoles, arrangement, unsettled
from jepsen.cluster.api import FaultsFactory, FinalState, ProcessEnvironment, ServerSettings
from jepsen.cluster.client import ClientError
from jepsen.cluster.content import content_digest
from jepsen.cluster.keeping import KeeperProcess
from jepsen.cluster.node import NodePlace, ProcessNode
from jepsen.errors import SetupError

NODES_MAX: Final = 9
_POLL_S: Final = 0.05
_ASK_S: Final = 2.0
_COMMIT_S: Final = 5.0


class KeeperNetwork:
    """api.Network on the keeper; checks names, since a cut of nobody would test nothing."""

    def __init__(self, keeper: KeeperProcess, names: list[str]) -> None:
        self._keeper = keeper
        self._names = names
        self._cuts: set[tuple[str, str]] = set()

    @property
    def cuts(self) -> list[tuple[str, str]]:
        return sorted(self._cuts)

    def cut(self, source: str, destination: str) -> None:
        for name in (source, destination):
            if name not in self._names:
                raise SetupError(f"no node is named {name!r}: there are {', '.join(self._names)}")
        if source == destination:
            raise SetupError(f"{source} cannot be cut from itself")
        self._keeper.request("cut", source=source, destination=destination)
        self._cuts.add((source, destination))

    def heal(self) -> None:
        self._keeper.request("heal")
        self._cuts.clear()

    def delay(self, ms: float | None) -> None:
        if ms is not None and not 0 <= ms <= 60_000:
            raise SetupError(f"a delay is 0 to 60000 ms, not {ms!r}")
        self._keeper.request("delay", ms=ms or 0.0)


class ProcessCluster(ABC):
    """See api.Cluster. `folder`: made when missing; holds n1, n2, ... (data), n1.log, ..., keeper.log afterwards."""

    kind = ""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        *,
        settings: ServerSettings | None = None,
        process_environment: ProcessEnvironment | None = None,
        faults_factory: FaultsFactory | None = None,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise SetupError(f"a cluster has 1 to {NODES_MAX} nodes, not {nodes!r}")
        self.folder = folder.resolve()
        self.nodes: list[ProcessNode] = []
        self._names = [f"n{i}" for i in range(1, nodes + 1)]
        self._settings = settings or ServerSettings()
        self._process_environment = process_environment
        self._faults_factory = faults_factory
        self._keeper: KeeperProcess | None = None
        self._network: KeeperNetwork | None = None
        self._is_founded = False
        self.wanted_roles: WantedRoles | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            if (self.folder / name).exists():
                raise SetupError(f"{self.folder / name} exists: give each run a folder of its own")
        self._keeper = KeeperProcess(self.folder / "keeper.log")
        try:
            places = self._places(self._keeper)
            self._network = KeeperNetwork(self._keeper, self._names)
            for place in places:
                node = self._make_node(place, self._keeper)
                self.nodes.append(node)
            if self._faults_factory is not None:
                for node in self.nodes:
                    node.faults = self._faults_factory(node)
            self._form()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Kill what runs; the folder stays. A clean stop is the caller's, when it wants one."""
        if self._keeper is not None:
            self._keeper.close()
        for node in self.nodes:
            node.control_path.unlink(missing_ok=True)

    @abstractmethod
    def _places(self, keeper: KeeperProcess) -> list[NodePlace]: ...

    def _make_node(self, place: NodePlace, keeper: KeeperProcess) -> ProcessNode:
        def join() -> list[str]:
            return self._addresses_but(place.name)

        return ProcessNode(place, keeper, self._settings, join, self._process_environment)

    def _addresses_but(self, name: str) -> list[str]:
        if not self._is_founded:
            return []
        return [node.address for node in self.nodes if node.name != name]

    def _form(self) -> None:
        founder, *others = self.nodes
        founder.start()
        founder.wait_serving()
        self._is_founded = True
        for node in others:
            node.start()
        for node in others:
            node.wait_serving()
        self.wait_healthy()

    # -- looking ----------------------------------------------------------------------------------------------

    @property
    def network(self) -> KeeperNetwork:
        if self._network is None:
            raise SetupError("the cluster is not entered yet")
        return self._network

    def node(self, name: str) -> ProcessNode:
        """Raises SetupError for a name that no node has."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise SetupError(f"no node is named {name!r}: there are {', '.join(self._names)}")

    def statuses(self, timeout_s: float = _ASK_S) -> dict[str, dict[str, Any]]:
        """Each answering node's status; who does not answer within `timeout_s` is left out."""
        found: dict[str, dict[str, Any]] = {}
        for node in self.nodes:
            if node.is_paused:
                continue
            try:
                with node.client(timeout_s) as client:
                    found[node.name] = client.status()
            except ClientError:
                continue
        return found

    def leader(self) -> ProcessNode | None:
        """The answering leader of the highest term, if any; there may be a newer one that does not answer."""
        leaders = [(s["term"], name) for name, s in self.statuses().items() if s["is_leader"]]
        return self.node(max(leaders)[1]) if leaders else None

    def roles(self) -> dict[str, str]:
        found = arrangement(self.statuses())
        return {node.name: found[node.address] for node in self.nodes if node.address in found}

    def unsettled(self) -> str:
        wanted = self.wanted_roles
        return "" if wanted is None else unsettled(self.statuses(), self._names, wanted)

    def wait_healthy(self, timeout_s: float = 60.0) -> None:
        """Return when every node serves, all follow one leader, are connected to it, and vote; raises SetupError.

        With `wanted_roles` it is enough that each has the log: a voter or a stand-by.
        """
        self._wait(self._unhealthy, timeout_s)

    def _unhealthy(self) -> str:
        """Why the cluster is not healthy; empty when it is."""
        statuses = self.statuses()
        for node in self.nodes:
            if node.name not in statuses:
                return f"{node.name} does not answer"
        leaders = {name for name, status in statuses.items() if status["is_leader"]}
        if len(leaders) != 1:
            return f"{len(leaders)} leaders"
        view = statuses[leaders.pop()]
        roles = {m["address"]: m["role"] for m in view["members"]}
        apart = [m["address"] for m in view["members"] if not m["connected"]]
        if apart:
            return f"the leader has no connection to {', '.join(apart)}"
        allowed = (VOTER,) if self.wanted_roles is None else (VOTER, STANDBY)
        for node in self.nodes:
            status = statuses[node.name]
            if roles.get(node.address) not in allowed:
                return f"{node.name} is no {' or '.join(allowed)} but {roles.get(node.address, 'no member')}"
            if not status["healthy"]:
                return f"{node.name} does not serve: {status['problem']}"
            if status["leader_id"] != view["leader_id"] or status["term"] != view["term"]:
                return f"{node.name} does not follow the leader"
        if len(roles) != len(self.nodes):
            return f"{len(roles)} members where there are {len(self.nodes)} nodes"
        return ""

    def final_states(self, timeout_s: float = 60.0) -> dict[str, FinalState]:
        """Wait until all nodes have applied the same index, then compare nothing: return each node's state.

        Call it when no client writes. Raises SetupError with the reason when they do not get there in time.
        """
        statuses: dict[str, dict[str, Any]] = {}

        def unfinished() -> str:
            reason = self._unhealthy()
            if reason:
                return reason
            statuses.update(self.statuses())
            indexes = {name: (s["last_index"], s["applied_index"]) for name, s in statuses.items()}
            agreed = (
                len(statuses) == len(self.nodes) and len({i for pair in indexes.values() for i in pair}) == 1
            )
            return "" if agreed else f"(last, applied) indexes differ: {indexes}"

        self._wait(unfinished, timeout_s)
        return {node.name: self._final_state(node, statuses[node.name], timeout_s) for node in self.nodes}

    def _final_state(self, node: ProcessNode, status: dict[str, Any], timeout_s: float) -> FinalState:
        with node.client(timeout_s) as client:
            content = content_digest(client)
        databases = status["databases"]
        hashes = ",".join(f"{name}={databases[name]['state_hash']}" for name in sorted(databases))
        return FinalState(status["applied_index"], hashes, content, status["divergences"])

    def _wait(self, problem: Callable[[], str], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while reason := problem():
            if time.monotonic() > deadline:
                raise SetupError(f"the cluster is not healthy after {timeout_s:g} s: {reason}")
            time.sleep(_POLL_S)

    # -- membership -------------------------------------------------------------------------------------------

    def remove_member(self, name: str, timeout_s: float = 30.0) -> None:
        """Remove `name` from the configuration through any other node, kill its process and wipe its folder.

        Returns at once when it is no member. Raises SetupError when nobody does it in time.
        """
        node = self.node(name)
        deadline = time.monotonic() + timeout_s
        last: Exception | None = None
        while (left_s := deadline - time.monotonic()) > 0:
            for other in self.nodes:
                if other is node or other.is_paused:
                    continue
                try:
                    with other.client(min(left_s, 10.0)) as client:
                        member = next((m for m in client.members() if m["address"] == node.address), None)
                        if member is not None:
                            client.remove(member["id"])
                            continue  # asked again below, or of the next: a member's view may be old
                except ClientError as error:
                    last = error
                    continue
                if self._is_removed(node, min(left_s, _COMMIT_S)):
                    node.kill()
                    node.wipe()
                    return
            time.sleep(_POLL_S)
        raise SetupError(f"{name} could not be removed within {timeout_s:g} s: {last}")

    def _is_removed(self, node: ProcessNode, timeout_s: float) -> bool:
        """Whether the removal is COMMITTED: a leader acts on a configuration before that, and may yet lose it.

        To wipe the node then would be a lost disk among the voters, and the suite's own doing.
        """
        deadline = time.monotonic() + timeout_s
        first: tuple[str, int, int] | None = (
            None  # leader, its term, its last index when it knew no such member
        )
        while time.monotonic() < deadline:
            leading = [(name, s) for name, s in self.statuses().items() if s["is_leader"]]
            for name, status in leading:
                if name == node.name or any(m["address"] == node.address for m in status["members"]):
                    continue
                if first is None or (name, status["term"]) != first[:2]:
                    first = (name, status["term"], status["last_index"])
                if status["commit_index"] >= first[2]:
                    return True
            if first is None:
                return False
            time.sleep(_POLL_S)
        return False

    def add_member(self, name: str, timeout_s: float = 60.0) -> None:
        """Start a removed (or wiped) node as a new member; returns when it serves. Raises SetupError."""
        node = self.node(name)
        if not node.is_running:
            node.start()
        node.wait_serving(timeout_s)
