"""Roles as an operator changes them, and the worlds that have it: any member, any role, asked of any node.

Drawn from random numbers of their own, so that worlds without it are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.model import NodeId, Role
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline

if TYPE_CHECKING:
    from tests.simulation.cluster.machine import Machine
    from tests.simulation.cluster.world import World

ASSIGN: Final = "assign"
SHARE: Final = 0.3  # of the worlds
PER_S: Final = (0.3, 2.0)
DEADLINE_S: Final = 3.0
RESTORE_S: Final = 1.0


def rates(seed: int) -> dict[str, float]:
    """What a seed has of it, by the fault's name."""
    rng = random.Random(f"roles {seed}")
    return {ASSIGN: rng.uniform(*PER_S)} if rng.random() < SHARE else {}


async def assign(runtime: NodeRuntime, node_id: int, role: Role) -> Any:
    deadline = Deadline(DEADLINE_S)
    target = NodeId(node_id)
    body = {"id": target, "role": role.name.lower(), "timeout_s": DEADLINE_S}
    return await runtime.writes.on_leader(
        "leader.assign", body, deadline, lambda: runtime.membership.assign(target, role, deadline)
    )


class RoleRequests:
    """The operator's hand for roles."""

    def __init__(self, world: World) -> None:
        self.world = world

    def one(self, rng: random.Random) -> None:
        """Give somebody some role; never so that those who can vote are no majority of the machines' data."""
        machine = self.world.any_up(rng, prefer_leader=0.4)
        nodes = [node for m in self.world.machines if (node := self.world.checks.node_id(m.name))]
        if machine is None or not machine.serves or not nodes:
            return
        self.assign(machine, rng.choice(nodes), rng.choice((Role.VOTER, Role.STANDBY, Role.SPARE)))

    def assign(
        self,
        machine: Machine,
        node_id: int,
        role: Role,
        done: Callable[[BaseException | None], None] = lambda _: None,
    ) -> None:
        def told(error: BaseException | None) -> None:
            if error is None:
                self.world.coverage.hit(f"assigned {role.name.lower()}")
            done(error)

        self.world.operator.ask(machine, lambda r: assign(r, node_id, role), told)

    def restore(self) -> None:
        """After all: everybody votes again. Asks until it is so."""
        for member in self.world.checks.members.configuration.members:
            leader = self.world.leader()
            if member.role is Role.SPARE and leader is not None:
                self.assign(leader, int(member.id), Role.VOTER)
        self.world.scheduler.call_later(RESTORE_S, self.restore)
