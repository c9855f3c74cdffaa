"""Members: every change of the committed configuration was asked for, and what its callers were told is true.

A removal needs a request for that member that is under way or ended unknown: one that was told to have failed never
takes effect later, one that was acknowledged has taken effect already. A member's address is one that its machine has
had. (Joins and promotions are the product's own doing: a joining node asks until it is in.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dqlite_py.model import Configuration, Entry, Role
from dqlite_py.raft.membership import decode_configuration
from tests.simulation.cluster.checks_consensus import Fail


@dataclass(slots=True)
class Removal:
    """A request to remove a member. `removed_before`: how often that member had been removed when it began."""

    node: int
    removed_before: int
    is_open: bool = True  # it may take effect yet


@dataclass(slots=True)
class _Asked:
    requests: list[Removal] = field(default_factory=list)
    removed: int = 0


class MemberFacts:
    """Fed with committed configurations in the log's order, and with the operator's requests."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self.configuration = Configuration()
        self.changes = 0
        self._asked: dict[int, _Asked] = {}
        # Acknowledged and not seen yet: what is committed may be handed out a little later.
        self._owed: list[Removal] = []
        self._owed_joins: dict[int, str] = {}
        self._addresses: dict[int, dict[str, None]] = {}  # node id -> addresses that it has had
        self._held: set[tuple[int, str]] = set()  # (node id, address) of any committed configuration
        self._owed_addresses: dict[tuple[int, str], None] = {}

    def lives_at(self, node: int, address: str) -> None:
        """The node starts with this address."""
        self._addresses.setdefault(node, {})[address] = None

    def committed(self, entry: Entry) -> None:
        """A CONFIGURATION entry is applied for the first time anywhere."""
        before, now = self.configuration, decode_configuration(entry)
        self.configuration = now
        self.changes += 1
        if before.members and len(before.voters ^ now.voters) > 1:
            self._fail(f"members: entry {entry.index} changes voters from {before.voters} to {now.voters}")
        for member in before.members:
            if now.get(member.id) is None:
                self._removed(int(member.id), entry.index)
        for member in now.members:
            self._owed_joins.pop(int(member.id), None)
            known = before.get(member.id)
            self._held.add((int(member.id), str(member.address)))
            self._owed_addresses.pop((int(member.id), str(member.address)), None)
            had = self._addresses.get(int(member.id))
            if had is not None and member.address not in had:
                self._fail(
                    f"members: entry {entry.index} gives {member.id} the address {member.address}, "
                    f"it was at {list(had)}"
                )
            if known is None and member.role is Role.VOTER and before.members:
                self._fail(f"members: entry {entry.index} adds {member.id} as a voter at once")

    def _removed(self, node: int, index: int) -> None:
        asked = self._asked.setdefault(node, _Asked())
        asked.removed += 1
        if not any(request.is_open for request in asked.requests):
            self._fail(
                f"true outcomes: entry {index} removes member {node}; of {len(asked.requests)} requests none may still "
                "take effect"
            )

    # -- requests --------------------------------------------------------------------------------------------

    def removal_began(self, node: int) -> Removal:
        asked = self._asked.setdefault(node, _Asked())
        request = Removal(node, asked.removed)
        asked.requests.append(request)
        return request

    def removal_ended(self, request: Removal, outcome: str, error: str = "") -> None:
        """`outcome`: acknowledged, failed or unknown."""
        if outcome == "unknown":
            return
        asked = self._asked[request.node]
        if outcome == "acknowledged" and asked.removed == request.removed_before:
            self._owed.append(request)
            return
        request.is_open = False
        if outcome == "failed" and asked.removed > sum(1 for r in asked.requests if r is not request):
            self._fail(f"true outcomes: removing {request.node} failed ({error}), but it is removed")

    def joined(self, node: int, address: str) -> None:
        """A join of this member was acknowledged."""
        member = self.configuration.get(node)  # type: ignore[arg-type]
        if member is None:
            self._owed_joins[node] = address

    def addresses_of(self, node: int) -> list[str]:
        """Where it is, and has been."""
        return list(self._addresses.get(node, ()))

    def address_set(self, node: int, address: str) -> None:
        """An operator was told that the member has this address now."""
        if (node, address) not in self._held:
            self._owed_addresses[node, address] = None

    # -- the end ---------------------------------------------------------------------------------------------

    def final(self, expected: dict[int, str]) -> None:
        """After all faults: exactly these nodes are voters, each at its address."""
        for request in self._owed:
            if self._asked[request.node].removed == request.removed_before:
                self._fail(
                    f"true outcomes: {request.node} was said to be removed, no committed entry says so"
                )
        for node, address in self._owed_joins.items():
            self._fail(
                f"true outcomes: {node} at {address} was said to be a member, no committed entry says so"
            )
        for node, address in self._owed_addresses:
            self._fail(f"true outcomes: {node} was said to be at {address}, no committed entry says so")
        found = {int(m.id): str(m.address) for m in self.configuration.members if m.role is Role.VOTER}
        if found != expected or len(self.configuration.members) != len(expected):
            self._fail(
                f"members: the configuration is {self.configuration.to_wire()}, the nodes are {expected}"
            )
