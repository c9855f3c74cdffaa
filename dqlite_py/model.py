"""Frozen records and NewTypes that every package shares. No behaviour beyond validation; imports errors only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, NewType

from dqlite_py.errors import InterfaceError, MalformedMessage

NodeId = NewType("NodeId", int)
"""A member's identity: random, non-zero, below 2**63; independent of its address."""
Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
Address = NewType("Address", str)
"""host:port; IPv6 hosts in brackets."""


ROLE_NUMBER_MAX: Final = 63  # of wanted voters or stand-bys; a cluster has at most limits.MEMBERS_MAX members
GONE_AFTER_MS_MIN: Final = 1_000
GONE_AFTER_MS_MAX: Final = 86_400_000


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
    """A member's entry in the configuration. `weight`: of several that could have a role the lightest gets it;
    `domain`: members of one are expected to fail together. Both below 2**64."""

    id: NodeId
    address: Address
    role: Role
    weight: int = 0
    domain: int = 0


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """What the members of a cluster are to be. Without settings every member gets a vote.

    automatic: the leader keeps the numbers; else roles change by request only. voters: odd. gone_after_ms: how long a
    member must be unreachable before it is replaced.
    """

    automatic: bool = True
    voters: int = 3
    standbys: int = 3
    gone_after_ms: int = 10_000

    def __post_init__(self) -> None:
        """Raises InterfaceError."""
        numbers = (self.voters, self.standbys, self.gone_after_ms)
        if type(self.automatic) is not bool or any(type(number) is not int for number in numbers):
            raise InterfaceError("role settings are a truth value and three whole numbers")
        if not 0 < self.voters <= ROLE_NUMBER_MAX or self.voters % 2 == 0:
            raise InterfaceError(
                f"the number of voters must be odd and at most {ROLE_NUMBER_MAX}, not {self.voters}"
            )
        if not 0 <= self.standbys <= ROLE_NUMBER_MAX:
            raise InterfaceError(
                f"the number of stand-bys must be 0 to {ROLE_NUMBER_MAX}, not {self.standbys}"
            )
        if not GONE_AFTER_MS_MIN <= self.gone_after_ms <= GONE_AFTER_MS_MAX:
            raise InterfaceError(
                f"a member may be gone after {GONE_AFTER_MS_MIN} to {GONE_AFTER_MS_MAX} ms, not {self.gone_after_ms}"
            )


@dataclass(frozen=True, slots=True)
class Configuration:
    """The cluster's members, ordered by id. `index` is the log index that holds it (0: none yet).

    Its wire form is a list of [id, address, role] while nobody has a weight or a domain and there are no settings, as
    all releases read it; else [2, rows, settings], a row [id, address, role, weight, domain] where either is set, and
    settings nil or [automatic, voters, stand-bys, gone after ms].
    """

    members: tuple[Member, ...] = ()
    index: LogIndex = LogIndex(0)
    settings: RoleSettings | None = None

    def get(self, node_id: NodeId) -> Member | None:
        for member in self.members:
            if member.id == node_id:
                return member
        return None

    @property
    def voters(self) -> frozenset[NodeId]:
        return frozenset(member.id for member in self.members if member.role is Role.VOTER)

    @property
    def format(self) -> int:
        """The oldest version of the wire form that can say it."""
        plain = self.settings is None and not any(m.weight or m.domain for m in self.members)
        return 1 if plain else 2

    def is_same(self, other: Configuration) -> bool:
        """Equal but for the index."""
        return (self.members, self.settings) == (other.members, other.settings)

    def at(self, index: LogIndex) -> Configuration:
        return replace(self, index=index)

    def with_member(self, member: Member) -> Configuration:
        """A copy in which `member` replaces or joins the members (index reset to 0)."""
        others = [m for m in self.members if m.id != member.id]
        members = tuple(sorted([*others, member], key=lambda m: m.id))
        return Configuration(members, settings=self.settings)

    def without(self, node_id: NodeId) -> Configuration:
        return Configuration(tuple(m for m in self.members if m.id != node_id), settings=self.settings)

    def to_wire(self) -> list[Any]:
        if self.format == 1:
            return [[m.id, m.address, int(m.role)] for m in self.members]
        rows = [
            [m.id, m.address, int(m.role), *((m.weight, m.domain) if m.weight or m.domain else ())]
            for m in self.members
        ]
        s = self.settings
        return [2, rows, None if s is None else [s.automatic, s.voters, s.standbys, s.gone_after_ms]]

    @classmethod
    def from_wire(cls, value: Any, index: int = 0) -> Configuration:
        """Checked decoding of either form; raises MalformedMessage."""
        if not isinstance(value, (list, tuple)):
            raise MalformedMessage("configuration is not a list", what="configuration")
        settings: RoleSettings | None = None
        lengths: tuple[int, ...] = (3,)
        if len(value) == 3 and type(value[0]) is int and value[0] == 2:
            settings, lengths = settings_from_wire(value[2]), (3, 5)
            value = value[1]
            if not isinstance(value, (list, tuple)):
                raise MalformedMessage("configuration has no list of members", what="configuration")
        members: list[Member] = []
        for row in value:
            if not (
                isinstance(row, (list, tuple))
                and len(row) in lengths
                and type(row[0]) is int
                and 0 < row[0] < 2**63
                and isinstance(row[1], str)
                and 0 < len(row[1]) <= 300
                and type(row[2]) is int
                and row[2] in (0, 1, 2)
                and all(type(number) is int and 0 <= number < 2**64 for number in row[3:])
            ):
                raise MalformedMessage("malformed member in configuration", what=repr(row)[:80])
            members.append(Member(NodeId(row[0]), Address(row[1]), Role(row[2]), *row[3:]))
        if len({m.id for m in members}) != len(members) or len({m.address for m in members}) != len(members):
            raise MalformedMessage("duplicate member in configuration", what="configuration")
        return cls(tuple(sorted(members, key=lambda m: m.id)), LogIndex(index), settings)


def settings_from_wire(value: Any) -> RoleSettings | None:
    """Checked decoding; raises MalformedMessage."""
    if value is None:
        return None
    if not (isinstance(value, (list, tuple)) and len(value) == 4):
        raise MalformedMessage("role settings are not four values", what="configuration")
    try:
        return RoleSettings(*value)
    except InterfaceError as error:
        raise MalformedMessage(f"configuration: {error}", what="configuration") from None


class Snapshot(NamedTuple):
    """A raft snapshot's identity: the state at `index`, and the configuration in force there."""

    index: LogIndex  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    term: Term
    configuration: Configuration
