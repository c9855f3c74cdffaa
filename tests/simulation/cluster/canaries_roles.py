"""Canaries of roles and addresses: one rule switched off each, with the guards below it where it has any."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

from dqlite_py.model import Role
from dqlite_py.node.address_changes import AddressChanges
from dqlite_py.node.membership import Membership
from dqlite_py.node.role_manager import RoleManager
from dqlite_py.raft import roles as roles_module
from dqlite_py.raft.core import RaftCore
from dqlite_py.raft.roles import Action, Change, Presence
from tests.simulation.cluster.canaries import Canary
from tests.simulation.cluster.canaries_patches import replaced
from tests.simulation.cluster.plans import Mixture

KEPT: Final = Mixture({"change numbers": 0.5, "dead for long": 0.3, "transfer": 0.2})
DYING: Final = Mixture({"change numbers": 1.0, "dead for long": 0.6})
PLACED: Final = Mixture({"set address": 1.0, "moved": 0.1})
JOINING: Final = Mixture({"change numbers": 0.3, "remove and rejoin": 0.4, "slow disk": 1.0})


def demote_first() -> AbstractContextManager[None]:
    """A voter that is gone loses its vote before somebody else has one."""
    fill = roles_module._Roles._fill_voters

    def drops_first(self: Any) -> Change | None:
        gone = [m for m in self._voters if not m.is_lasting and m.id != self._leader]
        able = [m for m in gone if self._keeps_quorum_without(m)]
        if able:
            return Change(Action.ASSIGN, able[0].id, Role.SPARE, "it is gone")
        return fill(self)

    return replaced((roles_module._Roles, "_fill_voters", drops_first))


def guard_ignored() -> AbstractContextManager[None]:
    """Nobody looks whether the voters that stay are there: not the choice who goes, nor the decision, the change, the
    core."""

    async def does_not_look(self: Any, *_args: Any) -> None:
        pass

    def blindly(_self: Any, member: Any) -> tuple[int, int]:
        return (-member.weight, -member.id)

    return replaced(
        (roles_module._Roles, "_burden_as_voter", blindly),
        (roles_module, "has_quorum", lambda _members: True),
        (Membership, "_check_quorum_without", does_not_look),
        (RaftCore, "_check_quorum_survives", lambda _self, _new: None),
    )


def patience_ignored() -> AbstractContextManager[None]:
    """Whoever cannot be reached is gone."""
    presence = RoleManager._presence

    def impatient(self: Any, node_id: Any, gone_after_ms: int) -> Presence:
        found = presence(self, node_id, gone_after_ms)
        return Presence.GONE if found is Presence.AWAY else found

    return replaced((RoleManager, "_presence", impatient))


def learner_behind() -> AbstractContextManager[None]:
    """A stand-by gets a vote as soon as it is connected, whatever it has of the log."""
    return replaced(
        (Membership, "is_caught_up", lambda self, node_id: self._is_connected(node_id)),
        (RaftCore, "_check_caught_up", lambda _self, _node_id: None),
    )


def address_unproved() -> AbstractContextManager[None]:
    """Nobody looks who answers at an address."""

    async def believes(_self: Any, _node_id: Any, address: Any, _deadline: Any) -> Any:
        return address

    return replaced((AddressChanges, "_prove", believes))


ROLES: Final[dict[str, Canary]] = {
    "demote before promote": Canary(
        "", "a voter that is gone is demoted before another has its vote", demote_first, faults=KEPT, node_count=5,
        seed=1,
    ),
    "guard ignored": Canary(
        "", "roles change though the voters that stay are no majority", guard_ignored, faults=DYING, node_count=5,
        seed=21,
    ),
    "patience ignored": Canary(
        "", "a voter is replaced as soon as it is away", patience_ignored, faults=KEPT, node_count=5, seed=2
    ),
    "learner behind": Canary(
        "", "a member without the log gets a vote", learner_behind, faults=JOINING, node_count=5, short_log=True,
        operations_per_s=60.0
    ),
    "address unproved": Canary(
        "", "a member gets the address that an operator says, whoever is there", address_unproved, faults=PLACED,
        node_count=3, operations_per_s=5.0, scratch_per_s=0.0
    ),
}  # fmt: skip
