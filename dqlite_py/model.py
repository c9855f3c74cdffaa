"""Frozen records and NewTypes that every package shares. No behaviour beyond validation; imports errors only."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple, NewType

from dqlite_py.errors import MalformedMessage

NodeId = NewType("NodeId", int)
"""A member's identity: random, non-zero, below 2**63; independent of its address."""
Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
Address = NewType("Address", str)
"""host:port; IPv6 hosts in brackets."""


class Role(enum.IntEnum):
    """A member's role (numbers as in dqlite's protocol)."""

    VOTER = 0
    STANDBY = 1  # receives the log, does not vote: also the learner that is being caught up
    SPARE = 2  # receives heartbeats, no log


class EntryKind(enum.IntEnum):
    """What a log entry holds; COMMAND payloads are opaque to raft."""

    NOOP = 1
    CONFIGURATION = 2
    COMMAND = 3


class Entry(NamedTuple):
    """One log entry."""

    index: LogIndex  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    term: Term
    kind: EntryKind
    payload: bytes


class WriteKey(NamedTuple):
    """Names a write for exactly-once retries: the client session (16 bytes) and the write's sequence number in it."""

    session: bytes
    sequence: int


class HardState(NamedTuple):
    """What must be durable before any message that reveals it (Raft paper, figure 2)."""

    term: Term
    voted_for: NodeId  # 0: nobody


@dataclass(frozen=True, slots=True)
class Member:
    """A member's entry in the configuration."""

    id: NodeId
    address: Address
    role: Role


@dataclass(frozen=True, slots=True)
class Configuration:
    """The cluster's members, ordered by id. `index` is the log index that holds it (0: none yet)."""

    members: tuple[Member, ...] = ()
    index: LogIndex = LogIndex(0)

    def get(self, node_id: NodeId) -> Member | None:
        for member in self.members:
            if member.id == node_id:
                return member
        return None

    @property
    def voters(self) -> frozenset[NodeId]:
        return frozenset(member.id for member in self.members if member.role is Role.VOTER)

    def at(self, index: LogIndex) -> Configuration:
        return Configuration(self.members, index)

    def with_member(self, member: Member) -> Configuration:
        """A copy in which `member` replaces or joins the members (index reset to 0)."""
        others = [m for m in self.members if m.id != member.id]
        return Configuration(tuple(sorted([*others, member], key=lambda m: m.id)))

    def without(self, node_id: NodeId) -> Configuration:
        return Configuration(tuple(m for m in self.members if m.id != node_id))

    def to_wire(self) -> list[Any]:
        return [[m.id, m.address, int(m.role)] for m in self.members]

    @classmethod
    def from_wire(cls, value: Any, index: int = 0) -> Configuration:
        """Checked decoding; raises MalformedMessage."""
        if not isinstance(value, (list, tuple)):
            raise MalformedMessage("configuration is not a list", what="configuration")
        members: list[Member] = []
        for row in value:
            if not (
                isinstance(row, (list, tuple))
                and len(row) == 3
                and type(row[0]) is int
                and 0 < row[0] < 2**63
                and isinstance(row[1], str)
                and 0 < len(row[1]) <= 300
                and type(row[2]) is int
                and row[2] in (0, 1, 2)
            ):
                raise MalformedMessage("malformed member in configuration", what=repr(row)[:80])
            members.append(Member(NodeId(row[0]), Address(row[1]), Role(row[2])))
        if len({m.id for m in members}) != len(members) or len({m.address for m in members}) != len(members):
            raise MalformedMessage("duplicate member in configuration", what="configuration")
        return cls(tuple(sorted(members, key=lambda m: m.id)), LogIndex(index))


class Snapshot(NamedTuple):
    """A raft snapshot's identity: the state at `index`, and the configuration in force there."""

    index: LogIndex  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    term: Term
    configuration: Configuration
