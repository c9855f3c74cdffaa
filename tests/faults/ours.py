"""An in-memory world for RaftCore: the network delivers and the disks become durable when the test says
so.

Mirrors stock.py, so that both halves of a fault's test read alike. Node "A" has id 1, "B" 2, and so on.
A node's `Store` keeps apart what was submitted and what is durable; `restart` starts from the durable
part, as after a power cut. The state machine is the list of applied payloads. Used by tests/faults
only.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dqlite_py.model import (
    Address,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Member,
    NodeId,
    Role,
    Snapshot,
    Term,
)
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.log import LogStart
from dqlite_py.raft.messages import Message, SnapshotOffer
from dqlite_py.raft.settings import RaftSettings

EMPTY = Snapshot(LogIndex(0), Term(0), Configuration())
TICK_MS = 20.0


def node_id(name: str) -> NodeId:
    return NodeId(ord(name) - ord("A") + 1)


def name_of(node: NodeId) -> str:
    return chr(ord("A") + node - 1)


def member(name: str, role: Role = Role.VOTER) -> Member:
    return Member(node_id(name), Address(f"{name.lower()}:1"), role)


def configuration(names: str) -> Configuration:
    return Configuration(tuple(member(name) for name in names))


@dataclass
class Image:
    """What a journal and hard state hold."""

    hard_state: HardState = field(default_factory=lambda: HardState(Term(0), NodeId(0)))
    base: Snapshot = EMPTY
    entries: list[Entry] = field(default_factory=list)

    def write(self, batch: Effects) -> None:
        """In the order that effects.py prescribes."""
        if batch.journal_reset is not None:
            self.base, self.entries = batch.journal_reset, []
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.truncate_from is not None:
            self.entries = [entry for entry in self.entries if entry.index < batch.truncate_from]
        self.entries += batch.entries
        assert [e.index for e in self.entries] == [self.base.index + 1 + n for n in range(len(self.entries))]

    def drop_prefix(self, base: Snapshot) -> None:
        self.entries = [entry for entry in self.entries if entry.index > base.index]
        self.base = base


class Node:
    """A core, its store, its state machine, and the proposals that wait for an outcome."""

    def __init__(self, world: CoreWorld, name: str, settings: RaftSettings, start: Image) -> None:
        self.world = world
        self.name = name
        self.settings = settings
        self.durable = start
        self.submitted = Image(start.hard_state, start.base, list(start.entries))
        self.unsynced: deque[Effects] = deque()  # batches handed to the disk that are not durable
        self.disk_works = True  # False: batches stay in `unsynced` until `sync`
        self.on_sync: Callable[[Effects], None] | None = None  # a real disk to write to; it may raise
        self.applied: list[bytes] = []  # payloads of COMMAND entries
        self.applied_entries: list[Entry] = []
        self.waiting: dict[int, tuple[Term, bytes]] = {}
        self.acknowledged: list[bytes] = []
        self.overwritten: list[bytes] = []
        self.offers: list[SnapshotOffer] = []
        self.reads_ready: list[tuple[int, LogIndex]] = []
        self.reads_failed: list[int] = []
        self.truncations: list[LogIndex] = []
        self.removed = False
        self.core = RaftCore(
            node_id=node_id(name),
            settings=settings,
            random=random.Random(node_id(name) + world.seed * 1000),
            hard_state=start.hard_state,
            snapshot=start.base,
            log=LogStart.of(start.entries, start.base.index, start.base.term),
            applied_index=start.base.index,
            now_ms=world.now,
        )

    # -- what the tests look at

    @property
    def state(self) -> str:
        return self.core.state.value

    @property
    def is_leader(self) -> bool:
        return self.core.is_leader

    @property
    def term(self) -> Term:
        return self.core.term

    @property
    def last_index(self) -> LogIndex:
        return self.core.last_index

    def log(self) -> list[tuple[int, int]]:
        """(index, term) of every entry above the base."""
        return [(entry.index, entry.term) for entry in self.submitted.entries]

    # -- inputs

    def propose(self, payload: bytes) -> LogIndex:
        term, index = self.core.propose(payload, self.world.now)
        self.waiting[index] = (term, payload)
        self.settle_effects()
        return index

    def step(self, message: Message) -> None:
        self.core.step(message, self.world.now)
        self.settle_effects()

    def tick(self) -> None:
        self.core.tick(self.world.now)
        self.settle_effects()

    def campaign(self) -> None:
        self.core.campaign(self.world.now)
        self.settle_effects()

    def sync(self, batches: int | None = None) -> None:
        """The disk catches up: `batches` of what was handed to it become durable."""
        while self.unsynced and (batches is None or batches > 0):
            batch = self.unsynced.popleft()
            if self.on_sync is not None:
                self.on_sync(batch)
            self.durable.write(batch)
            # ORDER as in effects.py: the gated messages leave when the batch is durable.
            for peer, message in batch.messages_when_durable:
                self.world.send(self.name, peer, message)
            self.core.persisted(batch.token)
            batches = None if batches is None else batches - 1
            self.settle_effects()

    # -- effects

    def settle_effects(self) -> None:
        while effects := self.core.take_effects():
            self._perform(effects)

    def _perform(self, effects: Effects) -> None:
        if effects.truncate_from is not None:
            self.truncations.append(effects.truncate_from)
        if effects.token:
            self.submitted.write(effects)
            self.unsynced.append(effects)
        elif self.unsynced:
            self.unsynced[-1].messages_when_durable += effects.messages_when_durable
        else:
            effects.messages += effects.messages_when_durable
        for peer, message in effects.messages:
            self.world.send(self.name, peer, message)
        for entry in effects.committed:
            self._apply(entry)
        for request in effects.fetch:
            found = [e for e in self.submitted.entries if e.index >= request.first_index]
            self.core.entries_fetched(request.peer, request.first_index, found[:64])
        if effects.fetch_committed is not None:
            first, last = effects.fetch_committed
            self.core.committed_fetched([e for e in self.submitted.entries if first <= e.index <= last])
        if effects.snapshot_offer is not None:
            self.offers.append(effects.snapshot_offer)
        self.reads_ready += effects.reads_ready
        self.reads_failed += effects.reads_failed
        self.removed = self.removed or effects.removed
        if self.disk_works:
            self.sync()

    def _apply(self, entry: Entry) -> None:
        """As the node does: what was proposed here is acknowledged when ITS entry is applied."""
        assert not self.applied_entries or entry.index == self.applied_entries[-1].index + 1
        self.applied_entries.append(entry)
        if entry.kind is EntryKind.COMMAND:
            self.applied.append(entry.payload)
        if entry.index in self.waiting:
            term, payload = self.waiting.pop(entry.index)
            (self.acknowledged if term == entry.term else self.overwritten).append(payload)
        self.core.applied(entry.index)

    # -- snapshots: the state is `applied`

    def compact(self) -> Snapshot:
        """Make the state durable at the applied index, then drop the log up to it."""
        snapshot = self.core.snapshot_at(self.core.applied_index)
        self.core.compacted(snapshot, LogIndex(snapshot.index + 1))
        self.submitted.drop_prefix(snapshot)
        self.durable.drop_prefix(snapshot)
        self.settle_effects()
        return snapshot

    def install_from(self, source: Node) -> Snapshot:
        """The whole state of `source` at its applied index, verified and in place."""
        snapshot = source.core.snapshot_at(source.core.applied_index)
        self.applied = list(source.applied)
        self.applied_entries = list(source.applied_entries)
        self.core.install_snapshot(snapshot, self.world.now)
        self.settle_effects()
        return snapshot


class CoreWorld:
    """Nodes, FIFO links and the virtual clock (milliseconds)."""

    def __init__(self, names: str = "", seed: int = 1, **settings: int) -> None:
        self.now = 1_000_000.0
        self.seed = seed
        self.settings = RaftSettings(**settings)
        self.nodes: dict[str, Node] = {}
        self.queues: dict[tuple[str, str], deque[Message]] = {}
        self.links: set[frozenset[str]] = set()
        self.sent: list[tuple[str, str, Message]] = []  # everything ever sent, delivered or not
        for name in names:
            self.start(name, names)
        self.connect_all()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def start(
        self, name: str, names: str = "", *, members: tuple[Member, ...] = (), image: Image | None = None
    ) -> Node:
        """Start a node; its first configuration is `names` or `members`, or none (it waits to be added)."""
        first = Configuration(members) if members else configuration(names)
        image = image or Image(base=Snapshot(LogIndex(0), Term(0), first))
        self.nodes[name] = Node(self, name, self.settings, image)
        return self.nodes[name]

    def crash(self, name: str) -> Node:
        """The node is gone; its durable image remains."""
        self.isolate(name)
        return self.nodes.pop(name)

    def restart(self, name: str) -> Node:
        """Power cut and restart: only what was durable is left."""
        return self.start(name, image=self.crash(name).durable)

    # -- links

    def connect(self, *pairs: str) -> None:
        for one, other in pairs:
            self.links.add(frozenset((one, other)))
            for at, peer in ((one, other), (other, one)):
                if at in self.nodes and peer in self.nodes:
                    self.nodes[at].core.peer_connected(node_id(peer), self.now)
                    self.nodes[at].settle_effects()

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
                    self.nodes[at].core.peer_disconnected(node_id(peer))
                    self.nodes[at].settle_effects()

    def isolate(self, name: str) -> None:
        self.disconnect(*(name + other for other in sorted(self.nodes) if {name, other} in self.links))

    # -- messages

    def send(self, source: str, target_id: NodeId, message: Message) -> None:
        target = name_of(target_id)
        if frozenset((source, target)) in self.links:
            self.sent.append((source, target, message))
            self.queue(source, target).append(message)

    def queue(self, source: str, target: str) -> deque[Message]:
        return self.queues.setdefault((source, target), deque())

    def hand(self, target: str, *messages: Message) -> None:
        """Deliver messages, whether they were ever sent or not."""
        for message in messages:
            self.nodes[target].step(message)

    def deliver(self, source: str, target: str, count: int | None = None) -> int:
        queue, done = self.queue(source, target), 0
        while queue and (count is None or done < count):
            done += 1
            self.hand(target, queue.popleft())
        return done

    def pump(self, among: str | None = None) -> None:
        """Deliver everything between the nodes `among` until nothing moves."""
        for _ in range(200):
            moved = 0
            for source, target in sorted(self.queues):
                if target in self.nodes and (among is None or (source in among and target in among)):
                    moved += self.deliver(source, target)
            if not moved:
                return
        raise AssertionError("the network does not come to rest")

    # -- time

    def run(self, ms: float, among: str | None = None, watch: Callable[[], None] | None = None) -> None:
        """Ticks of all nodes; messages take one tick."""
        end = self.now + ms
        while self.now < end:
            self.now += TICK_MS
            for name in sorted(self.nodes):
                if among is None or name in among:
                    self.nodes[name].tick()
            waiting = [pair for pair in sorted(self.queues) if self.queues[pair]]
            for source, target in waiting:
                if among is None or target in among:
                    self.deliver(source, target, len(self.queue(source, target)))
            if watch is not None:
                watch()

    def run_until(self, done: Callable[[], bool], ms: float = 30_000, among: str | None = None) -> float:
        """Run until `done`; returns how long it took."""
        start = self.now
        while not done():
            assert self.now - start < ms, "did not happen in time"
            self.run(TICK_MS, among)
        return self.now - start

    def elect(self, name: str, among: str | None = None) -> Node:
        """Make `name` the leader and let its first entry be committed and known."""
        node = self.nodes[name]
        leaders = [n for n in self.leaders() if n != name and {n, name} in self.links]
        for leader in leaders:
            self.heartbeat(leader, among)
            self.nodes[leader].core.transfer_leadership(node_id(name), self.now)
            self.nodes[leader].settle_effects()
            self.pump(among)
        if not node.is_leader:
            # The others forget the last leader first: they refuse votes while they hear one.
            self.now += self.settings.election_max_ms + TICK_MS
            node.campaign()
            self.pump(among)
        assert node.is_leader, f"{name} is {node.state}"
        self.heartbeat(name, among)
        assert node.is_leader
        return node

    def heartbeat(self, name: str, among: str | None = None, rounds: int = 3) -> None:
        """Heartbeats of one leader go round; nobody else's clock runs."""
        for _ in range(rounds):
            self.now += self.settings.heartbeat_ms
            self.nodes[name].tick()
            self.pump(among)

    def leaders(self) -> list[str]:
        return [name for name in sorted(self.nodes) if self.nodes[name].is_leader]


def payloads(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


def propose_all(node: Node, items: Iterable[bytes]) -> None:
    for payload in items:
        node.propose(payload)
