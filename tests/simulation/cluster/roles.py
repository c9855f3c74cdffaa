"""Roles as an operator changes them, and the worlds that have it: any member, any role, asked of any node.

Drawn from random numbers of their own, so that worlds without it are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.model import Configuration, NodeId, Role, RoleSettings
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.roles import Action, Change
from tests.simulation.cluster.members import outcome_of

if TYPE_CHECKING:
    from tests.simulation.cluster.machine import Machine
    from tests.simulation.cluster.world import World

ASSIGN: Final = "assign"
SHARE: Final = 0.3  # of the worlds
PER_S: Final = (0.3, 2.0)
DEADLINE_S: Final = 3.0
SETTINGS: Final = 0.25  # shares of what an operator does
DESCRIBED: Final = 0.2
LEFT: Final = 0.15
RESTORE_S: Final = 1.0
LATE_S: Final = 1.0  # that a leader may take longer than a request's deadline


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


def drawn_settings(rng: random.Random) -> RoleSettings | None:
    kind = rng.random()
    if kind < 0.2:
        return None
    return RoleSettings(
        kind < 0.85, rng.choice((1, 3, 3, 5)), rng.choice((0, 1, 2)), rng.choice((1000, 1500, 3000))
    )


class RoleRequests:
    """The operator's hand for roles."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._until: list[list[float]] = []

    def may_act_yet(self) -> bool:
        """A request is under way, or its outcome is unknown and its time not over."""
        now = self.world.scheduler.now
        self._until = [end for end in self._until if end[0] > now]
        return bool(self._until)

    def _ask(
        self,
        machine: Machine,
        ask: Callable[[NodeRuntime], Any],
        done: Callable[[BaseException | None], None],
    ) -> None:
        end = [self.world.scheduler.now + DEADLINE_S + LATE_S]
        self._until.append(end)

        def told(error: BaseException | None) -> None:
            if outcome_of(error) != "unknown":
                end[0] = 0.0
            done(error)

        self.world.operator.ask(machine, ask, told)

    def one(self, rng: random.Random) -> None:
        """Change somebody's role, weight or domain, or what the roles are to be."""
        machine = self.world.any_up(rng, prefer_leader=0.4)
        nodes = [node for m in self.world.machines if (node := self.world.checks.node_id(m.name))]
        if machine is None or not machine.serves or not nodes:
            return
        kind = rng.random()
        if kind < SETTINGS:
            self.set_roles(machine, drawn_settings(rng))
        elif kind < SETTINGS + DESCRIBED:
            self.describe(
                machine, rng.choice(nodes), rng.choice((None, 0, 1, 2)), rng.choice((None, 0, 1, 2))
            )
        elif kind < SETTINGS + DESCRIBED + LEFT:
            self.leave(machine, rng.choice(nodes))
        else:
            self.assign(machine, rng.choice(nodes), rng.choice((Role.VOTER, Role.STANDBY, Role.SPARE)))

    def change_numbers(self, rng: random.Random) -> None:
        """Roles are kept automatically, with other numbers than before."""
        machine = self.world.any_up(rng, prefer_leader=0.4)
        if machine is not None and machine.serves:
            voters, standbys = rng.choice((1, 3, 3, 5)), rng.choice((0, 1, 2))
            self.set_roles(machine, RoleSettings(True, voters, standbys, rng.choice((1_000, 3_000))))

    def set_roles(
        self,
        machine: Machine,
        settings: RoleSettings | None,
        done: Callable[[BaseException | None], None] = lambda _: None,
    ) -> None:
        wire = Configuration(settings=settings).to_wire()[2] if settings is not None else None

        async def ask(runtime: NodeRuntime) -> None:
            end = Deadline(DEADLINE_S)
            await runtime.writes.on_leader(
                "leader.roles", {"settings": wire}, end, lambda: runtime.membership.set_roles(settings, end)
            )

        def told(error: BaseException | None) -> None:
            if error is None:
                self.world.coverage.hit(
                    "roles automatic" if settings and settings.automatic else "roles by hand"
                )
            done(error)

        self._ask(machine, ask, told)

    def leave(
        self, machine: Machine, node_id: int, done: Callable[[BaseException | None], None] = lambda _: None
    ) -> None:
        self.world.checks.roles.asked_away(node_id)

        async def ask(runtime: NodeRuntime) -> None:
            end, target = Deadline(DEADLINE_S), NodeId(node_id)
            body = {"id": target, "timeout_s": DEADLINE_S}
            await runtime.writes.on_leader(
                "leader.leave", body, end, lambda: runtime.membership.leave(target, end)
            )

        def told(error: BaseException | None) -> None:
            if error is None:
                self.world.coverage.hit("member left its role")
            done(error)

        self._ask(machine, ask, told)

    def describe(self, machine: Machine, node_id: int, weight: int | None, domain: int | None) -> None:
        async def ask(runtime: NodeRuntime) -> None:
            end, target = Deadline(DEADLINE_S), NodeId(node_id)
            await runtime.writes.on_leader(
                "leader.describe",
                {"id": target, "weight": weight, "domain": domain},
                end,
                lambda: runtime.membership.describe(target, end, weight=weight, domain=domain),
            )

        self._ask(machine, ask, lambda _: None)

    def settled(self) -> bool:
        """Roles that are kept automatically are as they are to be; True where they are not."""
        leader = self.world.leader()
        runtime = leader.runtime if leader is not None else None
        if runtime is None or runtime.core.configuration.index > runtime.core.commit_index:
            return False
        configuration = runtime.core.configuration
        settings = configuration.settings
        if settings is None or not settings.automatic:
            return True
        if len(configuration.members) != len(self.world.machines):
            return False
        found: list[Change | None] = []
        assert leader is not None
        assert leader.life is not None
        leader.life.run(lambda: found.append(self._next(runtime, configuration)))
        change = found[0] if found else None
        aim = min(settings.voters, len(configuration.members))
        aim = aim if aim <= 2 or aim % 2 else aim - 1
        return change is not None and change.action is Action.NOTHING and len(configuration.voters) == aim

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

        if role is not Role.VOTER:
            self.world.checks.roles.asked_away(node_id)
        self._ask(machine, lambda r: assign(r, node_id, role), told)

    @staticmethod
    def _next(runtime: NodeRuntime, configuration: Configuration) -> Change | None:
        """What there is to do; None: somebody is leaving yet."""
        if any(not end.passed for end in runtime.membership.leaving.values()):
            return None
        return runtime.role_manager.next_change(configuration)

    def restore(self) -> None:
        """After all: everybody votes again. Asks until it is so."""
        leader = self.world.leader()
        if leader is not None and self.world.checks.members.configuration.settings is not None:
            self.set_roles(leader, None)
        for member in self.world.checks.members.configuration.members:
            leader = self.world.leader()
            if member.role is Role.SPARE and leader is not None:
                self.assign(leader, int(member.id), Role.VOTER)
        self.world.scheduler.call_later(RESTORE_S, self.restore)
