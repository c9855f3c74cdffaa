"""Doing the faults of a plan to a world, at random times, and ending them all."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from dqlite_py.storage.connection import open_reader
from dqlite_py.wire.handshake import PROTOCOL_VERSION
from tests.simulation.cluster import threads
from tests.simulation.cluster.faults import ATLAS, DESTROYS_DATA
from tests.simulation.cluster.machine import PORT, Machine
from tests.simulation.cluster.network import SimHost

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

log = logging.getLogger("simulation")
FIRST_OTHER_PORT = 9100


class Injection:
    """`is_on`: faults still come; `counts`: how often each kind was done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_on = False
        self.counts: dict[str, int] = {}
        self._cut_until: dict[tuple[str, str], float] = {}
        self._slow_until = 0.0
        self._moves = 0

    def cut_for(self, one: Machine, other: Machine, seconds: float, *, both: bool) -> None:
        self._cut([(one.ip, other.ip), (other.ip, one.ip)][: 2 if both else 1], seconds)

    def cut_caller(self, ip: str, machine: Machine, rng: random.Random) -> None:
        """Cut a program outside from a machine, one way or both."""
        ways = [(ip, machine.ip), (machine.ip, ip)]
        self._cut(ways if rng.random() < 0.5 else [rng.choice(ways)], rng.uniform(0.1, 3.0))

    def _cut(self, ways: list[tuple[str, str]], seconds: float) -> None:
        for a, b in ways:
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

    def move(self, machine: Machine, rng: random.Random, down_s: float) -> None:
        """Stop the machine and bring it back at another address (of its own, never used before), or another port."""
        if machine.name in self.world.operator.mending:
            return
        machine.crash(lose_unsynced=rng.random() < 0.5)
        self._moves += 1
        old = machine.host
        if rng.random() < 0.3:
            machine.move(machine.ip, FIRST_OTHER_PORT + self._moves, old)
        else:
            subnet, last = divmod(self._moves, 200)
            ip = f"10.1.{subnet}.{last + 1}"
            machine.move(ip, PORT, self.world.network.host(ip))
            if not old.is_up:  # somebody else's machine, one day
                self.world.scheduler.call_later(rng.uniform(0.0, 5.0), self._power_on, old)
        log.info("%s moves to %s", machine.name, machine.address)
        self.world.restart_later(machine, down_s)

    def _power_on(self, host: SimHost) -> None:
        host.is_up = True
        self.world.network.paths_changed()

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
