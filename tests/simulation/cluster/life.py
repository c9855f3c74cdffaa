"""One life of a node's process: its clock, its threads (greenlets), its loop. After a crash nothing of it runs again.

`Kernel` is what all lives of a simulation share: the scheduler, the hub (the greenlet that runs the scheduler and all
event loops) and who runs now. One simulation at a time per process.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import greenlet

from tests.simulation.cluster.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.cluster.simloop import SimLoop

log = logging.getLogger("simulation")
EPOCH_US = 1_750_000_000_000_000


class LifeEnded(BaseException):
    """Thrown into the threads of a life that is over."""


class SimulationError(AssertionError):
    """The product did what no simulated process can do (such as block its event loop)."""


class Kernel:
    """What is shared by all lives. `violation`: the first broken promise; the world stops at it."""

    current: Kernel | None = None

    def __init__(self, rng: random.Random) -> None:
        self.scheduler = Scheduler()
        self.rng = rng
        self.hub = greenlet.getcurrent()
        self.life: Life | None = None  # whose code runs now
        self.violation: BaseException | None = None
        self.thread_delay_s = (1e-6, 60e-6)
        self.late_thread = 0.002  # probability that a thread is scheduled late
        self.late_thread_s = 0.01
        Kernel.current = self

    def fail(self, error: BaseException) -> None:
        if self.violation is None:
            self.violation = error

    def is_over(self) -> bool:
        return self.violation is not None

    def run_for(self, seconds: float) -> None:
        """Advance; raises the violation if there is one."""
        self.scheduler.run_until(self.scheduler.now + seconds, self.is_over)
        if self.violation is not None:
            raise self.violation

    def wake_delay(self) -> float:
        rng = self.rng
        if rng.random() < self.late_thread:
            return rng.random() * self.late_thread_s
        low, high = self.thread_delay_s
        return low + (high - low) * rng.random()


def kernel() -> Kernel:
    """The simulation that runs."""
    if Kernel.current is None:
        raise SimulationError("no simulation is running")
    return Kernel.current


def current_life() -> Life:
    life = kernel().life
    if life is None:
        raise SimulationError("this code must run as part of a simulated process")
    return life


class Life:
    """A process. `alive` ends once; `paused_until` (simulated s): nothing of it runs before (SIGSTOP)."""

    def __init__(self, owner: Kernel, name: str, *, clock_rate: float = 1.0, wall_offset_us: int = 0) -> None:
        self.kernel = owner
        self.scheduler = owner.scheduler
        self.name = name
        self.alive = True
        self.paused_until = 0.0
        self.wall_offset_us = wall_offset_us
        self.loop: SimLoop | None = None
        self.on_end: list[Callable[[], None]] = []  # run when the life has ended, in order
        self._threads: dict[greenlet.greenlet, str] = {}
        self._rate = clock_rate
        self._local_base = 1000.0  # what the monotonic clock showed at `_base`
        self._base = self.scheduler.now

    # -- its clocks -----------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self._local_base + (self.scheduler.now - self._base) * self._rate

    def when(self, local: float) -> float:
        """The simulated time at which this life's clock shows `local`."""
        return self._base + (local - self._local_base) / self._rate

    def duration(self, local_s: float) -> float:
        return local_s / self._rate

    def set_rate(self, rate: float) -> None:
        """Let the monotonic clock run at another speed from now on."""
        self._local_base, self._base, self._rate = self.monotonic(), self.scheduler.now, rate

    def wall_us(self) -> int:
        return EPOCH_US + int(self.monotonic() * 1e6) + self.wall_offset_us

    # -- running --------------------------------------------------------------------------------------------

    def run(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run as part of this life, unless it has ended; a paused life runs it when it goes on."""
        if not self.alive:
            return
        if self.scheduler.now < self.paused_until:
            self.scheduler.call_at(self.paused_until, self.run, callback, *args)
            return
        owner = self.kernel
        before, owner.life = owner.life, self
        try:
            callback(*args)
        finally:
            owner.life = before

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        self.scheduler.call_later(delay_s, self.run, callback, *args)

    def spawn(self, function: Callable[[], Any], name: str) -> greenlet.greenlet:
        """Start a thread."""

        def body() -> None:
            try:
                function()
            except LifeEnded:
                pass
            except greenlet.GreenletExit:
                raise
            except BaseException as error:
                if self.alive:
                    log.exception("thread %s of %s ended", name, self.name)
                    self.kernel.fail(error)
            finally:
                self._threads.pop(thread, None)

        thread = greenlet.greenlet(body, self.kernel.hub)
        self._threads[thread] = name
        self.call_later(self.kernel.wake_delay(), thread.switch)
        return thread

    def resume(self, thread: greenlet.greenlet) -> None:
        """Let a waiting thread go on, soon."""
        self.scheduler.call_later(self.kernel.wake_delay(), self.run, thread.switch)

    # -- the end --------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The process is gone. Its threads are unwound from the hub, where nothing they do has an effect."""
        if not self.alive:
            return
        self.alive = False
        if self.kernel.life is self:
            self.scheduler.call_later(0.0, self._unwind)  # its own code is on the stack now
        else:
            self._unwind()

    def _unwind(self) -> None:
        owner = self.kernel
        before, owner.life = owner.life, self
        try:
            for thread in list(self._threads):
                if thread:  # started and not finished
                    for _ in range(20):  # a `finally` may wait, and then hears the same
                        if thread.dead:
                            break
                        thread.throw(LifeEnded)
            self._threads.clear()
            if self.loop is not None:
                self.loop.drop()
            for action in self.on_end:
                with suppress(LifeEnded):
                    action()
            self.on_end.clear()
        finally:
            owner.life = before
