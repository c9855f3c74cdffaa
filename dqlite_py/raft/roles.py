"""Automatic roles: the one change that brings a cluster nearer to its wanted numbers of voters and stand-bys. Pure.

`next_change` is asked again and again by the leader, which carries the change out, waits until it is committed and
asks with what is then true. It does not look at a clock: how long a member must be away before it counts as gone, and
back before it counts again, is the caller's (`MemberState.presence`).

Rules, the first that gives a change wins:
  1. too few lasting voters: the best caught-up stand-by gets a vote, else spares become stand-bys and are waited for;
  2. a leader that leaves or is unfit hands over;
  3. too many voters: the worst loses its vote; who replaces it has got one BEFORE, by rule 1;
  4. voters crowd in a failure domain while another has room: the better placed member is promoted, rule 3 follows;
  5. too few stand-bys: the best spare; 6. too many: the worst goes; 7. stand-bys crowd, as 4.

Why it ends: while nobody comes or goes, each change lowers (missing voters, surplus voters, the sum over domains of
voters squared, the same three of stand-bys) in this order; a promotion by 4 or 7 does so with the demotion that follows
it. A domain that loses a voter to another had at least two more, so a swap is never undone; and as the sum is convex in
each domain, no single swap is left to make only where the spread is the best that the members allow.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dqlite_py.errors import InterfaceError
from dqlite_py.model import NodeId, Role
from dqlite_py.raft.quorum import majority


class Presence(enum.Enum):
    """Whether a member is there, as the caller's patience sees it."""

    UP = "up"  # reachable for long enough to be chosen
    BACK = "back"  # reachable, but not for long: neither chosen nor replaced
    AWAY = "away"  # unreachable, but not for long: not chosen, not replaced, the first to go of too many
    GONE = "gone"  # unreachable for so long that it is to be replaced

    @property
    def is_reachable(self) -> bool:
        return self in (Presence.UP, Presence.BACK)


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as its leader sees it.

    is_fit: its release reads the formats in use, and its databases are trusted. is_caught_up: its log ends near the
    leader's, so that it may vote at once. is_leaving: it asked to be relieved of its role. weight: of several that are
    as well placed the lightest is chosen; a change of weight alone moves no role. domain: members of one domain are
    expected to fail together; 0 is a domain, too.
    """

    id: NodeId
    role: Role
    presence: Presence = Presence.UP
    is_fit: bool = True
    is_caught_up: bool = True
    is_leaving: bool = False
    weight: int = 0
    domain: int = 0

    @property
    def is_eligible(self) -> bool:
        """May be given a role above the one it has."""
        return self.presence is Presence.UP and self.is_fit and not self.is_leaving

    @property
    def is_lasting(self) -> bool:
        """Counts toward the wanted numbers in the role that it has."""
        return self.presence is not Presence.GONE and not self.is_leaving


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many voters (odd) and stand-bys a cluster is to have. Raises InterfaceError."""

    voters: int = 3
    standbys: int = 3

    def __post_init__(self) -> None:
        if self.voters < 1 or self.voters % 2 == 0:
            raise InterfaceError(f"the number of voters must be odd, not {self.voters}")
        if self.standbys < 0:
            raise InterfaceError(f"the number of stand-bys must not be negative: {self.standbys}")


class Action(enum.Enum):
    NOTHING = "nothing"
    ASSIGN = "assign"  # give `member` the role `role`
    TRANSFER = "transfer"  # hand leadership to `member`


@dataclass(frozen=True, slots=True)
class Change:
    """The next change, and why. NOTHING: `member` is 0, and `reason` may say what is waited for."""

    action: Action
    member: NodeId
    role: Role | None
    reason: str


def next_change(members: Sequence[MemberState], leader: NodeId, wanted: Wanted) -> Change:
    """Decide the one next change; the same for the same members in any order. Raises InterfaceError.

    Never gives a change after which the reachable voters were no majority, never demotes the leader.
    """
    if len({member.id for member in members}) != len(members):
        raise InterfaceError("a member is listed twice")
    if not any(member.id == leader and member.role is Role.VOTER for member in members):
        raise InterfaceError(f"the leader {leader} is no voter")
    return _Roles(members, leader, wanted).decide()


def has_quorum(members: Iterable[MemberState]) -> bool:
    """True when the reachable voters are a majority of the voters."""
    voters = [member for member in members if member.role is Role.VOTER]
    return bool(voters) and sum(v.presence.is_reachable for v in voters) >= majority([v.id for v in voters])


def wanted_voters(members: Collection[MemberState], wanted: Wanted) -> int:
    """How many voters to aim at: fewer than wanted where there are too few members, but no even number above two.

    Four voters bear one loss, as three do, and the fourth is of more use as a stand-by. Two bear none, as one does, but
    then each acknowledged write is on two disks. Members that are away for a moment count: a blink moves no role.
    Of two voters one that is leaving loses its vote, though nobody takes it over: with it the other could not go on.
    """
    able = sum(m.role is Role.VOTER or (m.is_lasting and m.is_fit) for m in members)
    if able >= wanted.voters:
        return wanted.voters
    if able == 2 and any(m.role is Role.VOTER and m.is_leaving for m in members):
        return 1
    return able if able <= 2 or able % 2 else able - 1


class _Roles:
    """One question; nothing is kept between two."""

    def __init__(self, members: Sequence[MemberState], leader: NodeId, wanted: Wanted) -> None:
        self._members = sorted(members, key=lambda member: member.id)
        self._leader = leader
        self._wanted = wanted
        self._aim = wanted_voters(members, wanted)
        self._voters = self._of(Role.VOTER)
        self._standbys = self._of(Role.STANDBY)
        self._spares = [m for m in self._of(Role.SPARE) if m.is_eligible]
        self._voters_in = Counter(m.domain for m in self._voters if m.is_lasting)
        self._standbys_in = Counter(m.domain for m in self._standbys if m.is_lasting)
        self._waiting_for: MemberState | None = None  # a stand-by that will get a vote when it has caught up

    def _of(self, role: Role) -> list[MemberState]:
        return [member for member in self._members if member.role is role]

    def decide(self) -> Change:
        if not has_quorum(self._members):
            return _nothing("no majority of the voters is reachable: no change could be committed")
        rules: tuple[Callable[[], Change | None], ...] = (
            self._fill_voters,
            self._relieve_leader,
            self._drop_voter,
            self._spread_voters,
            self._fill_standbys,
            self._drop_standby,
            self._spread_standbys,
        )
        for rule in rules:
            change = rule()
            if change is not None:
                return change
        return self._rest()

    def _rest(self) -> Change:
        if self._waiting_for is not None:
            return _nothing(f"waiting for stand-by {self._waiting_for.id} to catch up: it will be a voter")
        lasting = sum(m.is_lasting for m in self._voters)
        if lasting < self._wanted.voters:
            return _nothing(
                f"{lasting} of {self._wanted.voters} wanted voters, and no member could be one more"
            )
        if len(self._voters) > self._aim:
            return _nothing(f"{len(self._voters)} voters are more than {self._aim}: waiting to see who stays")
        return _nothing("roles are as wanted")

    # -- voters -------------------------------------------------------------------------------------------

    def _fill_voters(self) -> Change | None:
        missing = self._aim - sum(m.is_lasting for m in self._voters)
        if missing <= 0:
            return None
        able = [m for m in self._standbys if m.is_eligible]
        ready = [m for m in able if m.is_caught_up]
        if ready:
            best = min(ready, key=self._place_for_vote)
            return self._promote(best, Role.VOTER, self._why_missing(missing))
        if len(able) < missing and self._spares:
            best = min(self._spares, key=self._place_for_vote)
            return self._promote(
                best, Role.STANDBY, f"{self._why_missing(missing)}; it must catch up before it votes"
            )
        if able:
            self._waiting_for = min(able, key=self._place_for_vote)
        return None

    def _why_missing(self, missing: int) -> str:
        lost = [m for m in self._voters if not m.is_lasting]
        if not lost:
            return f"{missing} of {self._aim} voters missing"
        return "; ".join(f"voter {m.id} is {'leaving' if m.is_leaving else 'gone'}" for m in lost)

    def _relieve_leader(self) -> Change | None:
        leader = next(m for m in self._voters if m.id == self._leader)
        if leader.is_fit and not leader.is_leaving:
            return None
        able = [m for m in self._voters if m.is_eligible and m.is_caught_up and m is not leader]
        if not able:
            return None
        best = min(able, key=lambda m: (m.weight, m.id))
        why = "is leaving" if leader.is_leaving else "is not fit to lead"
        return Change(
            Action.TRANSFER, best.id, None, f"leader {leader.id} {why}; voter {best.id} is the lightest"
        )

    def _drop_voter(self) -> Change | None:
        if len(self._voters) <= self._aim:
            return None
        spare_votes = sum(m.is_lasting for m in self._voters) - self._aim
        able = [
            m
            for m in self._voters
            if m.id != self._leader
            and (spare_votes > 0 or not m.is_lasting)
            and self._keeps_quorum_without(m)
        ]
        if not able:
            return None
        worst = max(able, key=self._burden_as_voter)
        unclear = any(v.presence is Presence.BACK for v in self._voters)
        if unclear and worst.is_lasting and worst.presence is not Presence.AWAY:
            return (
                None  # a leader that has just begun does not know yet who is there to stay, or wants to leave
            )
        why = f"{len(self._voters)} voters are more than {self._aim}"
        if not worst.is_lasting:
            return _assign(worst, Role.SPARE, f"{why}, and it is {'leaving' if worst.is_leaving else 'gone'}")
        crowd = self._voters_in[worst.domain]
        return _assign(
            worst, Role.STANDBY, f"{why}; domain {worst.domain} has {crowd}, its weight is {worst.weight}"
        )

    def _keeps_quorum_without(self, member: MemberState) -> bool:
        return has_quorum(replace(m, role=Role.SPARE) if m is member else m for m in self._members)

    def _burden_as_voter(self, member: MemberState) -> tuple[bool, bool, bool, int, int, int]:
        """Who is away goes before who is there: the rest must bear the next loss."""
        return (
            not member.is_lasting,
            member.presence is Presence.AWAY,
            not member.is_fit,
            self._voters_in[member.domain],
            member.weight,
            member.id,
        )

    def _spread_voters(self) -> Change | None:
        """Begin a swap only with all voters well, or the demotion that ends it might not be possible."""
        if self._waiting_for is not None or not all(m.is_eligible for m in self._voters):
            return None
        able = [*(m for m in self._standbys if m.is_eligible), *self._spares]
        if not able:
            return None
        best = min(able, key=self._place_for_vote)
        crowded, crowd = max(self._voters_in.items(), key=lambda item: (item[1], -item[0]))
        room = self._voters_in[best.domain]
        if room + 1 >= crowd:
            return None
        why = f"domain {crowded} has {crowd} voters, domain {best.domain} has {room}"
        if best.role is Role.SPARE:
            return self._promote(best, Role.STANDBY, f"{why}; it must catch up before it votes")
        if best.is_caught_up:
            return self._promote(best, Role.VOTER, why)
        self._waiting_for = best
        return None

    def _place_for_vote(self, member: MemberState) -> tuple[int, int, int, int]:
        """Least is best: domains with few voters, then who can vote soonest, then the lightest."""
        soon = 2 if member.role is Role.SPARE else 0 if member.is_caught_up else 1
        return (self._voters_in[member.domain], soon, member.weight, member.id)

    # -- stand-bys ----------------------------------------------------------------------------------------

    def _fill_standbys(self) -> Change | None:
        missing = self._wanted.standbys - sum(m.is_lasting for m in self._standbys)
        if missing <= 0 or not self._spares:
            return None
        best = min(self._spares, key=self._place_as_standby)
        return self._promote(best, Role.STANDBY, f"{missing} of {self._wanted.standbys} stand-bys missing")

    def _drop_standby(self) -> Change | None:
        """A stand-by that may be needed for a vote stays until that is settled."""
        if len(self._standbys) <= self._wanted.standbys:
            return None
        able = [m for m in self._standbys if self._waiting_for is None or not m.is_lasting]
        if not able:
            return None
        worst = max(able, key=self._burden_as_standby)
        why = f"{len(self._standbys)} stand-bys are more than {self._wanted.standbys}"
        return _assign(worst, Role.SPARE, why)

    def _burden_as_standby(self, member: MemberState) -> tuple[bool, bool, tuple[int, int], int, int]:
        return (
            not member.is_lasting,
            not member.is_fit,
            (self._standbys_in[member.domain], self._voters_in[member.domain]),
            member.weight,
            member.id,
        )

    def _spread_standbys(self) -> Change | None:
        if self._waiting_for is not None or not self._spares or not self._standbys:
            return None
        if len(self._standbys) != self._wanted.standbys:
            return None
        best = min(self._spares, key=self._place_as_standby)
        crowd, voters, crowded = max(
            (count, self._voters_in[domain], domain) for domain, count in self._standbys_in.items()
        )
        room = (self._standbys_in[best.domain], self._voters_in[best.domain])
        if room >= (crowd - 1, voters):
            return None
        why = (
            f"domain {crowded} has {crowd} stand-bys and {voters} voters, "
            f"domain {best.domain} has {room[0]} and {room[1]}"
        )
        return self._promote(best, Role.STANDBY, why)

    def _place_as_standby(self, member: MemberState) -> tuple[int, int, int, int]:
        return (
            self._standbys_in[member.domain],
            self._voters_in[member.domain],
            member.weight,
            member.id,
        )

    def _promote(self, member: MemberState, role: Role, why: str) -> Change:
        place = f"{member.role.name.lower()} {member.id} of domain {member.domain}, weight {member.weight}"
        return Change(Action.ASSIGN, member.id, role, f"{why}: {place} is the best placed")


def _assign(member: MemberState, role: Role, reason: str) -> Change:
    return Change(Action.ASSIGN, member.id, role, reason)


def _nothing(reason: str) -> Change:
    return Change(Action.NOTHING, NodeId(0), None, reason)
