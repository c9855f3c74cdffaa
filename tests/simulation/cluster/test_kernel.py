"""The simulated world itself: time, threads, the loop, lives; and that the same seed is the same run everywhere."""

from __future__ import annotations

import ast
import asyncio
import importlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from tests.simulation.cluster import seams, threads
from tests.simulation.cluster.life import Kernel, Life, LifeEnded, SimulationError
from tests.simulation.cluster.network import SimNetwork
from tests.simulation.cluster.run import run_seed
from tests.simulation.cluster.simloop import SimLoop

ROOT = Path(__file__).parents[3]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    yield Kernel(random.Random(1))
    Kernel.current = None


def make_life(kernel: Kernel, name: str = "a", **clock: Any) -> tuple[Life, SimLoop]:
    life = Life(kernel, name, **clock)
    network = SimNetwork(kernel.scheduler, random.Random(2))
    loop: list[SimLoop] = []
    life.run(lambda: loop.append(SimLoop(life, network.host("10.0.0.1"))))
    return life, loop[0]


def start(life: Life, loop: SimLoop, coroutine: Callable[[], Any]) -> None:
    life.run(lambda: loop.create_task(coroutine()))


def test_events_run_in_the_order_of_time_and_of_making(kernel: Kernel) -> None:
    seen: list[str] = []
    kernel.scheduler.call_later(2.0, seen.append, "late")
    kernel.scheduler.call_later(1.0, seen.append, "first")
    kernel.scheduler.call_later(1.0, seen.append, "second")
    kernel.scheduler.call_later(1.5, seen.append, "never").cancel()
    kernel.run_for(3.0)
    assert seen == ["first", "second", "late"]
    assert kernel.scheduler.now == 3.0


def test_sleep_takes_simulated_time_only(kernel: Kernel) -> None:
    life, loop = make_life(kernel)
    seen: list[float] = []

    async def sleeper() -> None:
        await asyncio.sleep(3600)
        seen.append(kernel.scheduler.now)

    start(life, loop, sleeper)
    kernel.run_for(3601)
    assert seen == [pytest.approx(3600, abs=0.01)]


def test_a_fast_clock_sleeps_shorter(kernel: Kernel) -> None:
    life, loop = make_life(kernel, clock_rate=2.0)
    seen: list[float] = []

    async def sleeper() -> None:
        await asyncio.sleep(10)
        seen.append(kernel.scheduler.now)

    start(life, loop, sleeper)
    kernel.run_for(20)
    assert seen == [pytest.approx(5.0, abs=0.01)]


def test_threads_hand_over_through_queues_and_conditions(kernel: Kernel) -> None:
    life, _ = make_life(kernel)
    seen: list[Any] = []

    def begin() -> None:
        jobs = threads.SimpleQueue()
        ready = threads.Condition()

        def worker() -> None:
            while (job := jobs.get()) is not None:
                threads.sleep(0.5)
                with ready:
                    seen.append(job)
                    ready.notify_all()

        def watcher() -> None:
            with ready:
                assert ready.wait_for(lambda: len(seen) == 3, timeout=10)
                assert not ready.wait(timeout=1.0)
            seen.append(kernel.scheduler.now)

        threads.Thread(target=worker).start()
        threads.Thread(target=watcher).start()
        for job in (1, 2, 3, None):
            jobs.put(job)

    life.run(begin)
    kernel.run_for(20)
    assert seen[:3] == [1, 2, 3]
    assert seen[3] == pytest.approx(2.5, abs=0.1)


def test_a_lock_is_held_across_a_wait(kernel: Kernel) -> None:
    life, _ = make_life(kernel)
    order: list[str] = []

    def begin() -> None:
        lock = threads.Lock()

        def work(name: str) -> None:
            with lock:
                order.append(f"{name} in")
                threads.sleep(1.0)
                order.append(f"{name} out")

        for name in ("a", "b", "c"):
            threads.Thread(target=work, args=(name,)).start()

    life.run(begin)
    kernel.run_for(10)
    assert [word.split()[1] for word in order] == ["in", "out"] * 3


def test_a_lock_released_when_its_waiter_timed_out_is_free(kernel: Kernel) -> None:
    life, _ = make_life(kernel)
    got: list[bool] = []

    def begin() -> None:
        lock = threads.Lock()
        lock.acquire()

        def impatient() -> None:
            got.append(lock.acquire(timeout=1.0))

        def owner() -> None:
            threads.sleep(1.0)
            lock.release()
            threads.sleep(1.0)
            got.append(lock.acquire(timeout=1.0) or got[0])

        threads.Thread(target=impatient).start()
        threads.Thread(target=owner).start()

    life.run(begin)
    kernel.run_for(10)
    assert len(got) == 2
    assert got[1]


def test_the_loop_must_not_wait_for_a_thread(kernel: Kernel) -> None:
    life, loop = make_life(kernel)

    async def waits() -> None:
        threads.Event().wait()

    start(life, loop, waits)
    with pytest.raises(SimulationError, match="would wait"):
        kernel.run_for(1)


def test_an_executor_runs_beside_the_loop(kernel: Kernel) -> None:
    life, loop = make_life(kernel)
    seen: list[Any] = []

    def slow() -> str:
        threads.sleep(1.0)
        return "done"

    async def waits() -> None:
        seen.append(await loop.run_in_executor(None, slow))

    start(life, loop, waits)
    kernel.run_for(2)
    assert seen == ["done"]


def test_a_paused_life_runs_later(kernel: Kernel) -> None:
    life, loop = make_life(kernel)
    seen: list[float] = []
    life.paused_until = 5.0
    life.call_later(1.0, lambda: seen.append(kernel.scheduler.now))
    kernel.run_for(10)
    assert seen == [5.0]
    assert loop.is_alive


def test_nothing_of_an_ended_life_runs(kernel: Kernel) -> None:
    life, loop = make_life(kernel)
    seen: list[str] = []

    def thread() -> None:
        try:
            threads.sleep(1.0)
            seen.append("slept")
        except LifeEnded:
            seen.append("unwound")
            raise

    async def task() -> None:
        try:
            await asyncio.sleep(1.0)
            seen.append("task")
        finally:
            seen.append("closed")

    life.run(lambda: threads.Thread(target=thread).start())
    start(life, loop, task)
    life.on_end.append(lambda: seen.append("end"))
    kernel.run_for(0.5)
    life.end()
    kernel.run_for(5)
    assert seen == ["unwound", "closed", "end"]


def test_a_thread_that_fails_stops_the_simulation(kernel: Kernel) -> None:
    life, _ = make_life(kernel)

    def fails() -> None:
        raise ValueError("by itself")

    life.run(lambda: threads.Thread(target=fails).start())
    with pytest.raises(ValueError, match="by itself"):
        kernel.run_for(1)


def test_the_same_seed_is_the_same_run() -> None:
    assert run_seed(7, duration_s=4.0).digest == run_seed(7, duration_s=4.0).digest
    assert run_seed(8, duration_s=4.0).digest != run_seed(7, duration_s=4.0).digest


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    code = "import sys; from tests.simulation.cluster.run import run_seed; print(run_seed(21, duration_s=4.0).digest)"
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told[0] == told[1] == run_seed(21, duration_s=4.0).digest + "\n"


# -- what the product touches -----------------------------------------------------------------------------------

TOUCHES = {
    "threading",
    "time",
    "queue",
    "random",
    "secrets",
    "concurrent.futures",
    "uuid",
    "select",
    "selectors",
}


def _touching_modules() -> Iterator[tuple[str, str]]:
    """(module, what it imports) of the product, for everything that a simulation has to replace."""
    root = Path(dqlite_py.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(["dqlite_py", *path.relative_to(root).with_suffix("").parts])
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for imported in names:
                if imported in TOUCHES:
                    yield name, imported


def test_every_touch_of_the_outside_is_replaced_or_explained() -> None:
    replaced = {module for module, _, _ in seams.table()}
    unknown = [
        f"{module} imports {imported}"
        for module, imported in _touching_modules()
        if module not in replaced
        and not any(module == h or module.startswith(h + ".") for h in seams.HARMLESS)
    ]
    assert not unknown, "add them to seams.py"


def test_replacements_are_put_back() -> None:
    tickets: Any = importlib.import_module("dqlite_py.node.tickets")
    before = tickets.time
    with seams.installed([]):
        assert tickets.time is not before
    assert tickets.time is before
