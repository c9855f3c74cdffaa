"""An in-memory, single-threaded world for the UNMODIFIED pysyncobj 0.3.17: no sockets, no threads, no
sleeping.

The clock, the poller and the random source of `pysyncobj.syncobj` are replaced for one test; messages
are dicts in FIFO queues that move only when the test says so. Node ids hash to their letters, so that
the order of PySyncObj's sets does not depend on PYTHONHASHSEED. Used by tests/faults only.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pysyncobj.syncobj as upstream
import pytest
from pysyncobj import SyncObjConf
from pysyncobj.config import FAIL_REASON
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj, replicated
from pysyncobj.transport import Transport

NEVER = 10**9
REASONS = {value: name for name, value in vars(FAIL_REASON).items() if not name.startswith("_")}
STATES = {0: "follower", 1: "candidate", 2: "leader"}


class SimNode(Node):
    """A node whose hash is stable from run to run."""

    def __hash__(self) -> int:
        return sum(ord(letter) << (8 * place) for place, letter in enumerate(self.id))


class NullPoller:
    """Never reports an event."""

    def subscribe(self, *_args: Any) -> None:
        pass

    def unsubscribe(self, *_args: Any) -> None:
        pass

    def poll(self, _timeout: float) -> None:
        pass


class SimTransport(Transport):
    """Hands messages to the world's queues."""

    def __init__(self, world: StockWorld, name: str) -> None:
        super().__init__(None, None, None)
        self.world = world
        self.name = name

    def send(self, node: Node, message: Any) -> bool:
        return self.world.send(self.name, node.id, message)

    def addNode(self, node: Node) -> None:
        pass

    def dropNode(self, node: Node) -> None:
        pass


class StockNode(SyncObj):
    """The state machine of these tests: a list that replicated calls append to."""

    def __init__(self, world: StockWorld, name: str, names: Iterable[str], **conf: Any) -> None:
        settings: dict[str, Any] = {
            "logCompactionMinEntries": NEVER,
            "logCompactionMinTime": NEVER,
            "appendEntriesUseBatch": False,
            "useFork": False,
        }
        world.nodes[name] = self
        super().__init__(
            SimNode(name),
            [SimNode(other) for other in names if other != name],
            SyncObjConf(autoTick=False, **{**settings, **conf}),
            transport=SimTransport(world, name),
        )
        self.data: list[Any] = []

    @replicated
    def op(self, value: Any, pad: bytes = b"") -> int:
        self.data.append(value)
        return len(self.data)

    @replicated
    def poison(self, value: Any) -> None:
        self.data.append(value)
        raise ValueError("constraint failed")

    # -- what the tests look at; the names are PySyncObj's private ones

    def private(self, name: str) -> Any:
        return getattr(self, f"_SyncObj__{name}")

    def set_private(self, name: str, value: Any) -> None:
        setattr(self, f"_SyncObj__{name}", value)

    def log(self) -> list[tuple[int, int]]:
        """(index, term) of every entry."""
        return [(entry[1], entry[2]) for entry in self.private("raftLog")[:]]

    @property
    def last_index(self) -> int:
        return self.log()[-1][0]

    @property
    def term(self) -> int:
        return self.raftCurrentTerm

    @property
    def state(self) -> str:
        return STATES[self.private("raftState")]

    def campaign(self) -> None:
        self.set_private("raftElectionDeadline", 0)
        self.doTick(0)

    def hold_elections(self, seconds: float = 9.0) -> None:
        self.set_private("raftElectionDeadline", upstream.monotonicTime() + seconds)


class Outcomes(dict[Any, list[str]]):
    """Collects what callbacks were told: value -> reasons, in order."""

    def callback(self, key: Any) -> Callable[[Any, int], None]:
        return lambda _result, reason: self.setdefault(key, []).append(REASONS[reason])

    def succeeded(self) -> list[Any]:
        return [key for key, reasons in self.items() if "SUCCESS" in reasons]


class StockWorld:
    """Nodes, FIFO links and the virtual clock (seconds)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.nodes: dict[str, StockNode] = {}
        self.queues: dict[tuple[str, str], deque[Any]] = {}
        self.links: set[frozenset[str]] = set()
        self.on_send: Callable[[str, str, Any], None] | None = None
        patch.setattr(upstream, "monotonicTime", lambda: self.now)
        patch.setattr(upstream, "createPoller", lambda _kind: NullPoller())
        patch.setattr(upstream, "PIPE_NOTIFIER_ENABLED", False)
        patch.setattr(upstream, "random", random.Random(1))

    # -- building

    def start(self, names: str, **conf: Any) -> list[StockNode]:
        """Start connected nodes; '%s' in a file name of `conf` becomes the node's name."""
        for name in names:
            self.start_one(name, names, **conf)
        self.connect_all()
        return [self.nodes[name] for name in names]

    def start_one(self, name: str, names: str, **conf: Any) -> StockNode:
        filled = {k: v.replace("%s", name) if isinstance(v, str) else v for k, v in conf.items()}
        return StockNode(self, name, names, **filled)

    def reset(self) -> None:
        """Forget all nodes, links and messages."""
        for node in self.nodes.values():
            node.private("raftLog")._destroy()
        self.nodes.clear()
        self.links.clear()
        self.queues.clear()

    # -- links

    def connect(self, *pairs: str) -> None:
        for one, other in pairs:
            self.links.add(frozenset((one, other)))
            for at, peer in ((one, other), (other, one)):
                if at in self.nodes and peer in self.nodes:
                    self.nodes[at].private("transport")._onNodeConnected(SimNode(peer))

    def connect_all(self) -> None:
        names = sorted(self.nodes)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                if frozenset((one, other)) not in self.links:
                    self.connect(one + other)

    def disconnect(self, *pairs: str) -> None:
        """Break links; what was on its way is lost."""
        for one, other in pairs:
            self.links.discard(frozenset((one, other)))
            self.queues.pop((one, other), None)
            self.queues.pop((other, one), None)
            for at, peer in ((one, other), (other, one)):
                if at in self.nodes:
                    self.nodes[at].private("transport")._onNodeDisconnected(SimNode(peer))

    def isolate(self, name: str) -> None:
        self.disconnect(
            *(name + other for other in sorted(self.nodes) if frozenset((name, other)) in self.links)
        )

    def crash(self, name: str) -> StockNode:
        """kill -9: the object is gone, its files keep what was written to the page cache."""
        self.isolate(name)
        node = self.nodes.pop(name)
        node.private("raftLog")._destroy()
        return node

    # -- messages

    def send(self, source: str, target: str, message: Any) -> bool:
        if frozenset((source, target)) not in self.links:
            return False
        if self.on_send is not None:
            self.on_send(source, target, message)
        self.queue(source, target).append(message)
        return True

    def queue(self, source: str, target: str) -> deque[Any]:
        return self.queues.setdefault((source, target), deque())

    def hand(self, source: str, target: str, message: Any) -> None:
        """Deliver one message, whether it was ever sent or not."""
        self.nodes[target].private("transport")._onMessageReceived(SimNode(source), message)

    def deliver(self, source: str, target: str, count: int | None = None) -> int:
        queue, done = self.queue(source, target), 0
        while queue and (count is None or done < count):
            done += 1
            self.hand(source, target, queue.popleft())
        return done

    def pump(self, among: str | None = None) -> None:
        """Deliver everything between the nodes `among` until nothing moves."""
        for _ in range(50):
            moved = 0
            for source, target in sorted(self.queues):
                if among is None or (source in among and target in among):
                    moved += self.deliver(source, target)
            if not moved:
                return

    # -- time

    def step(self, seconds: float = 0.02, among: str | None = None) -> None:
        """One tick of every node, as its own loop would do it, then one delivery."""
        self.now += seconds
        for name in sorted(self.nodes):
            if among is None or name in among:
                self.nodes[name].doTick(0)
        for source, target in sorted(self.queues):
            self.deliver(source, target)

    def run(self, seconds: float, watch: Callable[[], None] | None = None) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()
            if watch is not None:
                watch()

    def settle(self, among: str | None = None, rounds: int = 4) -> None:
        """Heartbeats go round; no follower times out."""
        names = [name for name in sorted(self.nodes) if among is None or name in among]
        for _ in range(rounds):
            self.now += 0.15
            for name in names:
                if self.nodes[name].state != "leader":
                    self.nodes[name].hold_elections(1.0)
                self.nodes[name].doTick(0)
            self.pump(among)
        for name in names:
            self.nodes[name].doTick(0)

    def elect(self, name: str, among: str | None = None) -> StockNode:
        self.nodes[name].campaign()
        self.pump(among)
        self.settle(among)
        assert self.nodes[name].state == "leader"
        return self.nodes[name]
