"""Stand-ins for `threading`, `queue` and `concurrent.futures`: threads are greenlets, interleaved by the scheduler.

Only what the product uses. Code runs without interruption between two calls that may wait, so the interleavings are
those at waits, wake-ups and simulated I/O. Waiting on the event loop's own greenlet is an error: the real loop would
stand still.
"""

from __future__ import annotations

import concurrent.futures
import queue as real_queue
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import greenlet

from tests.simulation.cluster.life import LifeEnded, SimulationError, current_life, kernel
from tests.simulation.cluster.scheduler import Event as Timer


class Waiter:
    """One wait of one thread; `wake` may come once, before or after its time-out."""

    __slots__ = ("_fired", "_life", "_thread", "timed_out")

    def __init__(self) -> None:
        self._life = current_life()
        self._thread = greenlet.getcurrent()
        self._fired = False
        self.timed_out = False

    def wake(self) -> bool:
        """False when it was woken, or timed out, before."""
        if self._fired:
            return False
        self._fired = True
        self._life.resume(self._thread)
        return True

    def _time_out(self) -> None:
        if not self._fired:
            self._fired = self.timed_out = True
            self._life.resume(self._thread)

    def wait(self, timeout_s: float | None) -> bool:
        """Suspend this thread until `wake` (True) or the time-out (False)."""
        life = self._life
        if not life.alive:
            raise LifeEnded
        hub = life.kernel.hub
        if self._thread is hub:
            error = SimulationError(f"the event loop of {life.name} would wait for a thread")
            life.kernel.fail(error)
            raise error
        timer: Timer | None = None
        if timeout_s is not None:
            timer = life.scheduler.call_later(life.duration(timeout_s), self._time_out)
        hub.switch()
        if timer is not None:
            timer.cancel()
        if not life.alive:
            raise LifeEnded
        return not self.timed_out


def sleep(seconds: float) -> None:
    """Suspend this simulated thread; on the loop's greenlet (start-up code) it takes no time."""
    if seconds <= 0:
        return
    life = current_life()
    thread = greenlet.getcurrent()
    if thread is life.kernel.hub:
        return
    if not life.alive:
        raise LifeEnded
    life.scheduler.call_later(seconds, life.run, thread.switch)
    life.kernel.hub.switch()
    if not life.alive:
        raise LifeEnded


class Lock:
    def __init__(self) -> None:
        self._held = False
        self._waiters: deque[Waiter] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        waiter = Waiter()
        self._waiters.append(waiter)
        try:
            return waiter.wait(None if timeout < 0 else timeout)  # woken: `release` handed it over
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        while self._waiters:
            if self._waiters.popleft().wake():
                return
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()


class Condition:
    """Its lock is only a state: nothing switches threads while it is held, except `wait`, which lets go of it."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock()
        self._waiters: deque[Waiter] = deque()

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        waiter = Waiter()
        self._waiters.append(waiter)
        self._lock.release()
        try:
            woken = waiter.wait(timeout)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if current_life().alive:
                self._lock.acquire()
            else:
                self._lock._held = True
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        life = current_life()
        end = None if timeout is None else life.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - life.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        while n and self._waiters:
            n -= self._waiters.popleft().wake()

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class Event:
    def __init__(self) -> None:
        self._set = False
        self._waiters: list[Waiter] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            waiter = Waiter()
            self._waiters.append(waiter)
            waiter.wait(timeout)
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return self._set


class SimpleQueue:
    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[Waiter] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        while self._waiters and not self._waiters.popleft().wake():
            pass

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        while not self._items:
            if not block:
                raise real_queue.Empty
            waiter = Waiter()
            self._waiters.append(waiter)
            try:
                woken = waiter.wait(timeout)
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            if not woken and not self._items:
                raise real_queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Thread:
    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name = name or "thread"
        self.daemon = daemon
        self.ident: int | None = None
        self._call = (target, args, kwargs or {})
        self._ended = Event()

    def start(self) -> None:
        life = current_life()
        self.ident = id(self)
        if life.alive:
            life.spawn(self._run, self.name)

    def _run(self) -> None:
        target, args, kwargs = self._call
        try:
            if target is not None:
                target(*args, **kwargs)
        finally:
            self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return self.ident is not None and not self._ended.is_set()


class Future(concurrent.futures.Future[Any]):
    """The real one, whose `result` and `exception` wait as simulated threads do."""

    def _await(self, timeout: float | None) -> None:
        if not self.done():
            waiter = Waiter()
            self.add_done_callback(lambda _: waiter.wake())
            if not waiter.wait(timeout):
                raise TimeoutError

    def result(self, timeout: float | None = None) -> Any:
        self._await(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)


class ThreadPoolExecutor:
    """At most `max_workers` calls at a time; each call gets a greenlet of its own."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "worker") -> None:
        self._free = max_workers or 4
        self._name = thread_name_prefix
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = 0
        self._shut = False
        self._idle = Event()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = Future()

        def work() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    try:
                        result = function(*args, **kwargs)
                    except LifeEnded:
                        raise
                    except BaseException as error:  # noqa: BLE001 - belongs to whoever waits
                        future.set_exception(error)
                    else:
                        future.set_result(result)
            finally:
                self._running -= 1
                self._free += 1
                self._start_next()

        self._waiting.append(work)
        self._start_next()
        return future

    def _start_next(self) -> None:
        life = current_life()
        while self._waiting and self._free and life.alive:
            self._free -= 1
            self._running += 1
            life.spawn(self._waiting.popleft(), self._name)
        if not self._running:
            self._idle.set()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shut = True
        if wait:
            while self._running or self._waiting:
                self._idle.clear()
                self._idle.wait()


def _refuse_wait(*_args: object) -> None:
    raise SimulationError(f"not simulated; at {kernel().scheduler.now}")


threading = SimpleNamespace(
    Thread=Thread,
    Lock=Lock,
    Condition=Condition,
    Event=Event,
    RLock=_refuse_wait,
    Semaphore=_refuse_wait,
    Timer=_refuse_wait,
)
queue = SimpleNamespace(SimpleQueue=SimpleQueue, Empty=real_queue.Empty, Queue=_refuse_wait)
