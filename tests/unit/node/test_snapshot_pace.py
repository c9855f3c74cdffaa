"""How fast a source works: bounded beside writes, at once without."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.limits import (
    MIB,
    SNAPSHOT_ALONE_MS,
    SNAPSHOT_COPY_BYTES_PER_S,
    SNAPSHOT_REST_RATIO,
    SNAPSHOT_SEND_BYTES_PER_S,
)
from dqlite_py.node import snapshot_pace
from dqlite_py.node.snapshot_pace import SourcePace

COPY_MS = MIB * 1000 / SNAPSHOT_COPY_BYTES_PER_S
SEND_MS = MIB * 1000 / SNAPSHOT_SEND_BYTES_PER_S


class Bench:
    """A clock that waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1000.0
        self.last_index = 7
        self.waited_ms: list[float] = []

        async def sleep(seconds: float) -> None:
            self.wait(seconds)

        monkeypatch.setattr(snapshot_pace.asyncio, "sleep", sleep)
        self.pace = SourcePace(self, lambda: self.last_index)
        monkeypatch.setattr(self.pace._ended, "wait", self.wait)

    def wait(self, seconds: float) -> None:
        self.waited_ms.append(seconds * 1000)
        self.now_ms += seconds * 1000

    def monotonic_ms(self) -> float:
        return self.now_ms

    def wall_us(self) -> int:
        return 0

    def works(self, ms: float) -> None:
        """A piece of a MiB takes so long; entries are written meanwhile."""
        self.now_ms += ms
        self.last_index += 1
        self.pace.rest(MIB)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_alone_it_does_not_rest(bench: Bench) -> None:
    bench.pace.begin()
    for _ in range(100):
        bench.now_ms += 1
        bench.pace.rest(MIB)
    assert bench.waited_ms == []


def test_beside_writes_it_rests_as_long_as_the_work_was_heavy(bench: Bench) -> None:
    bench.pace.begin()
    for _ in range(3):
        bench.works(1.0)
    assert bench.waited_ms == pytest.approx([SNAPSHOT_REST_RATIO] * 3)


def test_a_slow_disk_does_not_make_it_slower_than_its_floor(bench: Bench) -> None:
    bench.pace.begin()
    began_ms = bench.now_ms
    for _ in range(64):
        bench.works(COPY_MS / 2)
    assert bench.now_ms - began_ms == pytest.approx(64 * COPY_MS)
    bench.works(3 * COPY_MS)
    assert bench.waited_ms[-1] == 0.0, "a piece that took longer by itself"


def test_it_is_alone_again_when_the_writes_end(bench: Bench) -> None:
    bench.pace.begin()
    bench.works(1.0)
    bench.now_ms += SNAPSHOT_ALONE_MS
    bench.pace.rest(MIB)
    assert len(bench.waited_ms) == 1


async def test_chunks_are_handed_out_at_a_bounded_rate_to_all_together(bench: Bench) -> None:
    bench.last_index += 1
    began_ms = bench.now_ms
    for _ in range(9):
        await bench.pace.turn(MIB)
        bench.last_index += 1
    assert bench.now_ms - began_ms == pytest.approx(8 * SEND_MS)
    bench.now_ms += 10_000  # what was not asked for is not owed later
    bench.last_index += 1
    for _ in range(2):
        await bench.pace.turn(MIB)
    assert bench.waited_ms[-2:] == pytest.approx([0.0, SEND_MS])


async def test_alone_chunks_go_at_once(bench: Bench) -> None:
    for _ in range(100):
        await bench.pace.turn(MIB)
    assert sum(bench.waited_ms) == 0.0


def test_who_stops_does_not_wait() -> None:
    class Stuck:
        now_ms = 0.0

        def monotonic_ms(self) -> float:
            self.now_ms += 1000.0
            return self.now_ms

        def wall_us(self) -> int:
            return 0

    clock: Any = Stuck()
    index = iter(range(1000))
    pace = SourcePace(clock, lambda: next(index))
    pace.end()
    pace.begin()
    pace.rest(1 << 50)  # years, by its size alone
