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
from pathlib import Path
from typing import Any

import apsw

from dqlite_py.errors import Error, JournalFailed, MembershipRefused, StorageFull
from dqlite_py.model import NodeId, Role
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.tickets import Deadline
from dqlite_py.raft.core import RaftCore
from tests.simulation.cluster import machine as machines_module
from tests.simulation.cluster import seams
from tests.simulation.cluster.checks import Checks, SafetyViolation
from tests.simulation.cluster.clients import DATABASE, Client, create_tables, operations_at
from tests.simulation.cluster.coverage import Coverage
from tests.simulation.cluster.disk import DiskFaults
from tests.simulation.cluster.faults import ATLAS, DESTROYS_DATA, Mixture, mixture
from tests.simulation.cluster.life import Kernel
from tests.simulation.cluster.machine import NEEDS_OPERATOR, Environment, Machine
from tests.simulation.cluster.network import NetworkFaults, SimNetwork

log = logging.getLogger("simulation")
FORM_LIMIT_S = 60.0
HEAL_LIMIT_S = 60.0
TIMEOUT_S = 2.0


class World:
    """Use `World.open(seed, ...)`."""

    def __init__(self, seed: int, folder: Path, node_count: int, plan: Mixture, coverage: Coverage) -> None:
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self.kernel = Kernel(random.Random(f"kernel {seed}"))
        self.scheduler = self.kernel.scheduler
        self.plan = plan
        self.checks = checks = Checks(on_violation=self.kernel.fail, allows=self._allows)
        self.coverage = coverage
        self.faults_on = False
        self.fault_count: dict[str, int] = {}
        self.quiet_network = NetworkFaults()
        self.network = SimNetwork(self.scheduler, random.Random(f"network {seed}"), self.quiet_network)
        self.environment = Environment(
            self.kernel,
            folder,
            random.Random(f"machines {seed}"),
            on_runtime=[self._remember, checks.attach, coverage.attach],
            on_exit=self._exited,
            settings={
                "compact_log_bytes": 192 * 1024,
                "log_tail_bytes": 8 * 1024,
                "disk_reserve_bytes": 1024 * 1024,
                "start_timeout": 10.0,
            },
        )
        self.machines = [self._machine(i) for i in range(node_count)]
        self.damage: dict[str, None] = {}  # machines whose files were damaged and not replaced since
        self.node_ids: dict[str, int] = {}
        self.mending: dict[str, int] = {}  # machine -> the old node id that must go before it may join again
        self.clients = [
            Client(i, random.Random(f"client {i} {seed}"), checks, self._now) for i in range(2 + node_count)
        ]
        self._cut_until: dict[tuple[str, str], float] = {}
        self._slow_until = 0.0

    def _machine(self, index: int) -> Machine:
        ip = f"10.0.0.{index + 1}"
        return Machine(self.environment, f"n{index + 1}", ip, self.network.host(ip))

    def _remember(self, name: str, runtime: NodeRuntime) -> None:
        self.node_ids[name] = int(runtime.node_id)

    def _allows(self, name: str, error: BaseException) -> bool:
        """Whether a node may stop for this: its disk was damaged, or failed it."""
        return name in self.damage or isinstance(error, OSError | JournalFailed | StorageFull)

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
        base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - the folder itself is made safely
        folder = Path(tempfile.mkdtemp(prefix="dqlite-sim-", dir=base))
        gc_was_on = gc.isenabled()
        gc.collect()
        gc.disable()  # when it runs would depend on what ran before in this process
        coverage = Coverage()
        try:
            with seams.installed([*machines_module.seams(), *(extra_seams or [])]), coverage.installed():
                world = cls(seed, folder, node_count or drawn, plan, coverage)
                try:
                    yield world
                finally:
                    world.close()
        finally:
            if gc_was_on:
                gc.enable()
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
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
        if not machine.is_up and machine.name not in self.mending:
            machine.start([m.address for m in self.machines if m is not machine] if self._is_formed else [])

    _is_formed = False

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
            elif self.scheduler.now > end or not self.faults_on:
                machine.disk.crash_after(None)
            else:
                self.scheduler.call_later(0.05, look)

        look()

    def _exited(self, machine: Machine, error: BaseException | None) -> None:
        """A process ended by itself: a supervisor starts it again, unless it said that an operator is needed."""
        if isinstance(error, NEEDS_OPERATOR):
            if machine.name not in self.damage:
                self.kernel.fail(SafetyViolation(f"{machine.name} refuses its sound folder: {error!r}"))
            self.coverage.hit("damage refused")
            self._replace(machine)
        else:
            self.restart_later(machine, self.rng.uniform(0.05, 1.0))

    # -- the operator ------------------------------------------------------------------------------------------------

    def _replace(self, machine: Machine) -> None:
        """A machine whose data is lost: remove the old member, wipe, join as a new one."""
        old_id = self.node_ids.get(machine.name)
        if old_id is None or machine.name in self.mending:
            self._wipe_and_start(machine)
            return
        self.mending[machine.name] = old_id
        self._try_to_remove(machine, old_id)

    def _try_to_remove(self, machine: Machine, old_id: int) -> None:
        def again() -> None:
            self.scheduler.call_later(0.3, self._try_to_remove, machine, old_id)

        def done(error: BaseException | None) -> None:
            helper = self._member_somewhere(old_id)
            if error is None or (isinstance(error, MembershipRefused) and helper is False):
                self.mending.pop(machine.name, None)
                self._wipe_and_start(machine)
            else:
                again()

        other = next((m for m in self.machines if m is not machine and m.serves), None)
        if other is None or other.life is None or other.runtime is None:
            again()
            return
        self._ask(other, lambda r: _remove(r, old_id), done)

    def _member_somewhere(self, node_id: int) -> bool:
        """Whether the leader still has this member."""
        leader = self.leader()
        runtime = leader.runtime if leader is not None else None
        return runtime is None or runtime.core.configuration.get(NodeId(node_id)) is not None

    def _wipe_and_start(self, machine: Machine) -> None:
        if machine.is_up:
            machine.crash(lose_unsynced=False)
        machine.disk.wipe()
        self.damage.pop(machine.name, None)
        self.node_ids.pop(machine.name, None)
        self.restart_later(machine, 0.1)

    def remove_member(self, machine: Machine) -> None:
        """Take a member out and let it join again, empty."""
        if len(self.machines) < 3 or not self.all_sound():
            return
        node_id = self.node_ids.get(machine.name)
        if node_id is None:
            return
        self.mending[machine.name] = node_id
        if self.rng.random() < 0.5:
            machine.crash(lose_unsynced=False)
        self._try_to_remove(machine, node_id)

    def all_sound(self) -> bool:
        """Every machine has its data, is a voter, and nothing destroyed is still being mended."""
        if self.mending:
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
        return True

    def wipe(self, rng: random.Random) -> None:
        if len(self.machines) >= 3 and self.all_sound():
            machine = rng.choice(self.machines)
            machine.crash(lose_unsynced=True)
            self._replace(machine)

    def rot(self, rng: random.Random) -> None:
        """A bit of a stopped machine's files turns."""
        if len(self.machines) >= 3 and self.all_sound():
            machine = rng.choice(self.machines)
            machine.crash(lose_unsynced=False)
            self.damage[machine.name] = None
            self.checks.state_damaged(machine.name, DATABASE)
            self.scheduler.call_later(0.01, self._rot_and_start, machine)

    def _rot_and_start(self, machine: Machine) -> None:
        machine.disk.rot_somewhere()
        self.restart_later(machine, 0.1)

    def _ask(
        self, machine: Machine, work: Callable[[NodeRuntime], Any], done: Callable[[BaseException | None], None]
    ) -> None:
        """Run a coroutine on a node's loop; `done` hears its error."""
        life, runtime = machine.life, machine.runtime
        if life is None or runtime is None or life.loop is None:
            done(None)
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

        life.on_end.append(lambda: tell(Error("the node's process ended")))
        life.run(begin)

    def transfer_leadership(self) -> None:
        leader = self.leader()
        if leader is not None:
            self._ask(leader, lambda r: r.transfer(None, 2.0), lambda _: None)

    def compact(self, machine: Machine) -> None:
        if machine.serves:
            self._ask(machine, lambda r: r.compaction.compact(), lambda _: None)

    @staticmethod
    def campaign(runtime: NodeRuntime) -> None:
        core: RaftCore = runtime.core
        if runtime.failed is None and not runtime.host._stopped:
            core.campaign(runtime.host._now())
            runtime.host.pump_soon()

    # -- faults ------------------------------------------------------------------------------------------------------

    def cut_for(self, one: Machine, other: Machine, seconds: float, *, both: bool) -> None:
        for a, b in ((one.ip, other.ip), (other.ip, one.ip))[: 2 if both else 1]:
            self._cut_until[a, b] = max(self._cut_until.get((a, b), 0.0), self.scheduler.now + seconds)
            self.network.cut(a, b)
        self.scheduler.call_later(seconds, self._mend_cuts)

    def _mend_cuts(self) -> None:
        now = self.scheduler.now
        self._cut_until = {pair: until for pair, until in self._cut_until.items() if until > now + 1e-9}
        self.network.heal()
        for a, b in self._cut_until:
            self.network.cut(a, b)

    def slow_disk_for(self, seconds: float) -> None:
        faults = self.environment.disk_faults
        faults.slow, faults.slow_s = 0.3, (0.01, 0.4)
        self._slow_until = self.scheduler.now + seconds

        def end() -> None:
            if self.scheduler.now >= self._slow_until - 1e-9:
                faults.slow = 0.0

        self.scheduler.call_later(seconds, end)

    def fill_disk_for(self, machine: Machine, seconds: float) -> None:
        machine.disk.full = True

        def end() -> None:
            machine.disk.full = False

        self.scheduler.call_later(seconds, end)

    def _start_faults(self) -> None:
        self.faults_on = True
        plan, environment = self.plan, self.environment
        environment.messages.loss = plan.loss
        environment.messages.duplicate = plan.duplicate
        environment.messages.late = plan.late
        environment.applying.slow = plan.slow_apply
        self.quiet_network.late = plan.late_segment
        for name, rate in plan.rates.items():
            rng = random.Random(f"{name} {self.seed}")
            self.scheduler.call_later(rng.expovariate(rate), self._act, name, rate, rng)

    def _act(self, name: str, rate: float, rng: random.Random) -> None:
        if not self.faults_on:
            return
        if name not in DESTROYS_DATA or len(self.machines) >= 3:
            log.info("fault: %s", name)
            self.fault_count[name] = self.fault_count.get(name, 0) + 1
            ATLAS[name].act(self, rng)
        self.scheduler.call_later(rng.expovariate(rate), self._act, name, rate, rng)

    def _heal(self) -> None:
        """End all faults; everybody is up and reachable."""
        self.faults_on = False
        environment = self.environment
        environment.messages.loss = environment.messages.duplicate = environment.messages.late = 0.0
        environment.applying.slow = environment.disk_faults.slow = 0.0
        self.quiet_network.late = 0.0
        self._cut_until.clear()
        self.network.heal()
        for machine in self.machines:
            machine.disk.full = False
            machine.disk.fail_syncs = 0
            machine.disk.crash_after(None)
            machine.clock_rate = 1.0
            if machine.life is not None:
                machine.life.set_rate(1.0)
                machine.life.paused_until = min(machine.life.paused_until, self.scheduler.now)
            self.restart_later(machine, self.rng.uniform(0.0, 0.3))

    # -- clients -----------------------------------------------------------------------------------------------------

    def _load(self, client: Client, mean_s: float) -> None:
        if self._load_on:
            if client.is_idle:
                serving = [m for m in self.machines if m.serves]
                if serving:
                    machine = client.rng.choice(serving)
                    client.begin(machine, read=client.rng.random() < 0.4, timeout_s=TIMEOUT_S)
            self.scheduler.call_later(client.rng.expovariate(1 / mean_s), self._load, client, mean_s)

    _load_on = False

    # -- one run -----------------------------------------------------------------------------------------------------

    def form(self) -> None:
        """Bootstrap the first machine, let the others join, make the tables."""
        self.start(self.machines[0])
        if not self.run_until(lambda: self.leader() is not None, FORM_LIMIT_S):
            raise SafetyViolation("the first node does not lead")
        self._is_formed = True
        for machine in self.machines[1:]:
            self.start(machine)
        if not self.run_until(self.all_sound, FORM_LIMIT_S):
            raise SafetyViolation("the cluster does not form: " + self.describe())
        self._create_tables()

    def _create_tables(self) -> None:
        answers: list[Error | None] = []
        life = self.machines[0].life
        assert life is not None
        create_tables(life, answers.append)
        if not self.run_until(lambda: bool(answers), 20.0) or answers[0] is not None:
            raise SafetyViolation(f"the tables cannot be made: {answers}")

    def storm(self, duration_s: float, *, operations_per_s: float = 20.0) -> None:
        """Form, storm, heal, compare. Raises SafetyViolation."""
        self.form()
        self._load_on = True
        for client in self.clients:
            self._load(client, len(self.clients) / operations_per_s)
        self._start_faults()
        self.run_for(duration_s)
        self._heal()
        self.recover()

    def recover(self) -> None:
        """Liveness: a leader, all members voters and equal, a write and a read through every node."""
        if not self.run_until(self.all_sound, HEAL_LIMIT_S):
            raise SafetyViolation(f"not sound {HEAL_LIMIT_S:.0f} s after the last fault: {self.describe()}")
        self._load_on = False
        if not self.run_until(lambda: all(c.is_idle for c in self.clients), TIMEOUT_S * 3):
            raise SafetyViolation("operations do not end")
        for machine in self.machines:
            self._write_through(machine)
        if not self.run_until(self._all_equal, 20.0):
            raise SafetyViolation(f"the nodes do not become equal: {self.describe()}")
        contents: dict[str, list[tuple[int, int]]] = {}
        for machine in self.machines:
            assert machine.life is not None
            machine.life.run(lambda m=machine: contents.__setitem__(m.name, operations_at(m.life)))  # type: ignore[misc]
        self.checks.final(contents)

    def _write_through(self, machine: Machine) -> None:
        """A new write and a read through this node succeed at once."""
        client = self.clients[0]
        for read in (False, True):
            for _attempt in range(3):
                before = client.acknowledged_count
                client.begin(machine, read=read, timeout_s=5.0)
                if not self.run_until(lambda: client.is_idle, 10.0, 0.01):
                    raise SafetyViolation(f"no answer from {machine.name} after the storm")
                if client.acknowledged_count > before:
                    break
            else:
                raise SafetyViolation(f"{machine.name} does not serve after the storm: {self.describe()}")

    def _all_equal(self) -> bool:
        applied = []
        for machine in self.machines:
            runtime = machine.runtime
            if runtime is None:
                return False
            hashes = {n: w.last_hash for n, w in runtime.applier().workers.items()}
            applied.append((runtime.applier().applied_index, runtime.core.commit_index, sorted(hashes.items())))
        return all(a == applied[0] for a in applied) and applied[0][0] == applied[0][1]

    def describe(self) -> str:
        """One line per machine, for messages."""
        lines = []
        for machine in self.machines:
            runtime = machine.runtime
            if runtime is None:
                lines.append(f"{machine.name}: {'starting' if machine.is_up else 'down'} {self.mending.get(machine.name, '')}")
                continue
            core = runtime.core
            role = core.configuration.get(runtime.node_id)
            lines.append(
                f"{machine.name}: {core.state.value} term {core.term} leader {core.leader_id} log {core.first_index}.."
                f"{core.last_index} commit {core.commit_index} applied {runtime.applier().applied_index} "
                f"{role.role.name if role else 'no member'}{' quarantined' if core.is_quarantined else ''}"
                f"{' failed' if runtime.failed else ''}"
            )
        return "; ".join(lines)


async def _remove(runtime: NodeRuntime, node_id: int) -> Any:
    deadline = Deadline(3.0)
    target = NodeId(node_id)
    return await runtime.writes.on_leader(
        "leader.remove", {"id": target}, deadline, lambda: runtime.membership.remove(target, deadline)
    )


__all__ = ["Role", "World"]
