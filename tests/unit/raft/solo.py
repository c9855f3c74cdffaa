"""One RaftCore on the bench: builds it, plays the host and the peers, and remembers what it did."""

from __future__ import annotations

import random
from typing import Any, TypeVar

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
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.membership import encode_configuration
from dqlite_py.raft.messages import AppendReply, AppendRequest, Message, SnapshotOffer, VoteReply, VoteRequest

Kind = TypeVar("Kind")
SETTINGS = RaftSettings()
NOTHING = Snapshot(LogIndex(0), Term(0), Configuration())
ME = NodeId(1)


def member(node_id: int, role: Role = Role.VOTER) -> Member:
    return Member(NodeId(node_id), Address(f"node{node_id}:9000"), role)


def members(*voters: int, standbys: tuple[int, ...] = (), spares: tuple[int, ...] = ()) -> Configuration:
    rows = [member(v) for v in voters]
    rows += [member(s, Role.STANDBY) for s in standbys] + [member(s, Role.SPARE) for s in spares]
    return Configuration(tuple(sorted(rows, key=lambda m: m.id)))


def command(index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload or b"%d/%d" % (index, term))


def noop(index: int, term: int) -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.NOOP, b"")


def configuration_entry(index: int, term: int, configuration: Configuration) -> Entry:
    payload = encode_configuration(configuration)
    return Entry(LogIndex(index), Term(term), EntryKind.CONFIGURATION, payload)


def log_of(configuration: Configuration, *terms: int) -> list[Entry]:
    """Entry 1 holds the configuration (term 1); then one command per term given."""
    return [
        configuration_entry(1, 1, configuration),
        *(command(index, term) for index, term in enumerate(terms, 2)),
    ]


class Solo:
    """Node 1 of a cluster, alone with the test."""

    def __init__(
        self,
        configuration: Configuration | None = None,
        *terms: int,
        entries: list[Entry] | None = None,
        term: int = 0,
        voted_for: int = 0,
        snapshot: Snapshot = NOTHING,
        applied: int = 0,
        base: tuple[int, int] = (0, 0),
        settings: RaftSettings = SETTINGS,
        core_class: type[RaftCore] = RaftCore,
    ) -> None:
        log = entries
        if log is None:
            log = log_of(members(1, 2, 3) if configuration is None else configuration, *terms)
        term = max([term, base[1], snapshot.term, *(e.term for e in log)])
        self.now = 0.0
        self.core = core_class(
            node_id=ME,
            settings=settings,
            random=random.Random(1),
            hard_state=HardState(Term(term), NodeId(voted_for)),
            snapshot=snapshot,
            log=LogStart.of(log, *base),
            applied_index=LogIndex(applied),
            now_ms=self.now,
        )
        self.sent: list[tuple[NodeId, Message]] = []
        self.committed: list[Entry] = []
        self.journal: list[Entry] = list(log)  # everything ever handed to the journal, in order
        self.effects: list[Effects] = []
        self.unwritten: list[Effects] = []

    # -- the host ----------------------------------------------------------------------------------------

    def take(self) -> Effects:
        """One round of effects; the batch stays unwritten until `write`."""
        effects = self.core.take_effects()
        self.effects.append(effects)
        self.journal += effects.entries
        self.sent += effects.messages
        self.committed += effects.committed
        if effects.token:
            self.unwritten.append(effects)
        else:
            assert not effects.messages_when_durable
        return effects

    def write(self) -> None:
        """The oldest unwritten batch reaches the disk."""
        effects = self.unwritten.pop(0)
        self.sent += effects.messages_when_durable
        self.core.persisted(effects.token)

    def settle(self) -> Solo:
        """Take effects and write until there is nothing to do."""
        while self.take() or self.unwritten:
            while self.unwritten:
                self.write()
        return self

    def step(self, *messages: Message) -> Solo:
        for message in messages:
            self.core.step(message, self.now)
        return self

    def later(self) -> Solo:
        """The time in which it votes for nobody, after a start, is over; nothing happened in it."""
        self.now += self.core.settings.election_min_ms
        return self

    def tick(self, ms: float = 20.0) -> Solo:
        self.now += ms
        self.core.tick(self.now)
        return self

    def wait(self, ms: float) -> Solo:
        """Let time pass, tick by tick, settled."""
        end = self.now + ms
        while self.now < end:
            self.tick().settle()
        return self

    def heard(self, kind: type[Kind], peer: int | None = None) -> list[Kind]:
        """Messages of `kind` sent (to `peer`) since the last `forget`."""
        return [m for to, m in self.sent if isinstance(m, kind) and peer in (None, to)]

    def forget(self) -> Solo:
        self.sent.clear()
        self.effects.clear()
        return self

    # -- the peers ---------------------------------------------------------------------------------------

    def elect(self, *supporters: int) -> Solo:
        """Win an election with the votes of `supporters` (default: node 2); settled, no-op appended and durable."""
        self.core.campaign(self.now)
        self.settle()
        for voter in supporters or (2,):
            self.step(VoteReply(NodeId(voter), self.core.term, True, Term(self.core.term + 1), True))
        self.settle()
        for voter in supporters or (2,):
            self.step(VoteReply(NodeId(voter), self.core.term, False, self.core.term, True))
        self.settle()
        return self

    def ack(self, peer: int, match: int, *, term: int | None = None, round_number: int | None = None) -> Solo:
        return self.step(self.reply(peer, match=match, term=term, round_number=round_number))

    def refuse(self, peer: int, prev: int, hint: tuple[int, int], round_number: int | None = None) -> Solo:
        return self.step(self.reply(peer, reject=True, prev=prev, hint=hint, round_number=round_number))

    def reply(
        self,
        peer: int,
        *,
        match: int = 0,
        reject: bool = False,
        prev: int = 0,
        hint: tuple[int, int] = (0, 0),
        term: int | None = None,
        round_number: int | None = None,
        needs_snapshot: bool = False,
    ) -> AppendReply:
        return AppendReply(
            NodeId(peer),
            self.core.term if term is None else Term(term),
            reject,
            LogIndex(prev),
            LogIndex(match),
            LogIndex(hint[0]),
            Term(hint[1]),
            self.core._round if round_number is None else round_number,
            needs_snapshot,
        )


def append(
    sender: int, term: int, prev: tuple[int, int], *entries: Entry, commit: int = 0, round_number: int = 1
) -> AppendRequest:
    return AppendRequest(
        NodeId(sender), Term(term), LogIndex(prev[0]), Term(prev[1]), entries, LogIndex(commit), round_number
    )


def vote(sender: int, term: int, last: tuple[int, int], **flags: Any) -> VoteRequest:
    return VoteRequest(
        NodeId(sender),
        Term(term),
        flags.get("pre", False),
        LogIndex(last[0]),
        Term(last[1]),
        flags.get("transfer", False),
    )


def offer(sender: int, term: int, at: tuple[int, int], configuration: Configuration) -> SnapshotOffer:
    return SnapshotOffer(NodeId(sender), Term(term), LogIndex(at[0]), Term(at[1]), configuration, 1)
