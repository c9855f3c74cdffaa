"""A cluster in memory that notes what nemeses do to it: processes, cuts, members, folders; no database.

A node keeps the rules that nemeses rely on: with a damaged journal or a wiped folder it refuses to start.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from jepsen.checkers.roles import WantedRoles
from jepsen.cluster.client import Failed
from jepsen.errors import SetupError
from jepsen.faults import ClockSetting, ProcessFaults

GOOD = bytes(range(1, 251)) * 40


class FakeClient:
    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def status(self) -> dict[str, Any]:
        cluster, node = self._node.cluster, self._node
        node.compare()
        return {
            "applied_index": cluster.tick(),
            "healthy": True,
            "divergences": node.rebuilds,
            "leader_id": cluster.ids.get(cluster.leader_name or ""),
        }

    def members(self) -> list[dict[str, Any]]:
        return [{"id": number, "address": f"{name}:1"} for name, number in self._node.cluster.ids.items()]

    def unit(self, statements: Any) -> None:
        """Understands the insertion of numbered texts only."""
        cluster = self._node.cluster
        cluster.rows = {params[0]: params[1] for _sql, params in statements if params}
        for node in cluster.nodes:
            node.database.write_bytes(cluster.content)

    def query(self, _sql: str) -> Any:
        self._node.compare()
        rows = self._node.database.read_bytes()[len(GOOD) :].decode(errors="replace").splitlines()
        return SimpleNamespace(rows=[(number, text) for number, text in enumerate(rows)])

    def compact(self) -> int:
        return self._node.cluster.tick()

    def change(self, method: str, body: dict[str, Any]) -> None:
        cluster = self._node.cluster
        if method == "assign" and cluster.is_automatic and not cluster.assigns_always:
            raise Failed("MembershipRefused", "roles are kept automatically")
        if method == "roles":
            cluster.is_automatic = body["settings"][0]
        if method in ("assign", "leave"):
            cluster.note(f"{method} {next(name for name, i in cluster.ids.items() if i == body['id'])}")

    def transfer(self, target: int | None = None) -> int:
        cluster = self._node.cluster
        cluster.leader_name = next(name for name, number in cluster.ids.items() if number == target)
        return int(target or 0)


class FakeNode:
    """`checks_journal`, `finds_damage`, `knows_identity`: False for a node that breaks the promise."""

    def __init__(self, name: str, cluster: FakeCluster, faults: ProcessFaults | None) -> None:
        self.name = name
        self.cluster = cluster
        self.folder = cluster.folder / name
        self.log_path = cluster.folder / f"{name}.log"
        self.address = f"{name}:1"
        self.faults = faults
        if faults is not None:
            faults._set("attached_pid", 1)
        self.own_exits: list[int] = []
        self.is_running = True
        self.is_paused = False
        self.exit_code: int | None = None
        self.rebuilds = 0
        self.checks_journal = self.finds_damage = self.knows_identity = True
        self.log_path.write_text("")
        self._make_folder()

    @property
    def pid(self) -> int | None:
        return 1 if self.is_running else None

    @property
    def segment(self) -> Path:
        return self.folder / "journal" / f"{1:020d}.seg"

    @property
    def database(self) -> Path:
        return self.folder / "state" / "g1" / "app.db"

    def _make_folder(self) -> None:
        for path, content in ((self.segment, GOOD), (self.database, self.cluster.content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def compare(self) -> None:
        """With the others, before it answers."""
        if self.database.read_bytes() != self.cluster.content and self.finds_damage:
            self.database.write_bytes(self.cluster.content)  # from a snapshot
            self.rebuilds += 1

    def start(self) -> None:
        if self.is_running:
            raise SetupError(f"{self.name} runs")
        self.cluster.note(f"start {self.name}")
        is_member = self.name in self.cluster.ids
        if not self.folder.exists():
            if is_member and self.knows_identity:
                self._refuse("its address belongs to a member: cluster remove")
                return
            self._make_folder()
            self.cluster.ids.setdefault(self.name, self.cluster.tick())
        if self.segment.read_bytes() != GOOD and self.checks_journal:
            self._refuse(f"{self.segment}: damaged at offset 5: cluster remove")
            return
        self.is_running, self.exit_code = True, None

    def _refuse(self, text: str) -> None:
        with self.log_path.open("a") as log:
            log.write(text + "\n")
        self.is_running, self.exit_code = False, 3

    def note_exit(self) -> None:
        pass

    def kill(self) -> None:
        self.cluster.note(f"kill {self.name}")
        self._end(-9)

    def stop(self, timeout_s: float = 30.0) -> int:
        self.cluster.note(f"stop {self.name}")
        self._end(0)
        return 0

    def _end(self, code: int) -> None:
        if self.is_running:
            self.exit_code = code
        self.is_running = self.is_paused = False
        if self.cluster.leader_name == self.name:
            self.cluster.leader_name = next((n.name for n in self.cluster.nodes if n.is_running), None)

    def pause(self) -> None:
        self.cluster.note(f"pause {self.name}")
        self.is_paused = self.is_running

    def resume(self) -> None:
        self.cluster.note(f"resume {self.name}")
        self.is_paused = False

    def wait_serving(self, timeout_s: float = 30.0) -> None:
        if not self.is_running:
            raise SetupError(f"{self.name} has ended")

    def wipe(self) -> None:
        if self.is_running:
            raise SetupError(f"{self.name} runs")
        self.cluster.note(f"wipe {self.name}")
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if self.folder.exists():
            self.folder.rmdir()

    def client(self, timeout_s: float = 5.0) -> Any:
        if not self.is_running:
            raise Failed("Connection", f"{self.name} is dead")
        return FakeClient(self)


class FakeNetwork:
    def __init__(self) -> None:
        self.cuts: list[tuple[str, str]] = []
        self.delay_ms: float | None = None

    def cut(self, source: str, destination: str) -> None:
        assert source != destination
        self.cuts = sorted({*self.cuts, (source, destination)})

    def heal(self) -> None:
        self.cuts = []

    def delay(self, ms: float | None) -> None:
        self.delay_ms = ms


class FakeCluster:
    """`events`: what was done to the nodes, in order. `refuses_members`: membership changes that fail first.
    `assigns_always`, `replaces_nobody`: True for a cluster that breaks the promise."""

    kind = "fake"

    def __init__(self, folder: Path, count: int, *, has_faults: bool = True) -> None:
        self.folder = folder
        self.events: list[str] = []
        self.network = FakeNetwork()
        self.nodes: list[FakeNode] = []
        self.refuses_members = 0
        self.rows: dict[int, str] = {}
        self.wanted_roles: WantedRoles | None = None
        self.is_automatic = False
        self.assigns_always = self.replaces_nobody = False
        self._ticks = 100
        names = [f"n{number}" for number in range(1, count + 1)]
        self.ids = {name: position for position, name in enumerate(names, 1)}
        self.leader_name: str | None = names[0]
        for name in names:
            faults = ProcessFaults(folder / f"{name}.faults", folder / name) if has_faults else None
            self.nodes.append(FakeNode(name, self, faults))

    @property
    def content(self) -> bytes:
        """What every database holds."""
        return GOOD + "\n".join(self.rows.values()).encode()

    def close(self) -> None:
        for node in self.nodes:
            if node.faults is not None:
                node.faults.close()

    def note(self, event: str) -> None:
        self.events.append(event)

    def tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def node(self, name: str) -> FakeNode:
        return next(node for node in self.nodes if node.name == name)

    def leader(self) -> FakeNode | None:
        return None if self.leader_name is None else self.node(self.leader_name)

    def roles(self) -> dict[str, str]:
        """Three voters, those that run first; the rest are stand-bys."""
        if self.leader_name is None:
            return {}
        order = sorted(self.nodes, key=lambda n: not (n.is_running or self.replaces_nobody))
        return {node.name: "voter" if place < 3 else "standby" for place, node in enumerate(order)}

    def unsettled(self) -> str:
        return "" if all(node.is_running for node in self.nodes) else "somebody is down"

    def wait_healthy(self, timeout_s: float = 60.0) -> None:
        if self.network.cuts or len(self.ids) < len(self.nodes) or not all(n.is_running for n in self.nodes):
            raise SetupError("the cluster is not healthy")

    def remove_member(self, name: str, timeout_s: float = 30.0) -> None:
        if self.refuses_members:
            self.refuses_members -= 1
            raise SetupError(f"{name} could not be removed")
        self.note(f"remove {name}")
        self.ids.pop(name, None)
        self.node(name).kill()
        self.node(name).wipe()

    def add_member(self, name: str, timeout_s: float = 60.0) -> None:
        if not self.node(name).is_running:
            self.node(name).start()
        self.node(name).wait_serving()
        self.note(f"add {name}")


def is_whole(cluster: FakeCluster) -> bool:
    """Nothing of any fault is left."""
    return (
        not cluster.network.cuts
        and cluster.network.delay_ms is None
        and len(cluster.ids) == len(cluster.nodes)
        and all(node.is_running and not node.is_paused for node in cluster.nodes)
        and all(node.segment.read_bytes() == GOOD for node in cluster.nodes)
        and all(node.faults is None or node.faults.clock == ClockSetting() for node in cluster.nodes)
        and all(
            node.faults is None
            or not any(
                node.faults._get(name)
                for name in ("sync_failures", "sync_chance", "write_failures", "write_chance", "has_quota")
            )
            for node in cluster.nodes
        )
    )
