"""How long applying one unit keeps the GIL from other threads, by two methods."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from pathlib import Path

from dqlite_py.storage.engine_api import ApplyFailed
from dqlite_py.storage.native_engine import NativeEngine
from tests.benchmarks.apply_sides import Data, Ours, payload_of


def gil_held_us(batch: int = 256, seconds: float = 2.0) -> dict[str, float]:
    """Microseconds per unit that applying keeps the GIL from others, by two methods.

    parts: processor time of what NativeEngine.apply does with the GIL: a call that C refuses at once (with the price
    of its exception) and the copy of a real entry's results; an upper bound that other programs do not disturb.
    counter: how much less a thread that counts in a Python loop gets done beside the applying thread. It needs an
    idle machine with two processors and includes what winning the GIL back costs.
    """
    with tempfile.TemporaryDirectory() as name:
        data = Data(Path(name), "hot", 100)
        side = Ours(data.path)
        try:
            payload = payload_of(data.rows(batch))
            side.engine.apply(side.index + 1, payload, True)
            return {
                "parts": _held_by_parts(side.engine, batch),
                "counter": _held_by_counting(side, payload, batch, seconds),
            }
        finally:
            side.close()


def _held_by_parts(engine: NativeEngine, batch: int, calls: int = 20_000) -> float:
    started = time.thread_time()
    for _ in range(calls):
        engine._state()
    copied = time.thread_time() - started
    started = time.thread_time()
    for _ in range(calls):
        with contextlib.suppress(ApplyFailed):
            engine.apply(1, b"", True)
    return (copied + time.thread_time() - started) / calls / batch * 1e6


def _held_by_counting(side: Ours, payload: bytes, batch: int, seconds: float) -> float:
    def count() -> int:
        loops, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            loops += 1
        return loops

    def apply() -> None:
        index = int(side.index) + 1
        while not stop.is_set():
            index += 1
            side.engine.apply(index, payload, True)
            applied.append(index)

    stop, applied = threading.Event(), list[int]()
    alone = count()
    thread = threading.Thread(target=apply)
    thread.start()
    beside = count()
    stop.set()
    thread.join()
    return max(0.0, 1 - beside / alone) * seconds / (len(applied) * batch) * 1e6
