"""A whole simulated cluster: machines, network, clients, an operator who mends, faults from one seed, and healing.

`World.storm` is one run: a cluster is formed, lives under its mixture of faults while clients write and read, then
everything heals; within a bounded simulated time it must be live again with all nodes equal. Checks run throughout.
"""

from __future__ import annotations

import gc
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw

from dqlite_py.errors import Error
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.raft.core import RaftCore
from tests.simulation.cluster import addresses as addresses_module
from tests.simulation.cluster import machine as machines_module
from tests.simulation.cluster import roles as roles_module
from tests.simulation.cluster import seams
from tests.simulation.cluster.checks import Checks, SafetyViolation
from tests.simulation.cluster.checks_freshness import FreshnessWatch
from tests.simulation.cluster.checks_transactions import TRANSACTION_SCHEMA
from tests.simulation.cluster.clients import KINDS, SCHEMA, Client, create_tables, fill
from tests.simulation.cluster.coverage import Coverage
from tests.simulation.cluster.describe import described
from tests.simulation.cluster.disk import seed_sqlite, set_sqlite_time
from tests.simulation.cluster.followers import Follower
from tests.simulation.cluster.injection import Injection
from tests.simulation.cluster.life import Kernel
from tests.simulation.cluster.machine import NEEDS_OPERATOR, Environment, Machine
from tests.simulation.cluster.members import MemberRequests
from tests.simulation.cluster.network import NetworkFaults, SimNetwork
from tests.simulation.cluster.operator import Operator
from tests.simulation.cluster.plans import Mixture, mixture
from tests.simulation.cluster.readers import LevelReader, Tokens
from tests.simulation.cluster.recovery import Recovery
from tests.simulation.cluster.remote import RemoteCaller
from tests.simulation.cluster.scale import Scale
from tests.simulation.cluster.scratch import ScratchClient
from tests.simulation.cluster.transactions import TransactionClient

log = logging.getLogger("simulation")
FORM_LIMIT_S = 60.0
TIMEOUT_S = 2.0
SENDING_MS = 100.0


class World:
    """Use `World.open(seed, ...)`."""

    def __init__(
        self, seed: int, folder: Path, node_count: int, plan: Mixture, scale: Scale, coverage: Coverage
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self.kernel = Kernel(random.Random(f"kernel {seed}"))
        self.scheduler = self.kernel.scheduler
        self.plan = plan
        self.scale = scale
        self.checks = checks = Checks()
        checks.on_violation = self.kernel.fail
        checks.now = self._now
        checks.roles.down_s = self._down_s
        self.coverage = coverage
        self.network = SimNetwork(self.scheduler, random.Random(f"network {seed}"), NetworkFaults())
        self.injection = Injection(self)
        self.operator = Operator(self)
        self.requests = MemberRequests(self)
        self.roles = roles_module.RoleRequests(self)
        self.addresses = addresses_module.AddressRequests(self)
        self.environment = Environment(
            self.kernel,
            folder,
            random.Random(f"machines {seed}"),
            on_runtime=[checks.attach, coverage.attach],
            on_exit=self._exited,
            scale=scale,
        )
        self.machines = [self._machine(i) for i in range(node_count)]
        self.remotes = [RemoteCaller(self, i) for i in range(2)]
        # The last ones ask from outside.
        outside = [None] * (1 + node_count) + self.remotes
        self.clients = [
            Client(
                i,
                random.Random(f"client {i} {seed}"),
                checks,
                self._now,
                scale.big_write_bytes,
                remote,
                scale.refused,
            )
            for i, remote in enumerate(outside)
        ]
        asking = (*self.remotes, self.remotes[0]) if scale.transactions_per_s else self.remotes
        self.scratch = [ScratchClient(self, i, remote) for i, remote in enumerate(asking)]
        self.freshness = FreshnessWatch(self._now, lambda name: self._named(name).went_on)
        readers = (None,) * 5 + (self.remotes[0],) if scale.levels_per_s else ()
        tokens = Tokens()
        self.reading = [LevelReader(self, i, tokens, remote) for i, remote in enumerate(readers)]
        if self.reading:
            self.environment.on_runtime.append(self.freshness.watch)
        self.followers = [Follower(self, i) for i in range(scale.followers)]
        self.transacting = [TransactionClient(self, i) for i in range(3 if scale.transactions_per_s else 0)]

    def _machine(self, index: int) -> Machine:
        ip = f"10.0.0.{index + 1}"
        return Machine(self.environment, f"n{index + 1}", ip, self.network.host(ip))

    def _down_s(self, node: int) -> float:
        machine = next((m for m in self.machines if self.checks.node_id(m.name) == node), None)
        return 0.0 if machine is None or machine.is_up else self._now() - machine.died_at

    def _named(self, name: str) -> Machine:
        return next(m for m in self.machines if m.name == name)

    def _now(self) -> float:
        return self.scheduler.now

    @classmethod
    @contextmanager
    def open(
        cls,
        seed: int,
        *,
        node_count: int | None = None,
        only: list[str] | None = None,
        extra_seams: list[tuple[str, str, Any]] | None = None,
    ) -> Iterator[World]:
        """A world whose every file, connection and replaced name is gone afterwards."""
        rng = random.Random(f"plan {seed}")
        drawn = rng.choice((1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 7))
        plan = mixture(rng, only)
        if only is None:
            own = roles_module.rates(seed) | addresses_module.rates(seed)
            plan = replace(plan, rates=plan.rates | own)
        scale = Scale.draw(rng)
        base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        folder = Path(tempfile.mkdtemp(prefix="dqlite-sim-", dir=base))
        gc_was_on = gc.isenabled()
        gc.collect()
        gc.disable()  # when it runs would depend on what ran before in this process
        coverage = Coverage()
        seed_sqlite(seed + 1)
        set_sqlite_time(1_750_000_000_000)
        try:
            rows = [*machines_module.seams(), *scale.rows(), *(extra_seams or [])]
            with seams.installed(rows), coverage.installed():
                world = cls(seed, folder, node_count or drawn, plan, scale, coverage)
                try:
                    yield world
                finally:
                    world.close()
        finally:
            seed_sqlite(0)
            set_sqlite_time(None)
            if gc_was_on:
                gc.enable()
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        for remote in self.remotes:
            remote.end()
        for machine in self.machines:
            life = machine.life
            if life is not None:
                machine.crash(lose_unsynced=False)
        self.kernel.violation = None
        with suppress(BaseException):
            self.scheduler.run_until(self.scheduler.now)  # unwinding of what ended itself
        for connection in apsw.connections():
            if str(connection.filename).startswith(str(self.environment.folder)):
                with suppress(apsw.Error):
                    connection.close(True)
        Kernel.current = None

    # -- time ------------------------------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        self.kernel.run_for(seconds)

    def run_until(self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> bool:
        end = self.scheduler.now + limit_s
        while not condition():
            if self.scheduler.now >= end:
                return False
            self.run_for(step_s)
        return True

    # -- machines --------------------------------------------------------------------------------------------------

    def any_up(self, rng: random.Random, prefer_leader: float = 0.0) -> Machine | None:
        up = [m for m in self.machines if m.is_up]
        leading = [m for m in up if m.runtime is not None and m.runtime.core.is_leader]
        if leading and rng.random() < prefer_leader:
            return leading[-1]
        return rng.choice(up) if up else None

    def machine_that_installs(self) -> Machine | None:
        """One that fetches or installs a snapshot at this moment."""
        for machine in self.machines:
            runtime = machine.runtime
            task = runtime.snapshot_install._task if machine.serves and runtime is not None else None
            if task is not None and not task.done():
                return machine
        return None

    def machine_that_sends(self) -> Machine | None:
        """One that makes a copy of its state for others, or has sent some of it just now."""
        for machine in self.machines:
            runtime = machine.runtime
            if not machine.serves or machine.life is None or runtime is None:
                continue
            source = runtime.snapshot_source
            if source._preparing is not None and not source._preparing.done():
                return machine
            lately_ms = machine.life.monotonic() * 1000 - SENDING_MS
            if any(copy.used_ms > lately_ms for copy in source._copies.values()):
                return machine
        return None

    def leader(self) -> Machine | None:
        """The ready leader of the highest term."""
        found: Machine | None = None
        for machine in self.machines:
            runtime = machine.runtime
            if machine.serves and runtime is not None and runtime.view.is_ready_leader:
                best = found.runtime if found is not None else None
                if best is None or runtime.core.term > best.core.term:
                    found = machine
        return found

    def start(self, machine: Machine) -> None:
        """Start its process, unless it runs or waits for the operator."""
        if not machine.is_up and machine.name not in self.operator.mending:
            machine.start(self.others_of(machine) if self._is_formed else [])

    def others_of(self, machine: Machine) -> list[str]:
        """The other machines' addresses."""
        return [m.address for m in self.machines if m is not machine]

    _is_formed = False

    def all_sound(self) -> bool:
        """Every machine has its data, is a voter, and nothing destroyed is still being mended."""
        if self.operator.mending:
            return False
        leader = self.leader()
        runtime = leader.runtime if leader is not None else None
        if runtime is None:
            return False
        voters = runtime.core.committed_configuration.voters
        if len(voters) != len(self.machines):
            return False
        commit = runtime.core.commit_index
        for member in voters:
            peer = runtime.core.peers.get(member)
            if member != runtime.node_id and (peer is None or peer.match_index + 20 < commit):
                return False
        return not any(self.checks.may_be_damaged(m.name) for m in self.machines)

    def restart_later(self, machine: Machine, delay_s: float, crash_within: int | None = None) -> None:
        def restart() -> None:
            self.start(machine)
            if crash_within is not None and machine.is_up:
                machine.crash_within(crash_within, lose_unsynced=True)
                self.watch_for_crash(machine, 0.3)

        self.scheduler.call_later(delay_s, restart)

    def watch_for_crash(self, machine: Machine, delay_s: float) -> None:
        """Start the machine again when it has crashed at its operation; give up the crash after a while."""
        life = machine.life
        end = self.scheduler.now + 3.0

        def look() -> None:
            if machine.life is not life:
                self.restart_later(machine, delay_s)
            elif self.scheduler.now > end or not self.injection.is_on:
                machine.disk.crash_after(None)
            else:
                self.scheduler.call_later(0.05, look)

        look()

    def _exited(self, machine: Machine, error: BaseException | None) -> None:
        """A process ended by itself: a supervisor starts it again, unless it said that an operator is needed."""
        if isinstance(error, NEEDS_OPERATOR):
            if not self.checks.may_be_damaged(machine.name):
                self.kernel.fail(SafetyViolation(f"{machine.name} refuses its sound folder: {error!r}"))
            self.coverage.hit("damage refused")
            self.operator.replace(machine)
            return
        if error is None:
            with suppress(SafetyViolation):  # it is kept
                self.checks.callers.ended(machine.name)
        self.restart_later(machine, self.rng.uniform(0.05, 1.0))

    def campaign(self, runtime: NodeRuntime) -> None:
        """Where leases are judged, not within the promise that they rest on: the product does that never."""
        core: RaftCore = runtime.core
        if self.reading and core._hears_leader():
            return
        if runtime.failed is None and not runtime.host._stopped:
            core.campaign(runtime.host._now())
            runtime.host.pump_soon()

    # -- clients -----------------------------------------------------------------------------------------------------

    def _load(self, client: Client, mean_s: float) -> None:
        if self._load_on:
            if client.is_idle:
                serving = [m for m in self.machines if m.serves]
                if serving:
                    machine = client.rng.choice(serving)
                    client.begin(machine, client.rng.choice(KINDS), timeout_s=TIMEOUT_S)
            self.scheduler.call_later(client.rng.expovariate(1 / mean_s), self._load, client, mean_s)

    _load_on = False

    # -- one run -----------------------------------------------------------------------------------------------------

    def form(self) -> None:
        """Bootstrap the first machine, let the others join (who may have been started at the same moment, and ask each
        other, too), make the tables."""
        self.start(self.machines[0])
        if self.rng.random() < 0.5 and not self.run_until(lambda: self.leader() is not None, FORM_LIMIT_S):
            raise SafetyViolation("the first node does not lead")
        self._is_formed = True
        for machine in self.machines[1:]:
            self.scheduler.call_later(self.rng.choice((0.0, 0.0, 0.5)), self.start, machine)
        if not self.run_until(self.all_sound, FORM_LIMIT_S):
            raise SafetyViolation("the cluster does not form: " + self.describe())
        self._create_tables()

    def _create_tables(self) -> None:
        """In all databases; once more if leadership changes meanwhile."""
        answers: list[Error | None] = []
        life = self.machines[0].life
        assert life is not None
        create_tables(life, answers.append, SCHEMA + (TRANSACTION_SCHEMA if self.transacting else ()))
        if not self.run_until(lambda: bool(answers), 20.0) or answers[0] is not None:
            raise SafetyViolation(f"the tables cannot be made: {answers}")
        if self.scale.large_bytes:
            filled: list[Error | None] = []
            fill(life, self.scale.large_bytes, self.rng, filled.append)
            if not self.run_until(lambda: bool(filled), 60.0) or filled[0] is not None:
                raise SafetyViolation(f"the first database cannot be filled: {filled}")

    def storm(self, duration_s: float, *, operations_per_s: float | None = None) -> None:
        """Form, storm, heal, compare. Raises SafetyViolation."""
        self.form()
        self.injection.start()
        self.storm_of_writes(duration_s, operations_per_s=operations_per_s or self.scale.operations_per_s)
        self.injection.end()
        self.recover()

    def storm_of_writes(self, duration_s: float, *, operations_per_s: float = 20.0) -> None:
        """Clients write and read; they go on until `recover`."""
        self._load_on = True
        for client in self.clients:
            self._load(client, len(self.clients) / operations_per_s)
        for scratch in self.scratch if self.scale.scratch_per_s else ():
            scratch.work(len(self.scratch) / self.scale.scratch_per_s, lambda: self._load_on)
        for reading in self.reading:
            reading.work(len(self.reading) / self.scale.levels_per_s, lambda: self._load_on)
        for follower in self.followers:
            follower.work(lambda: self._load_on)
        for transacting in self.transacting:
            transacting.work(len(self.transacting) / self.scale.transactions_per_s, lambda: self._load_on)
        self.run_for(duration_s)

    def recover(self) -> None:
        """Liveness: a leader, all members voters and equal, a write and a read through every node."""
        Recovery(self).run()
        if self.checks.clients.sessions.fenced:
            self.coverage.hit("commit found after a fail-over")

    def stop_load(self) -> None:
        self._load_on = False

    def describe(self) -> str:
        """One line per machine, for messages."""
        return "; ".join(described(m, self.operator.mending.get(m.name)) for m in self.machines)
