"""A simulated cluster of RaftCores: network, disks, state machines, clients and faults from one seed.

Everything that could go wrong in the world is drawn from one random.Random, so that a seed is a replayable run.
The host's part (perform Effects in their order) is written here as plainly as possible. Checks raise
SafetyViolation at the moment they see one.

Disk model: journal batches become durable in order, some time after they were submitted; a crash keeps a random
prefix of them, the last one possibly torn. State folders (snapshots) are durable at once. What waits for a batch
(messages_when_durable, persisted) is lost with it.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dqlite_py.errors import Busy, MembershipRefused, NotLeader, RaftInvariantBroken
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
from dqlite_py.raft.core import LogStart, RaftCore, RaftSettings
from dqlite_py.raft.effects import Effects, FetchEntries
from dqlite_py.raft.membership import encode_configuration
from dqlite_py.raft.messages import Message, SnapshotOffer

SETTINGS = RaftSettings(
    append_bytes_max=600,
    append_entries_max=5,
    inflight_bytes_max=2_000,
    inflight_messages_max=4,
    log_cache_bytes_max=1_500,
    uncommitted_bytes_max=4_000,
    unapplied_bytes_max=1_000,
    promote_lag_entries_max=20,
)
TICK_MS = 20.0
EMPTY_STATE = 0
NOTHING = Snapshot(LogIndex(0), Term(0), Configuration())


class SafetyViolation(AssertionError):
    """A promise of Raft was broken; the message names which."""


@dataclass
class Faults:
    """How hostile the world is: probabilities per message or per second."""

    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0  # probability of a long delay, which also reorders
    delay_ms: tuple[float, float] = (0.2, 3.0)
    late_ms: float = 400.0
    disk_ms: tuple[float, float] = (0.1, 4.0)
    slow_disk: float = 0.01
    slow_disk_ms: float = 300.0
    crash_per_s: float = 0.0
    cut_per_s: float = 0.0
    pause_per_s: float = 0.0
    disturb_per_s: float = 0.0  # somebody campaigns without need
    compact_per_s: float = 0.0
    change_per_s: float = 0.0
    transfer_per_s: float = 0.0
    quarantine_per_s: float = 0.0

    @classmethod
    def churn(cls, rng: random.Random) -> Faults:
        """Elections all the time, slow disks, crashes, late messages: for what needs several leaders in a row."""
        return cls(
            loss=rng.uniform(0.0, 0.25),
            duplicate=rng.uniform(0.0, 0.3),
            late=rng.uniform(0.1, 0.4),
            late_ms=rng.uniform(200, 1500),
            slow_disk=rng.uniform(0.0, 0.4),
            slow_disk_ms=rng.uniform(100, 800),
            crash_per_s=rng.uniform(0.0, 3.0),
            cut_per_s=rng.uniform(0.0, 3.0),
            disturb_per_s=rng.uniform(4.0, 15.0),
            compact_per_s=rng.choice((0.0, 5.0)),
            transfer_per_s=rng.uniform(0.0, 3.0),
        )

    @classmethod
    def of_seed(cls, rng: random.Random) -> Faults:
        """A mixture: each kind is on in about two runs of three."""

        def maybe(value: float) -> float:
            return value * rng.uniform(0.2, 1.0) if rng.random() < 0.67 else 0.0

        return cls(
            loss=maybe(0.12),
            duplicate=maybe(0.12),
            late=maybe(0.12),
            slow_disk=maybe(0.08),
            crash_per_s=maybe(1.0),
            cut_per_s=maybe(1.0),
            pause_per_s=maybe(0.4),
            disturb_per_s=maybe(1.5),
            compact_per_s=maybe(3.0),
            change_per_s=maybe(2.0),
            transfer_per_s=maybe(0.6),
            quarantine_per_s=maybe(0.3),
        )


@dataclass
class Batch:
    token: int
    effects: Effects


@dataclass
class Disk:
    """What survives a crash."""

    hard_state: HardState
    base_index: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)  # base_index + 1 …
    snapshot: Snapshot = NOTHING
    snapshot_state: int = EMPTY_STATE

    def write(self, effects: Effects, entries: int | None = None) -> None:
        """Perform a batch; `entries`: only so many of its entries (a torn write)."""
        if effects.journal_reset is not None:
            self.base_index, self.base_term = effects.journal_reset.index, effects.journal_reset.term
            self.entries = []
        if effects.hard_state is not None:
            self.hard_state = effects.hard_state
        if effects.truncate_from is not None:
            del self.entries[effects.truncate_from - self.base_index - 1 :]
        for entry in effects.entries[:entries]:
            if entry.index != self.base_index + len(self.entries) + 1:
                raise SafetyViolation(
                    f"journal hole: {entry.index} after {self.base_index + len(self.entries)}"
                )
            self.entries.append(entry)

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        if first <= self.base_index:
            return []
        found: list[Entry] = []
        size = 0
        for entry in self.entries[first - self.base_index - 1 : last - self.base_index]:
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def drop_before(self, first_index: int) -> None:
        count = first_index - 1 - self.base_index
        if count > 0:
            self.base_term = self.entries[count - 1].term
            del self.entries[:count]
            self.base_index = first_index - 1


class SimNode:
    """One member: a core, its disk, its state machine (a hash chain over all entries)."""

    def __init__(self, world: World, node_id: NodeId, disk: Disk) -> None:
        self.world = world
        self.id = node_id
        self.disk = disk
        self.core: RaftCore | None = None
        self.life = 0
        self.paused_until = 0.0
        self.state = EMPTY_STATE
        self.handed = 0
        self.applied = 0
        self.queue: deque[Entry] = deque()
        self.batches: deque[Batch] = deque()
        self.writing = False
        self.proposals: dict[int, tuple[Term, bytes]] = {}
        self.reads: dict[int, int] = {}  # read id -> what it must at least see
        self.commit_seen = 0
        self.fetching = 0

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        try:
            self._start()
        except RaftInvariantBroken as error:
            raise SafetyViolation(f"node {self.id} cannot start again: {error}") from error

    def _start(self) -> None:
        world, disk = self.world, self.disk
        self.life += 1
        start = LogStart.of(disk.entries, disk.base_index, disk.base_term)
        configurations = tuple(c for c in start.configurations if c.index > disk.snapshot.index)
        recent = start.recent[len(start.recent) - world.rng.randint(0, len(start.recent)) :]
        holds = disk.base_index <= disk.snapshot.index <= start.last_index and (
            disk.snapshot.index == disk.base_index
            or disk.entries[disk.snapshot.index - disk.base_index - 1].term == disk.snapshot.term
        )
        # The state machine restarts anywhere between its last snapshot and what it had applied.
        if not holds or self.applied < disk.snapshot.index:
            self.applied = disk.snapshot.index
        else:
            self.applied = world.rng.randint(disk.snapshot.index, self.applied)
        self.state = world.chain[self.applied]
        self.handed = self.commit_seen = self.applied
        self.queue.clear()
        self.batches.clear()
        self.writing = False
        self.fetching = 0
        self.core = world.core_class(
            node_id=self.id,
            settings=world.settings,
            random=random.Random(world.rng.random()),
            hard_state=disk.hard_state,
            snapshot=disk.snapshot,
            log=LogStart(
                start.base_index, start.base_term, start.last_index, start.term_runs, recent, configurations
            ),
            applied_index=LogIndex(self.applied),
            now_ms=world.now,
        )
        world.at(world.rng.uniform(0, TICK_MS), self.run, self.life, self.tick)
        self.perform()

    def crash(self) -> None:
        """Lose what is not durable; a prefix of the batches under way may have made it."""
        rng = self.world.rng
        kept = rng.randint(0, len(self.batches))
        for batch in list(self.batches)[:kept]:
            self.disk.write(batch.effects)
        if kept < len(self.batches) and rng.random() < 0.5:
            torn = self.batches[kept].effects
            self.disk.write(torn, rng.randint(0, len(torn.entries)))
        self.core = None
        self.life += 1
        self.proposals.clear()
        self.reads.clear()

    def run(self, life: int, what: Callable[..., None], *args: Any) -> None:
        """Run an event of this life; a paused node sees it later."""
        if life != self.life or self.core is None:
            return
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until - self.world.now, self.run, life, what, *args)
            return
        try:
            what(*args)
            self.perform()
        except RaftInvariantBroken as error:
            raise SafetyViolation(f"node {self.id} at {self.world.now:.0f} ms: {error}") from error

    def tick(self) -> None:
        assert self.core is not None
        self.core.tick(self.world.now)
        if self.core.is_quarantined and self.core.leader_id is None and self.world.rng.random() < 0.02:
            # Its log may be the longest, so that nobody else can lead: any sound member's state will do.
            self.fetch_snapshot_from(self.world._any_node(), self.core.log.base_index)
        self.world.at(TICK_MS, self.run, self.life, self.tick)

    def receive(self, message: Message) -> None:
        assert self.core is not None
        self.core.step(message, self.world.now)
        if self.core.last_dropped is not None:
            raise SafetyViolation(f"node {self.id} dropped {message}: {self.core.last_dropped}")

    # -- effects, in their order -----------------------------------------------------------------------------

    def perform(self) -> None:
        core, world = self.core, self.world
        while core is not None and (effects := core.take_effects()):
            world.check_effects(self, effects)
            if effects.token:
                self.batches.append(Batch(effects.token, effects))
                if not self.writing:
                    self.write_next()
            elif effects.messages_when_durable:
                raise SafetyViolation("messages_when_durable without a batch")
            for peer, message in effects.messages:
                world.send(self.id, peer, message)
            for entry in effects.committed:
                self.hand_out(entry)
            for request in effects.fetch:
                world.at(world.rng.uniform(0.1, 2), self.run, self.life, self.fetched, request)
            if effects.fetch_committed is not None:
                first, last = effects.fetch_committed
                world.at(world.rng.uniform(0.1, 2), self.run, self.life, self.committed_fetched, first, last)
            for read_id, index in effects.reads_ready:
                world.check_read(self, read_id, index)
            for read_id in effects.reads_failed:
                self.reads.pop(read_id)
            if effects.snapshot_offer is not None:
                world.at(
                    world.rng.uniform(1, 60), self.run, self.life, self.fetch_snapshot, effects.snapshot_offer
                )
            if effects.lost_data:
                raise SafetyViolation(f"node {self.id} accuses {effects.lost_data} of having lost data")

    def write_next(self) -> None:
        """Start one group commit of all batches waiting."""
        self.writing = bool(self.batches)
        if self.batches:
            faults, rng = self.world.faults, self.world.rng
            slow = rng.random() < faults.slow_disk
            delay = rng.uniform(0, faults.slow_disk_ms) if slow else rng.uniform(*faults.disk_ms)
            self.world.at(delay, self.run, self.life, self.written, self.batches[-1].token)

    def written(self, token: int) -> None:
        assert self.core is not None
        while self.batches and self.batches[0].token <= token:
            batch = self.batches.popleft()
            self.disk.write(batch.effects)
            for peer, message in batch.effects.messages_when_durable:
                self.world.send(self.id, peer, message)
            self.core.persisted(batch.token)
        self.write_next()

    def fetched(self, request: FetchEntries) -> None:
        assert self.core is not None
        entries = self.disk.read(request.first_index, 1 << 60, request.bytes_max)
        self.core.entries_fetched(request.peer, request.first_index, entries)

    def committed_fetched(self, first: int, last: int) -> None:
        assert self.core is not None
        self.core.committed_fetched(self.disk.read(first, last, 500))

    # -- state machine ---------------------------------------------------------------------------------------

    def hand_out(self, entry: Entry) -> None:
        if entry.index != self.handed + 1:
            raise SafetyViolation(f"node {self.id} handed out {entry.index} after {self.handed}")
        self.handed = entry.index
        self.queue.append(entry)
        if len(self.queue) == 1:
            self.world.at(self.world.rng.uniform(0.1, 5), self.run, self.life, self.apply, self.applied)

    def apply(self, after: int) -> None:
        """Apply some of the queue, unless a snapshot replaced the state meanwhile."""
        assert self.core is not None
        if self.applied != after or not self.queue:
            return
        for _ in range(self.world.rng.randint(1, len(self.queue))):
            entry = self.queue.popleft()
            self.state = hash((self.state, entry))
            self.applied = entry.index
            self.world.check_applied(self, entry)
        self.core.applied(LogIndex(self.applied))
        if self.queue:
            self.world.at(self.world.rng.uniform(0.1, 5), self.run, self.life, self.apply, self.applied)

    def compact(self) -> None:
        assert self.core is not None
        if self.core.is_quarantined or self.applied <= self.disk.snapshot.index:
            return
        index = LogIndex(self.world.rng.randint(self.disk.snapshot.index + 1, self.applied))
        snapshot = self.core.snapshot_at(index)
        keep = self.world.rng.choice((0, 0, 3, 20))
        first = LogIndex(max(self.core.first_index, index + 1 - keep))
        if first - 1 > self.disk.base_index + len(self.disk.entries):
            return  # the entries themselves are still on their way to the disk
        self.disk.snapshot, self.disk.snapshot_state = snapshot, self.world.chain[index]
        self.core.compacted(snapshot, first)
        self.disk.drop_before(first)

    def fetch_snapshot(self, offer: SnapshotOffer) -> None:
        """The transfer ends: it failed, or the sender's state at its present applied index is here."""
        assert self.core is not None
        if not self.fetch_snapshot_from(self.world.nodes[offer.sender], offer.index):
            self.core.snapshot_failed(self.world.now)

    def fetch_snapshot_from(self, sender: SimNode, index: int) -> bool:
        world = self.world
        reachable = not ({(self.id, sender.id), (sender.id, self.id)} & world.cuts)
        if self.core is None or sender.core is None or not reachable or world.rng.random() < 0.2:
            return False
        if sender.core.is_quarantined or sender.applied < index or sender is self:
            return False
        snapshot = sender.core.snapshot_at(LogIndex(sender.applied))
        if not self.core.wants_snapshot(snapshot.index):
            return False
        self.disk.snapshot, self.disk.snapshot_state = snapshot, sender.state
        self.state, self.applied, self.handed = sender.state, snapshot.index, snapshot.index
        self.queue.clear()
        self.core.install_snapshot(snapshot, world.now)
        world.count["installed"] += 1
        return True


class World:
    """Nodes, network, faults, clients, checks."""

    def __init__(
        self,
        seed: int,
        *,
        core_class: type[RaftCore] = RaftCore,
        voters: int = 3,
        spares: int = 2,
        faults: Faults | None = None,
        settings: RaftSettings = SETTINGS,
    ) -> None:
        self.rng = random.Random(seed)
        self.core_class = core_class
        self.settings = settings
        self.faults = Faults.of_seed(self.rng) if faults is None else faults
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self.cuts: set[tuple[NodeId, NodeId]] = set()  # (from, to): one way
        self.count = dict.fromkeys(("acked", "reads", "elections", "installed", "changes", "removed"), 0)
        # -- what was ever true
        self.leaders: dict[Term, NodeId] = {}
        self.logged: dict[tuple[LogIndex, Term], tuple[EntryKind, bytes, Term]] = {}
        self.committed: dict[int, Entry] = {}
        self.commit_term: dict[int, Term] = {}
        self.committed_max = 0
        self.chain: dict[int, int] = {0: EMPTY_STATE}
        self.acked: dict[int, tuple[Term, bytes]] = {}
        self._serial = 0
        members = tuple(self._member(NodeId(i), Role.VOTER) for i in range(1, voters + 1))
        self.everybody = [NodeId(i) for i in range(1, voters + spares + 1)]
        self.nodes: dict[NodeId, SimNode] = {}
        first = Entry(
            LogIndex(1), Term(1), EntryKind.CONFIGURATION, encode_configuration(Configuration(members))
        )
        for node_id in self.everybody:
            if node_id <= voters:
                disk = Disk(HardState(Term(1), NodeId(0)), entries=[first])
            else:
                disk = Disk(HardState(Term(0), NodeId(0)))
            self.nodes[node_id] = SimNode(self, node_id, disk)
        for node in self.nodes.values():
            node.start()

    @staticmethod
    def _member(node_id: NodeId, role: Role) -> Member:
        return Member(node_id, Address(f"node{node_id}:9000"), role)

    # -- time --------------------------------------------------------------------------------------------------

    def at(self, delay_ms: float, what: Callable[..., None], *args: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_ms, self._order, what, args))

    def run_for(self, duration_ms: float) -> None:
        end = self.now + duration_ms
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, what, args = heapq.heappop(heap)
            what(*args)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_ms: float) -> bool:
        end = self.now + limit_ms
        while not condition():
            if self.now >= end:
                return False
            self.run_for(20)
        return True

    # -- network -----------------------------------------------------------------------------------------------

    def send(self, sender: NodeId, to: NodeId, message: Message) -> None:
        faults, rng = self.faults, self.rng
        node = self.nodes.get(to)
        if node is None or (sender, to) in self.cuts or rng.random() < faults.loss:
            return
        for _ in range(2 if rng.random() < faults.duplicate else 1):
            late = rng.random() < faults.late
            delay = rng.uniform(0, faults.late_ms) if late else rng.uniform(*faults.delay_ms)
            self.at(delay, self.deliver, sender, node, message)

    def deliver(self, sender: NodeId, node: SimNode, message: Message) -> None:
        if (sender, node.id) not in self.cuts:
            node.run(node.life, node.receive, message)

    def isolate(self, node_id: NodeId) -> None:
        for other in self.everybody:
            if other != node_id:
                self.cuts |= {(node_id, other), (other, node_id)}

    def heal(self) -> None:
        self.cuts.clear()

    # -- checks ------------------------------------------------------------------------------------------------

    def check_effects(self, node: SimNode, effects: Effects) -> None:
        core = node.core
        assert core is not None
        if core.commit_index < node.commit_seen:
            raise SafetyViolation(
                f"commit index of {node.id} went back: {node.commit_seen} to {core.commit_index}"
            )
        node.commit_seen = core.commit_index
        if effects.became_leader is not None:
            self.check_leader(node, core, effects.became_leader)
        if effects.lost_leadership:
            node.proposals.clear()
        if effects.removed:
            self.count["removed"] += 1
        if effects.entries:
            before = effects.entries[0].index - 1
            prev_term = core.log.term_at(LogIndex(before)) if core.log.holds(LogIndex(before)) else Term(0)
            for entry in effects.entries:
                told = (entry.kind, entry.payload, prev_term)
                if self.logged.setdefault((entry.index, entry.term), told) != told:
                    raise SafetyViolation(f"log matching: two entries at {entry.index}, term {entry.term}")
                prev_term = entry.term

    def check_leader(self, node: SimNode, core: RaftCore, term: Term) -> None:
        self.count["elections"] += 1
        if self.leaders.setdefault(term, node.id) != node.id:
            raise SafetyViolation(f"two leaders in term {term}: {self.leaders[term]} and {node.id}")
        for index in range(self.committed_max, max(core.log.base_index, self.committed_max - 50), -1):
            entry = self.committed[index]
            if self.commit_term[index] < term and not core.log.matches(entry.index, entry.term):
                raise SafetyViolation(
                    f"leader completeness: {node.id} leads term {term} without entry {index}"
                )

    def check_applied(self, node: SimNode, entry: Entry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        if known != entry:
            raise SafetyViolation(f"state machine safety: {node.id} applied {entry}, another node {known}")
        if entry.index > self.committed_max:
            assert node.core is not None
            self.committed_max = entry.index
            self.commit_term[entry.index] = node.core.term
            self.chain[entry.index] = node.state
        if self.chain[entry.index] != node.state:
            raise SafetyViolation(f"state of {node.id} differs after entry {entry.index}")
        proposal = node.proposals.pop(entry.index, None)
        if proposal == (entry.term, entry.payload):
            self.acked[entry.index] = proposal
            self.count["acked"] += 1

    def check_read(self, node: SimNode, read_id: int, index: int) -> None:
        least = node.reads.pop(read_id)
        self.count["reads"] += 1
        if index < least:
            raise SafetyViolation(f"stale read on {node.id}: index {index}, but {least} was committed before")

    # -- clients and faults ------------------------------------------------------------------------------------

    def leader(self) -> SimNode | None:
        """The leader of the highest term, if any."""
        leading = [n for n in self.nodes.values() if n.core is not None and n.core.is_leader]
        return max(leading, key=lambda n: n.core.term if n.core else 0, default=None)

    def propose(self, node: SimNode) -> bool:
        if node.core is None or self.now < node.paused_until:
            return False
        self._serial += 1
        payload = b"%d:" % self._serial + b"." * self.rng.randint(0, 60)
        try:
            term, index = node.core.propose(payload, self.now)
        except (NotLeader, Busy):
            return False
        node.proposals[index] = (term, payload)
        node.perform()
        return True

    def read(self, node: SimNode) -> None:
        if node.core is not None and self.now >= node.paused_until:
            self._serial += 1
            node.reads[self._serial] = self.committed_max
            node.core.read_index(self._serial, self.now)
            node.perform()

    def change(self, leader: SimNode) -> None:
        """One random change of one member."""
        assert leader.core is not None
        current = leader.core.configuration
        node_id = self.rng.choice(self.everybody)
        member = current.get(node_id)
        if member is None:
            new = current.with_member(self._member(node_id, Role.STANDBY))
        elif member.role is Role.STANDBY and self.rng.random() < 0.7:
            new = current.with_member(self._member(node_id, Role.VOTER))
        elif self.rng.random() < 0.3:
            new = current.with_member(self._member(node_id, Role(self.rng.choice((1, 2)))))
        elif member.role is Role.SPARE:
            new = current.with_member(self._member(node_id, Role.STANDBY))
        else:
            new = current.without(node_id)
        if len(new.voters) < 2:
            return
        try:
            leader.core.propose_configuration(new, self.now)
        except (NotLeader, MembershipRefused):
            return
        self.count["changes"] += 1
        leader.perform()

    def load(self, period_ms: float = 25.0) -> None:
        """Clients: propose to whoever thinks it leads, and read there."""

        def act() -> None:
            for node in self.nodes.values():
                if node.core is not None and node.core.is_leader:
                    for _ in range(self.rng.randint(0, 4)):
                        self.propose(node)
                    if self.rng.random() < 0.5:
                        self.read(node)
            self.at(self.rng.uniform(0, 2 * period_ms), act)

        act()

    def misfortunes(self) -> None:
        """Start every kind of fault that this world has."""
        faults = self.faults
        for per_s, what in (
            (faults.crash_per_s, self._crash_one),
            (faults.cut_per_s, self._cut),
            (faults.pause_per_s, self._pause_one),
            (faults.disturb_per_s, self._disturb),
            (faults.compact_per_s, self._compact_one),
            (faults.change_per_s, self._change_one),
            (faults.transfer_per_s, self._transfer),
            (faults.quarantine_per_s, self._quarantine),
        ):
            if per_s:
                self.at(self.rng.expovariate(per_s) * 1000, self._again, per_s, what)

    def _again(self, per_s: float, what: Callable[[], None]) -> None:
        if self.faults.loss >= 0:  # calm() ends them
            what()
            self.at(self.rng.expovariate(per_s) * 1000, self._again, per_s, what)

    def _any_node(self) -> SimNode:
        return self.nodes[self.rng.choice(self.everybody)]

    def _crash_one(self) -> None:
        leader = self.leader()
        node = leader if leader is not None and self.rng.random() < 0.4 else self._any_node()
        if node.core is not None:
            node.crash()
            self.at(self.rng.uniform(5, 1500), self._restart, node)

    def _restart(self, node: SimNode) -> None:
        if node.core is None:
            node.start()

    def _cut(self) -> None:
        kind = self.rng.random()
        if kind < 0.4:
            self.isolate(self._any_node().id)
        elif kind < 0.7:
            self.cuts.add((self._any_node().id, self._any_node().id))
        else:
            side = set(self.rng.sample(self.everybody, len(self.everybody) // 2))
            for one in side:
                for other in set(self.everybody) - side:
                    self.cuts |= {(one, other), (other, one)}
        self.at(self.rng.uniform(100, 2500), self.heal)

    def _pause_one(self) -> None:
        node = self._any_node()
        node.paused_until = max(node.paused_until, self.now + self.rng.uniform(10, 1500))

    def _disturb(self) -> None:
        node = self._any_node()
        if node.core is not None:
            node.run(node.life, node.core.campaign, self.now)

    def _compact_one(self) -> None:
        node = self._any_node()
        node.run(node.life, node.compact)

    def _change_one(self) -> None:
        for node in self.nodes.values():
            if node.core is not None and node.core.is_leader and self.now >= node.paused_until:
                self.change(node)

    def _transfer(self) -> None:
        leader = self.leader()
        if leader is not None and leader.core is not None and self.now >= leader.paused_until:
            try:
                leader.core.transfer_leadership(None, self.now)
            except MembershipRefused:
                return
            leader.perform()

    def _quarantine(self) -> None:
        node = self._any_node()
        busy = any(n.core is not None and n.core.is_quarantined for n in self.nodes.values())
        if node.core is not None and not busy:
            node.run(node.life, node.core.request_snapshot)

    # -- after the storm -----------------------------------------------------------------------------------------

    def calm(self) -> None:
        """End all faults; everybody is up and reachable."""
        self.faults = Faults(loss=-1.0)
        self.heal()
        for node in self.nodes.values():
            node.paused_until = 0.0
            if node.core is None:
                node.start()

    def check_recovers(self, limit_ms: float = 20_000) -> None:
        """Liveness: a leader is found, a new write reaches all members, all states are equal."""
        self.calm()
        target: list[int] = []

        def recovered() -> bool:
            leader = self.leader()
            if leader is None or leader.core is None:
                return False
            if not target or (target[0] not in leader.proposals and target[0] not in self.acked):
                target[:] = []
                if self.propose(leader):
                    target.append(leader.core.last_index)
                return False
            members = [m.id for m in leader.core.configuration.members if m.role is not Role.SPARE]
            spares = [m.id for m in leader.core.configuration.members if m.role is Role.SPARE]
            return (
                target[0] in self.acked
                and all(self.nodes[m].applied >= target[0] for m in members)
                and all((core := self.nodes[m].core) and core.leader_id == leader.id for m in spares)
            )

        if not self.run_until(recovered, limit_ms):
            told = [
                f"{n.id}: {n.core.state.value} term {n.core.term} log {n.core.first_index}..{n.core.last_index} "
                f"commit {n.core.commit_index} applied {n.applied} quarantined {n.core.is_quarantined}"
                for n in self.nodes.values()
                if n.core is not None
            ]
            raise SafetyViolation(f"no recovery within {limit_ms} ms: " + "; ".join(told))
        for index, (term, payload) in self.acked.items():
            entry = self.committed[index]
            if (entry.term, entry.payload) != (term, payload):
                raise SafetyViolation(f"acknowledged write at {index} was lost")


def storm(seed: int, *, core_class: type[RaftCore] = RaftCore, duration_ms: float = 12_000) -> World:
    """One run: a random mixture of faults, then healing. Every third seed is a churn of elections."""
    churn = Faults.churn(random.Random(seed)) if seed % 3 == 2 else None
    world = World(seed, core_class=core_class, voters=5 if seed % 4 == 3 else 3, faults=churn)
    world.load(25.0 if churn is None else 120.0)
    world.misfortunes()
    world.run_for(duration_ms)
    world.check_recovers()
    return world
