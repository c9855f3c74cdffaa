"""RF-18: stock steps back one index per append period to find where logs agree, so hundreds of divergent
entries take tens of seconds. Ours answers a mismatch with the term and index where they may agree: one
round per term of difference, and the log is not kept in memory beyond a bounded cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

from dqlite_py.limits import KIB, MIB, SEND_QUEUE_BYTES_MAX
from dqlite_py.model import Entry, EntryKind, HardState, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.messages import AppendRequest, Message
from dqlite_py.wire.peer import lane_of
from dqlite_py.wire.sendqueue import Lane
from tests.faults.ours import TICK_MS, CoreWorld, Image, configuration, payloads, propose_all
from tests.faults.stock import StockWorld

pytestmark = pytest.mark.rf("RF-18")

DIVERGENT = 100


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    a, b, c = stock_world.start("ABC")
    stock_world.elect("A")
    stock_world.isolate("A")
    for value in range(DIVERGENT):
        a.op(value)
    a.doTick(0)
    stock_world.elect("B", among="BC")
    for value in range(DIVERGENT + 30):
        b.op(value)
    stock_world.settle("BC")
    stock_world.elect("C", among="BC")  # its next index for A starts at its own end
    stock_world.connect("AB", "AC")
    rounds = 0
    while a.log() != c.log():
        rounds += 1
        stock_world.settle(rounds=1)
        assert rounds < 2 * DIVERGENT
    assert rounds >= DIVERGENT  # of 100 ms each


def repair_messages(world: CoreWorld, leader: str, follower: str) -> int:
    """Messages that `leader` sends until the logs are equal."""
    start = len(world.sent)
    world.run_until(lambda: world[leader].log() == world[follower].log(), ms=20_000)
    return sum(
        1
        for source, target, message in world.sent[start:]
        if (source, target) == (leader, follower) and isinstance(message, AppendRequest)
    )


def test_ours_is_closed() -> None:
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    propose_all(a, payloads("isolated", DIVERGENT))
    b = world.elect("B", among="BC")
    propose_all(b, payloads("new", DIVERGENT + 30))
    world.pump("BC")
    world.heartbeat("B", among="BC")
    world.elect("C", among="BC")
    world.connect("AB", "AC")
    assert repair_messages(world, "C", "A") <= 10
    assert world["A"].applied[:DIVERGENT] == payloads("new", DIVERGENT)


def log_of_terms(terms: Iterable[int], each: int) -> list[Entry]:
    numbered = enumerate((Term(term) for term in terms for _ in range(each)), start=1)
    return [Entry(LogIndex(i), term, EntryKind.COMMAND, b"%d in %d" % (i, term)) for i, term in numbered]


@pytest.mark.parametrize("leader_terms", [range(2, 17, 2), [1] * 8, [16] * 8, range(1, 9)])
def test_ours_steps_over_whole_terms(leader_terms: Iterable[int]) -> None:
    """Logs that share nothing (paper, figure 7, worse): at most a round for each of their terms."""
    world = CoreWorld()
    base = Snapshot(LogIndex(0), Term(0), configuration("ABC"))
    hard_state = HardState(Term(20), NodeId(0))
    for name, terms in (("A", range(1, 16, 2)), ("B", leader_terms), ("C", leader_terms)):
        world.start(name, image=Image(hard_state, base, [*log_of_terms(terms, 12)]))
    world.connect("BC")
    world.elect("C", among="BC")
    world.connect("AB", "AC")
    assert repair_messages(world, "C", "A") <= 16 + 5


def test_ours_bounds_what_it_keeps_in_memory() -> None:
    world = CoreWorld("ABC", log_cache_bytes_max=100_000, append_bytes_max=20_000)
    world.isolate("C")
    a = world.elect("A", among="AB")
    for number in range(300):
        a.propose(b"%04d" % number + b"x" * 1_000)
        world.pump("AB")
    world.heartbeat("A", among="AB")
    for name in "AB":
        log = world[name].core.log
        held = sum(len(e.payload) for e in log.cached(log.cache_first, log.last_index))
        assert held <= 2 * 100_000
    world.connect("AC", "BC")  # and a follower that is far behind gets the rest from the journal
    world.run(3_000)
    assert world["C"].applied == a.applied
    assert len(a.applied) == 300


class SlowLink:
    """A connection's lanes as the transport has them, over a network of `bytes_per_ms`."""

    def __init__(self, world: CoreWorld, source: str, target: str, bytes_per_ms: int) -> None:
        self.world, self.source, self.target = world, source, target
        self.bytes_per_tick = int(bytes_per_ms * TICK_MS)
        self.lane: deque[tuple[Message, int]] = deque()
        self.held_bytes = self.credit_bytes = self.sent_bytes = 0

    def tick(self) -> None:
        queue = self.world.queue(self.source, self.target)
        control = []
        while queue:
            message = queue.popleft()
            size = sum(len(e.payload) for e in message.entries) if isinstance(message, AppendRequest) else 0
            if lane_of(message, self.held_bytes) is not Lane.APPEND:
                control.append(message)
            elif not self.held_bytes or self.held_bytes + size <= SEND_QUEUE_BYTES_MAX:
                self.lane.append((message, size))
                self.held_bytes += size
                self.sent_bytes += size
        self.world.hand(self.target, *control)
        self.credit_bytes += self.bytes_per_tick
        while self.lane and self.lane[0][1] <= self.credit_bytes:
            message, size = self.lane.popleft()
            self.held_bytes -= size
            self.credit_bytes -= size
            self.world.hand(self.target, message)
        if not self.lane:
            self.credit_bytes = 0


@pytest.mark.parametrize("bytes_per_ms", [1_000, 10_000])
def test_ours_catches_up_over_a_slow_link(bytes_per_ms: int) -> None:
    """Heartbeats overtake entries that wait in the connection's queue; nothing is sent many times for that."""
    world = CoreWorld("ABC")
    world.isolate("C")
    a = world.elect("A", among="AB")
    total_bytes = 12 * MIB
    for _ in range(total_bytes // (256 * KIB)):
        a.propose(bytes(256 * KIB))
        world.pump("AB")
    world.heartbeat("A", among="AB")
    link = SlowLink(world, "A", "C", bytes_per_ms)
    world.connect("AC", "BC")
    ticks_max = 4 * total_bytes // link.bytes_per_tick + 100
    for _ in range(ticks_max):
        world.now += TICK_MS
        for name in "ABC":
            world[name].tick()
        link.tick()
        for source, target in ("CA", "AB", "BA", "BC", "CB"):
            world.deliver(source, target, len(world.queue(source, target)))
        if world["C"].last_index == a.last_index:
            break
    assert link.sent_bytes <= 3 * total_bytes
    assert world["C"].last_index == a.last_index
