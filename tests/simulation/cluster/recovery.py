"""After the last fault: everybody becomes sound, serves and is equal within a bounded simulated time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dqlite_py.gateway import ReadLevel
from tests.simulation.cluster.checks import SafetyViolation
from tests.simulation.cluster.checks_scratch import SCRATCH
from tests.simulation.cluster.clients import rows_of
from tests.simulation.cluster.followers import Follower
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.scratch import marks_of
from tests.simulation.cluster.transactions import check_tables

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

HEAL_LIMIT_S: Final = 60.0
SERVE_LIMIT_S: Final = 10.0
OPERATION_LIMIT_S: Final = 6.0
TRANSACTION_LIMIT_S: Final = 20.0
FOLLOW_LIMIT_S: Final = 20.0
ANSWER_LIMIT_S: Final = 10.0
CALM_S: Final = 5
ROLES_LIMIT_S: Final = 10.0


class Recovery:
    """Of one world, whose faults have ended."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self) -> None:
        """Raises SafetyViolation."""
        self.world.scheduler.call_later(1.0, self._replace_damaged)
        self.world.run_until(lambda: not self.world.roles.may_act_yet(), ROLES_LIMIT_S)
        self._settle_roles()
        self.world.scheduler.call_later(0.5, self.world.roles.restore)
        if not self.world.run_until(
            lambda: (
                self.world.all_sound() and self._all_found() and all(m.serves for m in self.world.machines)
            ),
            HEAL_LIMIT_S,
        ):
            raise SafetyViolation(
                f"not sound {HEAL_LIMIT_S:.0f} s after the last fault: {self.world.describe()}"
            )
        self.world.stop_load()
        if not self.world.run_until(
            lambda: (
                all(c.is_idle for c in self.world.clients)
                and all(s.is_idle for s in self.world.scratch)
                and all(r.is_idle for r in self.world.reading)
            ),
            OPERATION_LIMIT_S,
        ):
            raise SafetyViolation("operations do not end")
        if not self.world.run_until(
            lambda: all(client.is_idle for client in self.world.transacting), TRANSACTION_LIMIT_S
        ):
            raise SafetyViolation("transactions do not end")
        for machine in self.world.machines:
            self._write_through(machine)
            if self.world.transacting:
                self._transact_through(machine)
            if self.world.reading:
                self._read_through(machine)
        for machine in self.world.machines:
            for follower in self.world.followers:
                self._follow_through(machine, follower)
        if self.world.scale.scratch_per_s:
            for machine in self.world.machines:
                self._scratch_through(machine)
        if not self.world.run_until(self._all_equal, 20.0):
            raise SafetyViolation(f"the nodes do not become equal: {self.world.describe()}")
        if not self.world.run_until(lambda: not self._unanswered(), ANSWER_LIMIT_S):
            raise SafetyViolation(
                f"callers: nobody asks any more, but these wait for an answer: {self._unanswered()}"
            )
        contents: dict[str, dict[str, list[Any]]] = {}
        for machine in self.world.machines:
            assert machine.life is not None
            machine.life.run(lambda m=machine: contents.__setitem__(m.name, rows_of(m.life)))
        self.world.checks.final(contents)
        if self.world.transacting:
            for machine in self.world.machines:
                assert machine.life is not None
                machine.life.run(check_tables, self.world, machine)
        marks: dict[str, dict[str, list[Any]]] = {}
        for machine in self.world.machines:
            assert machine.life is not None
            machine.life.run(lambda m=machine: marks.__setitem__(m.name, marks_of(m.life)))
        self.world.checks.scratch.final(marks)
        self.world.checks.members.final(
            {self.world.checks.node_id(m.name) or 0: m.address for m in self.world.machines}
        )

    def _settle_roles(self) -> None:
        """Where they are kept automatically they come to rest, and stay so."""
        world = self.world
        if world.checks.members.configuration.settings is None:
            return
        calm = 0
        end = world.scheduler.now + HEAL_LIMIT_S
        while calm < CALM_S:
            if world.scheduler.now >= end:
                raise SafetyViolation(f"the roles do not settle: {world.describe()}")
            before = world.checks.members.changes
            world.run_for(1.0)
            calm = calm + 1 if world.roles.settled() and world.checks.members.changes == before else 0
        world.coverage.hit("roles settled")

    def _unanswered(self) -> dict[str, list[str]]:
        """Per machine what callers wait for, where it is anything."""
        found = {m.name: self.world.checks.callers.unanswered(m.name) for m in self.world.machines}
        return {name: waiting for name, waiting in found.items() if waiting}

    def _all_found(self) -> bool:
        """The configuration has every machine's present address."""
        held = {str(m.address) for m in self.world.checks.members.configuration.members}
        return held == {m.address for m in self.world.machines}

    def _replace_damaged(self) -> None:
        """What the operator does when all is over: who lost data, or has damage that nobody read yet, is replaced."""
        leader = self.world.leader()
        lost = leader.runtime.core._lost_data if leader is not None and leader.runtime is not None else set()
        for machine in self.world.machines:
            if (
                self.world.checks.may_be_damaged(machine.name)
                or self.world.checks.node_id(machine.name) in lost
            ):
                self.world.operator.replace(machine)
        self.world.scheduler.call_later(1.0, self._replace_damaged)

    def _scratch_through(self, machine: Machine) -> None:
        """Databases can be opened, written, read and dropped through this node."""
        client = self.world.scratch[0]
        for database in SCRATCH:
            for kind in ("open", "write", "read", "drop")[: self.world.rng.choice((3, 4))]:
                end = self.world.scheduler.now + SERVE_LIMIT_S
                while True:
                    asked = client.begin(machine, kind, database)
                    self.world.run_until(lambda: client.is_idle, 10.0, 0.01)
                    if asked is not None and asked.outcome == "acknowledged":
                        break
                    self.world.run_for(0.1)
                    if self.world.scheduler.now >= end:
                        raise SafetyViolation(
                            f"{machine.name} does not serve {database}: {asked}; {self.world.describe()}"
                        )

    def _read_through(self, machine: Machine) -> None:
        """This node serves reads of every level soon."""
        client = self.world.reading[0]
        for level in ReadLevel:
            end = self.world.scheduler.now + SERVE_LIMIT_S
            while True:
                read = client.begin(machine, level)
                self.world.run_until(lambda: client.is_idle, OPERATION_LIMIT_S, 0.01)
                if read is not None and read.outcome == "answered":
                    break
                self.world.run_for(0.1)
                if self.world.scheduler.now >= end:
                    raise SafetyViolation(f"{machine.name} does not serve {read}; {self.world.describe()}")

    def _follow_through(self, machine: Machine, follower: Follower) -> None:
        """This node tells a consumer everything there is, or where to start again."""
        consumer, streams = follower.consumer, self.world.checks.clients.streams
        goal = streams.newest(consumer.database)
        if machine is self.world.machines[0]:
            self.world.run_until(lambda: follower.is_idle, FOLLOW_LIMIT_S)  # it has stayed elsewhere
        else:
            consumer.position = min(
                consumer.position, streams.before(consumer.database, goal, self.world.rng)
            )
        end = self.world.scheduler.now + FOLLOW_LIMIT_S
        follower.goal = goal
        while consumer.position < goal:
            if follower.is_idle:
                follower.begin(machine, SERVE_LIMIT_S)
            self.world.run_for(0.02)
            if self.world.scheduler.now >= end:
                raise SafetyViolation(
                    f"changes: {machine.name} has told {consumer} nothing up to {goal}; {self.world.describe()}"
                )
        if not self.world.run_until(lambda: follower.is_idle, FOLLOW_LIMIT_S, 0.01):
            raise SafetyViolation(f"changes: a stream at {machine.name} does not end")

    def _transact_through(self, machine: Machine) -> None:
        """A transaction begun at this node commits soon."""
        client = self.world.transacting[0]
        for kind in ("immediate", "deferred"):
            end = self.world.scheduler.now + SERVE_LIMIT_S
            while True:
                transacted = client.begin(machine, kind, is_plain=True)
                if not self.world.run_until(lambda: client.is_idle, TRANSACTION_LIMIT_S, 0.01):
                    raise SafetyViolation(f"a transaction at {machine.name} does not end after the storm")
                if transacted is not None and transacted.outcome == "acknowledged":
                    break
                self.world.run_for(0.1)
                if self.world.scheduler.now >= end:
                    raise SafetyViolation(
                        f"{machine.name} commits no transaction: {transacted}; {self.world.describe()}"
                    )

    def _write_through(self, machine: Machine) -> None:
        """A new write and a read through this node succeed soon."""
        client = self.world.clients[0]
        for kind in ("write", "read", "stale"):
            end = self.world.scheduler.now + SERVE_LIMIT_S
            while True:
                before = client.acknowledged_count
                client.begin(machine, kind, timeout_s=5.0)
                if not self.world.run_until(lambda: client.is_idle, 10.0, 0.01):
                    raise SafetyViolation(f"no answer from {machine.name} after the storm")
                if client.acknowledged_count > before:
                    break
                self.world.run_for(0.1)
                if self.world.scheduler.now < end:
                    continue
                raise SafetyViolation(
                    f"{machine.name} does not serve after the storm: {self.world.describe()}"
                )

    def _all_equal(self) -> bool:
        applied = []
        for machine in self.world.machines:
            runtime = machine.runtime
            if runtime is None:
                return False
            hashes = {n: w.last_hash for n, w in runtime.applier().workers.items()}
            applied.append(
                (runtime.applier().applied_index, runtime.core.commit_index, sorted(hashes.items()))
            )
        return all(a == applied[0] for a in applied) and applied[0][0] == applied[0][1]
