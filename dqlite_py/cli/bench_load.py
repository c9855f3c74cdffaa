"""A bounded load on a cluster, for `dqlite-py bench`: writers, readers, and how long each call took.

Each worker is a thread that writes, or reads, one row at a time until the time is over. Errors are counted by their
outcome; none is hidden in a repetition. Nothing here prints.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dqlite_py.errors import Error

TABLE: Final = "bench"
CREATE: Final = f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, worker INTEGER NOT NULL, value BLOB NOT NULL)"
_INSERT: Final = f"INSERT INTO {TABLE} (worker, value) VALUES (?, ?)"
_SELECT: Final = f"SELECT value FROM {TABLE} WHERE id = ?"
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_ERROR_PAUSE_S: Final = 0.05  # a cluster without a leader is not asked in a tight loop


class Load(NamedTuple):
    """`value_bytes`: of each row. `duration_s`: of the whole load."""

    writers: int
    readers: int
    duration_s: float
    value_bytes: int


@dataclass(slots=True)
class Tally:
    """What one worker did. Latencies in seconds, in the order of their coming."""

    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class Summary(NamedTuple):
    """`percentiles_ms` by percentile; empty when nothing succeeded."""

    done_count: int
    per_s: float
    percentiles_ms: dict[float, float]
    max_ms: float
    errors: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.done_count,
            "per_s": round(self.per_s, 1),
            **{f"p{p:g}_ms".replace(".", "_"): round(value, 3) for p, value in self.percentiles_ms.items()},
            "max_ms": round(self.max_ms, 3),
            "errors": self.errors,
        }


class Result(NamedTuple):
    took_s: float
    writes: Summary
    reads: Summary


def percentile(ordered: Sequence[float], wanted: float) -> float:
    """The smallest value that `wanted` percent are not above (nearest rank); `ordered` is not empty."""
    rank = max(1, -(-len(ordered) * wanted // 100))
    return ordered[int(rank) - 1]


def summarize(tallies: Sequence[Tally], took_s: float) -> Summary:
    latencies = sorted(latency for tally in tallies for latency in tally.latencies_s)
    errors: Counter[str] = Counter()
    for tally in tallies:
        errors.update(tally.errors)
    found = {wanted: 1000 * percentile(latencies, wanted) for wanted in PERCENTILES} if latencies else {}
    return Summary(
        len(latencies),
        len(latencies) / took_s if took_s > 0 else 0.0,
        found,
        1000 * latencies[-1] if latencies else 0.0,
        dict(sorted(errors.items())),
    )


def run(
    load: Load,
    connect: Callable[[], Any],
    tick: Callable[[float], None],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Result:
    """Run the load on the table, which exists. `tick` hears the seconds that are over, on this thread.

    A KeyboardInterrupt ends it early, with what was done until then. Raises what `connect` raises, before any load.
    """
    stop = threading.Event()
    connections = [connect() for _ in range(load.writers + load.readers)]
    writing = [Tally() for _ in range(load.writers)]
    reading = [Tally() for _ in range(load.readers)]
    newest = [0]
    threads = []
    for number, (connection, tally) in enumerate(zip(connections, writing + reading, strict=True)):
        write, read = _writer(connection, number, load.value_bytes, newest), _reader(connection, newest)
        work = write if number < load.writers else read
        arguments = (work, tally, stop, clock)
        threads.append(threading.Thread(target=_work, args=arguments, name=f"bench-{number}", daemon=True))
    began = clock()
    for thread in threads:
        thread.start()
    try:
        while (over_s := clock() - began) < load.duration_s:
            tick(over_s)
            stop.wait(min(0.1, load.duration_s - over_s))
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        took_s = clock() - began
        for connection in connections:
            connection.close()
    return Result(took_s, summarize(writing, took_s), summarize(reading, took_s))


def _work(work: Callable[[], None], tally: Tally, stop: threading.Event, clock: Callable[[], float]) -> None:
    while not stop.is_set():
        began = clock()
        try:
            work()
        except Error as error:
            tally.errors[f"{type(error).__name__} ({error.outcome.value})"] += 1
            stop.wait(_ERROR_PAUSE_S)
        else:
            tally.latencies_s.append(clock() - began)


def _writer(connection: Any, worker: int, value_bytes: int, newest: list[int]) -> Callable[[], None]:
    chance = random.Random(worker)

    def write() -> None:
        cursor = connection.execute(_INSERT, (worker, chance.randbytes(value_bytes)))
        newest[0] = max(newest[0], cursor.lastrowid)

    return write


def _reader(connection: Any, newest: list[int]) -> Callable[[], None]:
    chance = random.Random()

    def read() -> None:
        connection.execute(_SELECT, (chance.randint(1, max(1, newest[0])),)).fetchall()

    return read
