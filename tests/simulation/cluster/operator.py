"""The operator of a simulated cluster: what people and their tools do to it, right or after damage.

Takes members out and lets them join again, replaces machines whose data is lost or damaged, transfers leadership,
compacts. Acts through running nodes only, as commands do.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dqlite_py.errors import Error, MembershipRefused, NodeStopped, OutcomeUnknown
from dqlite_py.model import NodeId
from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.members import outcome_of, remove

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

log = logging.getLogger("simulation")
ROTTEN = ("journal", "journal", "database", "database", "hardstate", "manifest", "current", "wal")
RETRY_S = 0.3
LEADERLESS_S = 8.0  # longer than any election under faults


class Operator:
    """`mending`: machines that wait for their old member's removal, with its node id."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.mending: dict[str, int] = {}
        self._leaderless_since: dict[str, float] = {}  # machines that are down meanwhile
        self.crash_next_creation: int | None = None  # at that disk operation of a wiped machine's next life

    def replace(self, machine: Machine) -> None:
        """A machine whose data is lost: remove the old member, wipe, join as a new one."""
        old_id = self.world.checks.node_id(machine.name)
        if machine.name in self.mending:
            return
        if old_id is None:
            self.world.scheduler.call_later(0.01, self._wipe_and_start, machine)
            return
        self.mending[machine.name] = old_id
        self._try_to_remove(machine, old_id)

    def _try_to_remove(self, machine: Machine, old_id: int) -> None:
        def again() -> None:
            self._start_if_nobody_leads(machine)
            self.world.scheduler.call_later(RETRY_S, self._try_to_remove, machine, old_id)

        def done(error: BaseException | None) -> None:
            helper = self._member_somewhere(old_id)
            if error is None or (isinstance(error, MembershipRefused) and helper is False):
                # Not at once: a process that still runs may hear of it.
                delay_s = self.world.rng.choice((0.0, 2.0))
                self.world.scheduler.call_later(delay_s, self._removed, machine)
            else:
                again()

        other = next((m for m in self.world.machines if m is not machine and m.serves), None)
        if other is None or other.life is None or other.runtime is None:
            again()
            return
        self.remove(other, old_id, done)

    def _start_if_nobody_leads(self, machine: Machine) -> None:
        """It may have become the only voter after its removal was decided; it has its data until it is removed."""
        if self.world.leader() is not None or machine.is_up:
            self._leaderless_since.pop(machine.name, None)
            return
        since = self._leaderless_since.setdefault(machine.name, self.world.scheduler.now)
        if self.world.scheduler.now - since > LEADERLESS_S and not self.world.checks.may_be_damaged(
            machine.name
        ):
            log.info("%s starts again: nobody else leads", machine.name)
            self.world.coverage.hit("started though to be removed")
            machine.start(self.world.others_of(machine))

    def _removed(self, machine: Machine) -> None:
        self.mending.pop(machine.name, None)
        self._wipe_and_start(machine)

    def _member_somewhere(self, node_id: int) -> bool:
        """Whether the leader still has this member."""
        leader = self.world.leader()
        runtime = leader.runtime if leader is not None else None
        return runtime is None or runtime.core.configuration.get(NodeId(node_id)) is not None

    def _wipe_and_start(self, machine: Machine) -> None:
        if machine.is_up:
            machine.crash(lose_unsynced=False)
        machine.disk.wipe()
        self.world.checks.wiped(machine.name)
        self.world.restart_later(machine, 0.1, crash_within=self.crash_next_creation)
        self.crash_next_creation = None

    def remove_member(self, machine: Machine) -> None:
        """Take a member out and let it join again, empty."""
        if len(self.world.machines) < 3 or not self.world.all_sound():
            return
        node_id = self.world.checks.node_id(machine.name)
        if node_id is None:
            return
        self.mending[machine.name] = node_id
        if self.world.rng.random() < 0.5:
            machine.crash(lose_unsynced=False)
        self._try_to_remove(machine, node_id)

    def wipe(self, rng: random.Random) -> None:
        if len(self.world.machines) >= 3 and self.world.all_sound():
            machine = rng.choice(self.world.machines)
            machine.crash(lose_unsynced=True)
            self.replace(machine)

    def rot(self, rng: random.Random) -> None:
        """A bit of a stopped machine's files turns."""
        machine = rng.choice(self.world.machines)
        if len(self.world.machines) >= 3 and self.world.all_sound() and self._others_hold(machine):
            machine.crash(lose_unsynced=False)
            self.world.checks.damaged(machine.name)
            self.world.scheduler.call_later(0.01, self._rot_and_start, machine)

    def _others_hold(self, machine: Machine) -> bool:
        """Whether all others have what it has on disk: damage to a journal's newest group cannot be told from a torn
        write (docs/decisions/0004), so that the machine may forget it."""
        runtime = machine.runtime
        others = [other.runtime for other in self.world.machines if other is not machine]
        return runtime is not None and all(
            other is not None and other.opened.journal.last_index >= runtime.core.last_index
            for other in others
        )

    def _rot_and_start(self, machine: Machine) -> None:
        found = machine.disk.rot_some(self.world.rng.choice(ROTTEN), self.world.rng)
        log.info("rot: %s", found)
        self.world.restart_later(machine, 0.1)

    def remove(self, asked: Machine, node_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Ask this machine's node to remove a member; the checks hear what it said."""
        members = self.world.checks.members
        self.world.checks.roles.asked_away(node_id)
        request = members.removal_began(node_id)

        def told(error: BaseException | None) -> None:
            members.removal_ended(request, outcome_of(error), str(error))
            done(error)

        self.ask(asked, lambda r: remove(r, node_id), told)

    def ask(
        self,
        machine: Machine,
        work: Callable[[NodeRuntime], Any],
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Run a coroutine on a node's loop; `done` hears its error."""
        life, runtime = machine.life, machine.runtime
        if life is None or runtime is None or life.loop is None:
            done(NodeStopped("nobody is there"))
            return
        told: list[bool] = []

        def tell(error: BaseException | None) -> None:
            if not told:
                told.append(True)
                done(error)

        async def run() -> None:
            try:
                await work(runtime)
            except Error as error:
                tell(error)
            else:
                tell(None)

        def begin() -> None:
            assert life.loop is not None
            life.loop.create_task(run())

        life.on_end.append(lambda: tell(OutcomeUnknown("the node's process ended")))
        life.run(begin)

    def transfer_leadership(self) -> None:
        leader = self.world.leader()
        if leader is not None:
            self.ask(leader, lambda r: r.transfer(None, 2.0), lambda _: None)

    def compact(self, machine: Machine) -> None:
        if machine.serves:
            self.ask(machine, lambda r: r.compaction.compact(), lambda _: None)
