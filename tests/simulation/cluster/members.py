"""Odd requests about members, as people and their tools make them: each must end, and its outcome must be true."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.errors import Error, MembershipRefused, NotLeader, Outcome
from dqlite_py.model import NodeId
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline
from tests.simulation.cluster.checks_members import Removal

if TYPE_CHECKING:
    from tests.simulation.cluster.machine import Machine
    from tests.simulation.cluster.world import World

NOBODY: Final = 7  # ids are random numbers of 63 bits
DEADLINE_S: Final = 3.0


def outcome_of(error: BaseException | None) -> str:
    if error is None:
        return "acknowledged"
    is_certain = isinstance(error, Error) and error.outcome is Outcome.NOT_APPLIED
    return "failed" if is_certain else "unknown"


async def remove(runtime: NodeRuntime, node_id: int) -> Any:
    deadline = Deadline(DEADLINE_S)
    target = NodeId(node_id)
    return await runtime.writes.on_leader(
        "leader.remove", {"id": target}, deadline, lambda: runtime.membership.remove(target, deadline)
    )


class MemberRequests:
    """The operator's hand for what is asked wrongly, twice, or of the wrong node."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    def one(self, rng: random.Random) -> None:
        """Make one of them."""
        machine = self.world.any_up(rng, prefer_leader=0.6)
        if machine is None or not machine.serves:
            return
        self.count += 1
        rng.choice((self.join_again, self.remove_nobody, self.transfer_to_somebody, self.remove_the_last))(
            machine, rng
        )

    def join_again(self, machine: Machine, rng: random.Random) -> None:
        """A member that is known joins once more, at the address that it has."""
        runtime = machine.runtime
        members = runtime.core.configuration.members if runtime is not None else ()
        known = [
            (m, i) for m in self.world.machines for i in members if self.world.checks.node_id(m.name) == i.id
        ]
        if not known:
            return
        other, member = rng.choice(known)
        address = other.address

        async def join(r: NodeRuntime) -> None:
            await r.membership.join(member.id, member.address, Deadline(DEADLINE_S))

        def done(error: BaseException | None) -> None:
            if error is None and other.address == address:
                self.world.checks.members.joined(int(member.id), address)

        if member.address == address:
            self.world.operator.ask(machine, join, done)

    def remove_nobody(self, machine: Machine, _rng: random.Random) -> None:
        def done(error: BaseException | None) -> None:
            if machine.is_up and error is None:
                self.world.checks.fail(f"true outcomes: member {NOBODY} was removed, there is none")

        self.world.operator.remove(machine, NOBODY, done)

    def transfer_to_somebody(self, machine: Machine, rng: random.Random) -> None:
        """To a member that may be down, or to the leader itself, asked of a node that may not lead."""
        down = [m for m in self.world.machines if not m.is_up]
        target = self.world.checks.node_id(rng.choice(down or self.world.machines).name)
        if target is not None:
            self.world.operator.ask(machine, lambda r: r.transfer(NodeId(target), 2.0), lambda _: None)

    def remove_the_last(self, machine: Machine, _rng: random.Random) -> None:
        """Of a cluster of one: it must be refused."""
        node = self.world.checks.node_id(machine.name)
        if len(self.world.machines) != 1 or node is None:
            return

        def done(error: BaseException | None) -> None:
            if isinstance(error, Error) and not isinstance(error, MembershipRefused | NotLeader):
                return
            if error is None and machine.is_up:
                self.world.checks.fail("true outcomes: the last voter was removed")

        self.world.operator.remove(machine, node, done)


__all__ = ["MemberRequests", "Removal", "outcome_of", "remove"]
