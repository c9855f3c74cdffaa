"""Three nodes that foreign clients talk to: ours, or (the control) stock dqlite as Debian's dqlite-demo starts it.

`FOREIGN_SERVER=stock pytest tests/foreign` runs the same scenarios against stock dqlite.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from dqlite_py.cli.demo.processes import NodeProcess, Processes, free_addresses
from dqlite_py.model import Address
from tests.foreign.probe import View, view_of

WAIT_S = 30.0
DEMO = "dqlite-demo"


class Node(Protocol):
    """One node process."""

    address: Address

    @property
    def is_running(self) -> bool: ...

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def terminate(self) -> None: ...

    def wait_stopped(self) -> None: ...

    def log_tail(self, lines: int = 8) -> list[str]: ...


class StockNode:
    """A process of dqlite-demo: an application with an embedded dqlite node."""

    def __init__(self, name: str, address: Address, folder: Path, join: tuple[Address, ...]) -> None:
        self.address = address
        self._folder, self._log = folder / name, folder / f"{name}.log"
        self._command = [DEMO, "--db", address, "--api", free_addresses(1)[0], "--dir", str(self._folder)]
        self._command += ["--join", ",".join(join)] if join else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as ours are: the scheduler shares time out by session
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        self.kill()  # on SIGTERM it hands over its roles, which takes up to a minute where others are gone

    def wait_stopped(self) -> None:
        if self._process is not None:
            self._process.wait()

    def log_tail(self, lines: int = 8) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()[-lines:]


class ForeignCluster:
    """A context: nodes that all name one leader, and nothing left running behind."""

    def __init__(
        self, nodes: list[NodeProcess] | list[StockNode], is_stock: bool, tls: ssl.SSLContext | None = None
    ) -> None:
        self.nodes: list[Node] = list(nodes)
        self.is_stock = is_stock
        self._tls = tls

    def __enter__(self) -> Self:
        try:
            self.nodes[0].start()
            if self.is_stock:  # it refuses to join while the first has no leader yet
                self._wait(lambda: self._view(self.nodes[0]).leader, "the first node leads")
            for node in self.nodes[1:]:
                node.start()
            self.wait_settled()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.wait_stopped()

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    @property
    def servers(self) -> str:
        return ",".join(self.addresses)

    def database(self, name: str) -> str:
        """What a scenario calls its database; "stock" in it tells a program which faults are known."""
        return f"stock-{name}" if self.is_stock else name

    def leader(self) -> Node:
        """The node that every running one names, itself included; waited for."""
        return self._wait(lambda: self._agreed(1), "all nodes name one leader")

    def _agreed(self, voters: int) -> Node | None:
        """The leader, where all running nodes name the same and it knows of so many voters."""
        views = {node.address: self._view(node) for node in self.nodes if node.is_running}
        named = {view.leader for view in views.values()}
        leader = named.pop()
        if named or leader not in views or len(views[Address(leader)].voters) < voters:
            return None
        return next(node for node in self.nodes if node.address == leader)

    def follower(self) -> Node:
        leader = self.leader()
        return next(node for node in self.nodes if node is not leader and node.is_running)

    def leader_pid(self) -> int:
        pid = self.leader().pid
        assert pid is not None
        return pid

    def join(self, folder: Path) -> None:
        """One more node of ours, empty; wait_settled waits for its vote."""
        address = free_addresses(1)[0]
        node = NodeProcess("joiner", address, folder, (self.leader().address,))
        self.nodes.append(node)
        node.start()

    def wait_settled(self, timeout_s: float = WAIT_S) -> None:
        """All nodes run, are voters, and name the same leader."""
        for node in self.nodes:
            if not node.is_running:
                node.start()
        self._wait(
            lambda: self._agreed(len(self.nodes)), "all nodes are voters and name one leader", timeout_s
        )

    def kill_leader(self) -> Node:
        """SIGKILL to the leader; it stays down until wait_settled."""
        node = self.leader()
        node.kill()
        return node

    def _view(self, node: Node) -> View:
        try:
            return view_of(node.address, self._tls)
        except OSError:
            return View("", frozenset())

    def _wait(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                logs = {node.address: node.log_tail() for node in self.nodes}
                raise AssertionError(f"not within {timeout_s:g} s: {what}; {logs}")
            time.sleep(0.03)
        return found


def ours(folder: Path, count: int = 3, tls: Path | None = None) -> ForeignCluster:
    """`tls`: a folder with node.pem, node.key and ca.pem."""
    nodes = Processes(folder, count).nodes
    if tls is None:
        return ForeignCluster(nodes, is_stock=False)
    for node in nodes:
        names = {"cert": "node.pem", "key": "node.key", "ca": "ca.pem"}
        node.options = tuple(f"--tls-{option}={tls / name}" for option, name in names.items())
    context = ssl.create_default_context(cafile=tls / "ca.pem")
    context.load_cert_chain(tls / "node.pem", tls / "node.key")
    return ForeignCluster(nodes, is_stock=False, tls=context)


def stock(folder: Path, count: int = 3) -> ForeignCluster:
    chosen = free_addresses(count)
    nodes = [
        StockNode(f"node{i + 1}", address, folder, () if i == 0 else (chosen[0],))
        for i, address in enumerate(chosen)
    ]
    return ForeignCluster(nodes, is_stock=True)


def missing_stock() -> str:
    return "" if shutil.which(DEMO) else f"{DEMO} is not on PATH (Debian: apt-get install go-dqlite)"
