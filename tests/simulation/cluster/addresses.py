"""Addresses as an operator sets them, and the worlds that have it: of any member, asked of any node, right or wrong.

Drawn from random numbers of their own, so that worlds without it are what they were.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from dqlite_py.model import Address, NodeId
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline

if TYPE_CHECKING:
    from tests.simulation.cluster.machine import Machine
    from tests.simulation.cluster.world import World

SET_ADDRESS: Final = "set address"
MOVED: Final = "moved"
SHARE: Final = 0.2  # of the worlds
PER_S: Final = (0.3, 2.0)
MOVED_PER_S: Final = (0.05, 0.3)  # else there is nothing to set
DEADLINE_S: Final = 3.0
NOWHERE: Final = "10.9.9.9:9000"
ITS_OWN: Final = 0.5  # shares of what is asked for
BEFORE: Final = 0.2
OF_ANOTHER: Final = 0.2


def rates(seed: int) -> dict[str, float]:
    """What a seed has of it, by the fault's name."""
    rng = random.Random(f"addresses {seed}")
    if rng.random() >= SHARE:
        return {}
    return {SET_ADDRESS: rng.uniform(*PER_S), MOVED: rng.uniform(*MOVED_PER_S)}


class AddressRequests:
    """The operator's hand for addresses."""

    def __init__(self, world: World) -> None:
        self.world = world

    def one(self, rng: random.Random) -> None:
        """Set somebody's address: where it is, where it was, where another is, or where nobody is."""
        asked = self.world.any_up(rng, prefer_leader=0.4)
        target = rng.choice(self.world.machines)
        node = self.world.checks.node_id(target.name)
        if asked is not None and asked.serves and node is not None:
            self.set(asked, node, self._drawn(rng, target, node))

    def _drawn(self, rng: random.Random, target: Machine, node: int) -> str:
        kind = rng.random()
        if kind < ITS_OWN:
            return target.address
        if kind < ITS_OWN + BEFORE:
            return rng.choice(self.world.checks.members.addresses_of(node) or [target.address])
        if kind < ITS_OWN + BEFORE + OF_ANOTHER:
            return rng.choice(self.world.machines).address
        return NOWHERE

    def set(self, asked: Machine, node_id: int, address: str) -> None:
        members = self.world.checks.members
        known = members.configuration.get(NodeId(node_id))
        before = None if known is None else str(known.address)

        async def ask(runtime: NodeRuntime) -> None:
            end, target = Deadline(DEADLINE_S), NodeId(node_id)
            await runtime.writes.on_leader(
                "leader.set_address",
                {"id": target, "address": address},
                end,
                lambda: runtime.presence.addresses.set(target, Address(address), end),
            )

        def told(error: BaseException | None) -> None:
            if error is None:
                members.address_set(node_id, address)
                self.world.coverage.hit("address set anew" if address != before else "address set again")

        self.world.operator.ask(asked, ask, told)
