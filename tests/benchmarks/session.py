"""A run: its effort, its folder, and what has been found so far. Groups add to it; the report reads it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks import drivers
from tests.benchmarks.figures import Figure
from tests.benchmarks.hosting import DriverFailed, Hosted, hosted
from tests.benchmarks.measures import Sample


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    seconds: float = 2.0  # of one measurement that a target is judged by
    short_s: float = 1.0  # of the others
    rounds: int = 3  # where a ratio or a fall is judged
    clients: tuple[int, ...] = (1, 4, 16, 64, 256)
    peer_clients: tuple[int, ...] = (1, 16, 64)
    writers: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    rate_shares: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1)
    database_mib: tuple[int, ...] = (1, 4, 16, 64, 256)
    log_entries: tuple[int, ...] = (1_000, 3_000, 10_000)
    node_counts: tuple[int, ...] = (1, 3, 5, 7)
    value_bytes: tuple[int, ...] = (10, 100, 1024, 10_240, 102_400, 1_048_576)
    memory_rows: int = 2_000_000
    kills: int = 4


DEFAULT = Effort()
QUICK = Effort(
    seconds=0.5,
    short_s=0.5,
    rounds=1,
    clients=(1, 16),
    peer_clients=(1, 16),
    writers=(1, 16, 64),
    rate_shares=(0.25, 0.75),
    database_mib=(1, 4),
    log_entries=(200, 400),
    node_counts=(1, 3),
    value_bytes=(10, 1024),
    memory_rows=100_000,
    kills=2,
)
FULL = Effort(
    seconds=5.0,
    short_s=3.0,
    rounds=5,
    database_mib=(1, 4, 16, 64, 256, 1024, 4096),
    log_entries=(1_000, 4_000, 16_000, 64_000),
    memory_rows=10_000_000,
    kills=20,
    peer_clients=(1, 4, 16, 64, 256),
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample and the group that took it; `x` is its place on the group's horizontal axis, if it has one."""

    group: str
    sample: Sample
    x: float | None = None
    series: str = ""


@dataclass(slots=True)
class Session:
    folder: Path
    effort: Effort
    say: Callable[[str], None] = lambda _text: None
    placed: list[Placed] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # "group|series": (x, y)
    texts: dict[str, str] = field(default_factory=dict)  # title: output of another program
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # driver: why
    seconds: float = 0.0
    _opened: int = 0

    def can(self, driver: str) -> bool:
        """Whether this driver runs here; notes why not, once."""
        why = drivers.missing(driver)
        if why and driver not in self.skipped:
            self.skipped[driver] = why
            self.say(f"{drivers.TITLES[driver]}: left out: {why}")
        return not why

    @contextlib.contextmanager
    def cluster(self, driver: str, **options: Any) -> Iterator[Hosted]:
        """An open cluster in a folder of its own, which is removed afterwards."""
        self._opened += 1
        folder = self.folder / f"{self._opened:03d}-{driver}"
        try:
            with hosted(driver, folder, **options) as host:
                yield host
        except DriverFailed as error:
            log = folder / "host.log"
            tail = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            raise DriverFailed(f"{error}\n{tail}".strip()) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def tolerant(self, what: str) -> Iterator[None]:
        """A failing driver is noted; the others go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # shown at the end
            text = str(error) if isinstance(error, DriverFailed) else f"{type(error).__name__}: {error}"
            self.failures.append(f"{what}: {text}")
            self.say(f"FAILED: {what}: {text.splitlines()[0]}")

    def measure(
        self,
        host: Hosted,
        group: str,
        workload: str,
        clients: int,
        *,
        seconds: float | None = None,
        rate: float | None = None,
        x: float | None = None,
        series: str = "",
        **place: Any,
    ) -> Sample:
        """Measure and keep the sample; raises DriverFailed."""
        offered = "" if rate is None else f" at {rate:,.0f}/s"
        self.say(f"{group}: {drivers.TITLES[host.name]}, {workload}, {clients} clients{offered}")
        sample: Sample = host.measure(workload, clients, seconds or self.effort.seconds, rate)
        return self.keep(group, sample, x=x, series=series, **place)

    def keep(
        self, group: str, sample: Sample, *, x: float | None = None, series: str = "", **place: Any
    ) -> Sample:
        """Note a sample; `place` overrides its fields."""
        sample = replace(sample, **place) if place else sample
        self.placed.append(Placed(group, sample, x, series))
        return sample

    def of(self, group: str, **wanted: Any) -> list[Sample]:
        """Samples of a group whose fields have these values."""
        return [
            p.sample
            for p in self.placed
            if p.group == group and all(getattr(p.sample, name) == value for name, value in wanted.items())
        ]

    def curve(self, key: str, x: float, y: float) -> None:
        self.curves.setdefault(key, []).append((x, y))
