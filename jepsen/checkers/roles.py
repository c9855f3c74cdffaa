"""Roles that the leader keeps: do they come to rest as they are wanted?

Judges what the nodes of a healed cluster say of themselves (`statuses`, by node name, as Node.status()). Written from
the promise, not from the product's rules: numbers, no vacancy while somebody could fill it, no crowded domain beside
one with room. Starts and asks nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jepsen.verdict import Verdict

Status = Mapping[str, Any]
VOTER = "voter"
STANDBY = "standby"
SPARE = "spare"


@dataclass(frozen=True, slots=True)
class WantedRoles:
    """The numbers that were put into the configuration."""

    voters: int
    standbys: int


def leaders(statuses: Mapping[str, Status]) -> list[str]:
    """Who says that it leads."""
    return sorted(name for name, status in statuses.items() if status["is_leader"])


def unsettled(statuses: Mapping[str, Status], nodes: Sequence[str], wanted: WantedRoles) -> str:
    """Why the roles are not at rest; empty when they are. `nodes`: all that there are."""
    absent = [name for name in nodes if name not in statuses]
    if absent:
        return f"{', '.join(absent)} does not answer"
    leading = leaders(statuses)
    if len(leading) != 1:
        return f"{len(leading)} leaders"
    view = statuses[leading[0]]
    members = list(view["members"])
    if len(members) != len(nodes):
        return f"{len(members)} members where there are {len(nodes)} nodes"
    apart = [m["address"] for m in members if not m["connected"] or not m.get("reachable", True)]
    if apart:
        return f"{', '.join(map(str, apart))} is not online"
    followers = [name for name in nodes if statuses[name]["leader_id"] != view["leader_id"]]
    if followers:
        return f"{', '.join(followers)} does not follow the leader"
    of = {role: [m for m in members if m["role"] == role] for role in (VOTER, STANDBY, SPARE)}
    if not any(m["id"] == view["leader_id"] for m in of[VOTER]):
        return "the leader has no vote"
    return _numbers(of, wanted) or _crowded(of[VOTER], of[STANDBY] + of[SPARE], "voters")


def _numbers(of: Mapping[str, Sequence[Status]], wanted: WantedRoles) -> str:
    count = sum(len(members) for members in of.values())
    voters = wanted.voters if count >= wanted.voters else count if count <= 2 or count % 2 else count - 1
    if len(of[VOTER]) != voters:
        return f"{len(of[VOTER])} voters where {voters} are wanted"
    standbys = min(wanted.standbys, count - voters)
    if len(of[STANDBY]) != standbys:
        return f"{len(of[STANDBY])} stand-bys where {standbys} are wanted, {len(of[SPARE])} spares"
    return ""


def _crowded(chosen: Sequence[Status], others: Sequence[Status], what: str) -> str:
    """A domain with at least two more of `chosen` than another one that has somebody to take a place."""
    count = Counter(m["domain"] for m in chosen)
    for domain, crowd in sorted(count.items()):
        for room in sorted({m["domain"] for m in others}):
            if count[room] + 1 < crowd:
                return f"domain {domain} has {crowd} {what}, domain {room} has {count[room]} and a member for one"
    return ""


def arrangement(statuses: Mapping[str, Status]) -> dict[str, str]:
    """Address to role as the leader has it; empty without one leader."""
    leading = leaders(statuses)
    if len(leading) != 1:
        return {}
    return {str(m["address"]): str(m["role"]) for m in statuses[leading[0]]["members"]}


def check_roles(
    looks: Sequence[Mapping[str, Status]], nodes: Sequence[str], wanted: WantedRoles, waited_s: float
) -> Verdict:
    """Of the last looks at a healed cluster: each must be settled, and all must show the same roles."""
    if not looks:
        return Verdict("roles", None, "nobody looked")
    details = {"wanted": [wanted.voters, wanted.standbys], "roles": [arrangement(look) for look in looks]}
    for look in looks:
        trouble = unsettled(look, nodes, wanted)
        if trouble:
            return Verdict("roles", False, f"not settled after {waited_s:.1f} s: {trouble}", details)
    if any(arrangement(look) != arrangement(looks[0]) for look in looks):
        return Verdict("roles", False, "settled, and then changed again though nothing happened", details)
    return Verdict("roles", True, f"as wanted {waited_s:.1f} s after the last fault, and at rest", details)
