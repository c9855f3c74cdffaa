"""Doing the faults of a plan to a world, at random times, and ending them all."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from dqlite_py.storage.connection import open_reader
from dqlite_py.wire.handshake import PROTOCOL_VERSION
from tests.simulation.cluster import threads
from tests.simulation.cluster.faults import ATLAS, DESTROYS_DATA
from tests.simulation.cluster.machine import Machine

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

log = logging.getLogger("simulation")


class Injection:
    """`is_on`: faults still come; `counts`: how often each kind was done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_on = False
        self.counts: dict[str, int] = {}
        self._cut_until: dict[tuple[str, str], float] = {}
        self._slow_until = 0.0

    def cut_for(self, one: Machine, other: Machine, seconds: float, *, both: bool) -> None:
        for a, b in ((one.ip, other.ip), (other.ip, one.ip))[: 2 if both else 1]:
            self._cut_until[a, b] = max(self._cut_until.get((a, b), 0.0), self.world.scheduler.now + seconds)
            self.world.network.cut(a, b)
        self.world.scheduler.call_later(seconds, self._mend_cuts)

    def _mend_cuts(self) -> None:
        now = self.world.scheduler.now
        self._cut_until = {pair: until for pair, until in self._cut_until.items() if until > now + 1e-9}
        self.world.network.heal()
        for a, b in self._cut_until:
            self.world.network.cut(a, b)

    def slow_disk_for(self, seconds: float) -> None:
        faults = self.world.environment.disk_faults
        faults.slow, faults.slow_s = 0.3, 0.4
        self._slow_until = self.world.scheduler.now + seconds

        def end() -> None:
            if self.world.scheduler.now >= self._slow_until - 1e-9:
                faults.slow = 0.0

        self.world.scheduler.call_later(seconds, end)

    def fill_disk_for(self, machine: Machine, seconds: float) -> None:
        machine.disk.full = True

        def end() -> None:
            machine.disk.full = False

        self.world.scheduler.call_later(seconds, end)

    def hold_reader(self, machine: Machine, seconds: float) -> None:
        """Keep a read transaction open in the machine's process."""
        life, runtime = machine.life, machine.runtime
        if life is None or runtime is None or not machine.serves:
            return
        paths = [worker.path for worker in runtime.applier().workers.values() if worker.opened.done()]

        def read() -> None:
            reader = open_reader(paths[0])
            try:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                threads.sleep(seconds)
            finally:
                reader.close()

        if paths:
            life.spawn(read, "long-reader")

    def change_release(self, machine: Machine, version: int) -> None:
        """Restart it as a node of a release with that protocol version."""
        machine.release = version
        machine.crash(lose_unsynced=False)
        self.world.restart_later(machine, 0.1)

    def start(self) -> None:
        self.is_on = True
        plan, environment = self.world.plan, self.world.environment
        environment.messages.loss = plan.loss
        environment.messages.duplicate = plan.duplicate
        environment.messages.late = plan.late
        environment.applying.slow = plan.slow_apply
        self.world.network.faults.late = plan.late_segment
        for name, rate in plan.rates.items():
            rng = random.Random(f"{name} {self.world.seed}")
            self.world.scheduler.call_later(rng.expovariate(rate), self._act, name, rate, rng)

    def _act(self, name: str, rate: float, rng: random.Random) -> None:
        if not self.is_on:
            return
        if name not in DESTROYS_DATA or len(self.world.machines) >= 3:
            log.info("fault: %s", name)
            self.counts[name] = self.counts.get(name, 0) + 1
            ATLAS[name].act(self.world, rng)
        self.world.scheduler.call_later(rng.expovariate(rate), self._act, name, rate, rng)

    def end(self) -> None:
        """End all faults; everybody is up and reachable."""
        self.is_on = False
        environment = self.world.environment
        environment.messages.loss = environment.messages.duplicate = environment.messages.late = 0.0
        environment.applying.slow = environment.disk_faults.slow = 0.0
        self.world.network.faults.late = 0.0
        self._cut_until.clear()
        self.world.network.heal()
        for machine in self.world.machines:
            machine.disk.full = False
            machine.disk.fail_syncs = 0
            machine.disk.crash_after(None)
            machine.clock_rate = 1.0
            if machine.release != PROTOCOL_VERSION:
                self.change_release(machine, PROTOCOL_VERSION)
            if machine.life is not None:
                machine.life.set_rate(1.0)
                machine.life.paused_until = min(machine.life.paused_until, self.world.scheduler.now)
            self.world.restart_later(machine, self.world.rng.uniform(0.0, 0.3))
