"""A RaftHost of node A in a cluster of three, with a real journal on a disk in memory; B and C are the
test.

The transport only notes what is sent; messages of the peers are handed in. The state machine is the
listener: it applies at once unless told otherwise. Used by tests/faults only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from dqlite_py.errors import Error
from dqlite_py.model import Configuration, Entry, EntryKind, LogIndex, NodeId, Snapshot, Term
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.host import RaftHost
from dqlite_py.raft.journal import Journal, JournalThread
from dqlite_py.raft.log import LogStart
from dqlite_py.raft.messages import AppendReply, AppendRequest, Message, SnapshotOffer, VoteReply, VoteRequest
from dqlite_py.raft.settings import RaftSettings
from tests.faults.ours import configuration, node_id
from tests.support.faultdisk import FaultDisk
from tests.support.journals import FOLDER, open_journal
from tests.support.wire import until


class ManualClock:
    """Stands still between `pass_ms` calls."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0

    def monotonic_ms(self) -> float:
        return self.now_ms

    def wall_us(self) -> int:
        return int(self.now_ms * 1000)


class Wire:
    """In the place of PeerTransport: notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, Message]] = []

    def send_all(self, messages: Iterable[tuple[NodeId, Message]]) -> None:
        self.sent += messages


class StateMachine:
    """The node's place as listener: notes what it is told, applies entries in order."""

    def __init__(self) -> None:
        self.host: RaftHost | None = None
        self.handed: list[Entry] = []
        self.unapplied: list[Entry] = []
        self.applies = True
        self.events: list[str] = []
        self.fatal: list[BaseException] = []
        self.offers: list[SnapshotOffer] = []
        self.reads: list[tuple[str, int]] = []

    def on_committed(self, entries: Sequence[Entry]) -> None:
        self.handed += entries
        self.unapplied += entries
        if self.applies:
            self.apply()

    def apply(self) -> None:
        assert self.host is not None
        entries, self.unapplied = self.unapplied, []
        for entry in entries:
            self.host.entry_applied(entry, f"result of {entry.index}", None)
            self.host.core.applied(entry.index)

    def commands(self) -> list[bytes]:
        return [entry.payload for entry in self.handed if entry.kind is EntryKind.COMMAND]

    def on_state_change(self) -> None:
        self.events.append("state changed")

    def on_became_leader(self, term: Term) -> None:
        self.events.append(f"leader of {term}")

    def on_lost_leadership(self) -> None:
        self.events.append("lost leadership")

    def on_configuration(self, configuration: Configuration) -> None:
        self.events.append("configuration")

    def on_snapshot_offer(self, offer: SnapshotOffer) -> None:
        self.offers.append(offer)

    def on_read_ready(self, read_id: int, index: LogIndex) -> None:
        self.reads.append(("ready", read_id))

    def on_read_failed(self, read_id: int) -> None:
        self.reads.append(("failed", read_id))

    def on_removed(self) -> None:
        self.events.append("removed")

    def on_fatal(self, error: BaseException) -> None:
        self.fatal.append(error)


class Answers(list[tuple[Any, Error | None]]):
    """What one proposal's callback heard."""

    def __call__(self, result: Any, error: Error | None) -> None:
        self.append((result, error))


class Hosted:
    """The host and what surrounds it."""

    def __init__(self, disk: FaultDisk, journal: Journal, executor: ThreadPoolExecutor) -> None:
        self.disk = disk
        self.clock = ManualClock()
        self.wire = Wire()
        self.machine = StateMachine()
        self.journal = journal
        self.journal_thread = JournalThread(journal)
        self.settings = RaftSettings()
        self.core = RaftCore(
            node_id=node_id("A"),
            settings=self.settings,
            random=random.Random(1),
            hard_state=journal.hard_state,
            snapshot=Snapshot(LogIndex(0), Term(0), configuration("ABC")),
            log=LogStart(),
            applied_index=LogIndex(0),
            now_ms=self.clock.now_ms,
        )
        self.host = RaftHost(
            loop=asyncio.get_running_loop(),
            core=self.core,
            journal=journal,
            journal_thread=self.journal_thread,
            transport=self.wire,
            executor=executor,
            clock=self.clock,
            listener=self.machine,
            settings=self.settings,
        )
        self.machine.host = self.host

    def pass_ms(self, ms: float) -> None:
        """Time passes in ticks, as the host's own timer would let it."""
        for _ in range(int(ms / 20)):
            self.clock.now_ms += 20
            self.host.doTick(0.0)

    async def become_leader(self) -> None:
        """Elected by B's votes, its first entry acknowledged by B."""
        self.clock.now_ms += 2 * self.settings.election_max_ms
        self.core.campaign(self.clock.now_ms)
        self.host.pump()
        for pre in (True, False):
            await until(
                lambda pre=pre: any(r.pre is pre for r in self.sent(VoteRequest)), "it asks for votes"
            )
            asked = [r for r in self.sent(VoteRequest) if r.pre is pre][-1]
            term = Term(asked.term - 1) if pre else asked.term
            self.received("B", VoteReply(node_id("B"), term, pre, asked.term, True))
        await until(lambda: self.core.is_leader, "it leads")
        await self.acknowledged_by("B")
        await until(lambda: self.core.commit_index == self.core.last_index, "its first entry is committed")

    def sent(self, kind: type[Any]) -> list[Any]:
        return [message for _, message in self.wire.sent if isinstance(message, kind)]

    async def acknowledged_by(self, *names: str) -> None:
        """The peers have stored all there is."""
        await self.durable()
        last_round = max((m.round for m in self.sent(AppendRequest)), default=0)
        for name in names:
            peer, last = node_id(name), self.core.last_index
            reply = AppendReply(
                peer, self.core.term, False, LogIndex(0), last, last, Term(0), last_round, False
            )
            self.received(name, reply)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def durable(self) -> None:
        def is_durable() -> bool:
            self.host.pump()  # a leader's host is told with the next message or tick
            return self.core.durable_index == self.core.last_index

        await until(is_durable, "the journal is written")

    async def proposed(self, payload: bytes) -> Answers:
        answers = Answers()
        self.host.propose(payload, answers)
        self.host.pump()
        await self.durable()
        return answers

    def follow(self, leader: str, prev: tuple[int, int], *entries: Entry, commit: int = 0) -> None:
        """A leader of the newest term speaks."""
        term = Term(max([self.core.term, *(entry.term for entry in entries)]))
        request = AppendRequest(
            node_id(leader), term, LogIndex(prev[0]), Term(prev[1]), entries, LogIndex(commit), 1
        )
        self.received(leader, request)

    def received(self, sender: str, message: Message) -> None:
        """A message came alone."""
        self.host.receive(node_id(sender), message)
        self.host.pump()


@asynccontextmanager
async def hosted() -> AsyncIterator[Hosted]:
    disk = FaultDisk(FOLDER)
    journal = open_journal(disk, segment_bytes=2**20, step_bytes=2**16)
    with ThreadPoolExecutor(1) as executor:
        here = Hosted(disk, journal, executor)
        here.journal_thread.start()
        try:
            yield here
        finally:
            here.host.destroy()
            await asyncio.to_thread(here.journal_thread.stop)
            journal.close()


def command(index: int, term: int, payload: bytes = b"another leader's") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload)
