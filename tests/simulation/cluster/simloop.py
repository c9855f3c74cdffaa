"""An asyncio event loop on simulated time: one per life, driven by the scheduler, run on the hub greenlet.

A turn of the loop runs what was ready when it began, as asyncio's does, and takes a little simulated time. A dead
life's loop does nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.life import Life, LifeEnded
from tests.simulation.cluster.threads import ThreadPoolExecutor

if TYPE_CHECKING:
    from tests.simulation.cluster.network import SimHost

log = logging.getLogger("simulation")
TURN_S = 4e-6
DEFAULT_WORKERS = 4
UNWINDINGS_MAX = 3
_set_running_loop = asyncio._set_running_loop


_Loop: Any = asyncio.AbstractEventLoop  # what a loop can and a simulation has no use for stays abstract


class SimLoop(_Loop):  # type: ignore[misc]
    def __init__(self, life: Life, host: SimHost) -> None:
        self.life = life
        self.host = host
        self.turn_count = 0
        self.unhandled: list[dict[str, Any]] = []
        self._scheduler = life.scheduler
        self._ready: deque[asyncio.Handle] = deque()
        self._turn_due = False
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._default_executor = ThreadPoolExecutor(DEFAULT_WORKERS, "default")
        life.loop = self

    @property
    def is_alive(self) -> bool:
        return self.life.alive

    # -- time and callbacks ------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.life.monotonic()

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        if not self._turn_due:
            self._turn_due = True
            self._scheduler.call_later(TURN_S, self.life.run, self._turn)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._scheduler.call_at(self.life.when(when), self._due, handle)
        return handle

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if not handle._cancelled and self.life.alive:
            self._ready.append(handle)
            if not self._turn_due:
                self._turn_due = True
                self.life.run(self._turn)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asked for by asyncio; a cancelled timer does nothing when it is due."""

    def _turn(self) -> None:
        self.turn_count += 1
        ready = self._ready
        _set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
                    if not self.life.alive:
                        return
        finally:
            _set_running_loop(None)
        if ready:
            self._scheduler.call_later(TURN_S, self.life.run, self._turn)
        else:
            self._turn_due = False

    # -- tasks and futures -----------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = (executor or self._default_executor).submit(func, *args)
        return asyncio.wrap_future(future, loop=self)

    def drop(self) -> None:
        """The life has ended: unwind the coroutines, so that nothing of them runs at some later time."""
        self._ready.clear()
        before = asyncio._get_running_loop()
        _set_running_loop(self)  # else a `finally` that gathers would make a real loop
        try:
            for _ in range(UNWINDINGS_MAX):  # a `finally` may make new ones
                self._unwind_tasks()
        finally:
            _set_running_loop(before)
        self._tasks.clear()

    def _unwind_tasks(self) -> None:
        tasks, self._tasks = list(self._tasks), {}
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            for _ in range(10):
                try:
                    coroutine.close()
                except (LifeEnded, RuntimeError):
                    continue  # it waits in a `finally`, or runs at this moment
                except BaseException as error:  # noqa: BLE001 - it is gone, whatever it says
                    log.debug("unwinding %r: %r", task, error)
                break

    # -- network -------------------------------------------------------------------------------------------------

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self.host.create_server(self, factory, host, port, **options)

    async def create_connection(
        self, factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        return await self.host.create_connection(self, factory, host, port, **options)

    def remove_reader(self, fd: Any) -> bool:
        """Only the host's sockets are read, and not by their numbers."""
        return False

    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> Any:
        return self.host.getaddrinfo(host, port)

    # -- errors and the rest ----------------------------------------------------------------------------------------

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.life.alive:
            return
        error = context.get("exception")
        log.error("%s: %s: %r", self.life.name, context.get("message"), error)
        self.unhandled.append(context)
        self.life.kernel.fail(
            error
            if isinstance(error, AssertionError)
            else AssertionError(f"{self.life.name}: {context.get('message')}: {error!r}")
        )

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Never in a simulation."""

    def is_running(self) -> bool:
        return self.life.alive

    def is_closed(self) -> bool:
        return not self.life.alive

    def get_task_factory(self) -> None:
        return None
