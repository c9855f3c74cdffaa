"""What the demo's writers were told: acknowledged rows, unknown ones, latencies and the silences in between.

Bookkeeping only; loop thread. Times are of time.monotonic().
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

BUCKET_S = 0.25
BUCKETS_SHOWN = 48
RECENT_LATENCIES = 2000
BARS = " ▁▂▃▄▅▆▇█"


class RowKey(NamedTuple):
    """Who wrote the row, and its number there. No unique index in the table hides a double write."""

    writer: str
    number: int


class Silence(NamedTuple):
    start_s: float
    end_s: float

    @property
    def ms(self) -> float:
        return (self.end_s - self.start_s) * 1000


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value below which `share` (0..1) of the values lie; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Ledger:
    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.acknowledged: dict[RowKey, str] = {}  # row: node it went through
        self.unknown: dict[RowKey, str] = {}
        self.refused_count = 0
        self.by_node: Counter[str] = Counter()
        self._latencies_ms: deque[tuple[str, float]] = deque(maxlen=RECENT_LATENCIES)
        self._ack_times_s: list[tuple[float, str]] = []
        self._buckets: Counter[int] = Counter()

    def acknowledge(self, row: RowKey, node: str, sent_s: float, now_s: float) -> None:
        if row in self.acknowledged:
            raise AssertionError(f"{row} was acknowledged twice to one writer")
        self.acknowledged[row] = node
        self.by_node[node] += 1
        self._latencies_ms.append((node, (now_s - sent_s) * 1000))
        self._ack_times_s.append((now_s, node))
        self._buckets[self._bucket(now_s)] += 1

    def lose_sight(self, row: RowKey, node: str) -> None:
        """No answer, or one that leaves it open: the row may be there or not."""
        self.unknown[row] = node

    def refuse(self) -> None:
        """Certainly not applied: the writer tries the same row again."""
        self.refused_count += 1

    def latency_ms(self, share: float, node: str | None = None) -> float | None:
        return percentile((ms for name, ms in self._latencies_ms if node in (None, name)), share)

    def acknowledged_since(self, moment_s: float, excluding: str = "") -> int:
        count = 0
        for at, node in reversed(self._ack_times_s):
            if at <= moment_s:
                break
            count += node != excluding
        return count

    def longest_silence(self, from_s: float, excluding: str) -> Silence | None:
        """The longest time without an acknowledgement since just before `from_s`, through all nodes but one.

        Counts the wait already under way at `from_s`. None before there is an acknowledgement after it.
        """
        times = [at for at, node in self._ack_times_s if node != excluding]
        longest: Silence | None = None
        for before, after in itertools.pairwise(times):
            if after > from_s and (longest is None or after - before > longest.end_s - longest.start_s):
                longest = Silence(before, after)
        return longest

    def rate(self, now_s: float, window_s: float = 1.0) -> float:
        return self.acknowledged_since(now_s - window_s) / window_s

    def sparkline(self, now_s: float) -> str:
        """Acknowledged rows per quarter second, the newest to the right."""
        last = self._bucket(now_s) - 1  # the current one is not full yet
        counts = [self._buckets[b] for b in range(last - BUCKETS_SHOWN + 1, last + 1)]
        top = max(counts) or 1
        return "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in counts)

    def _bucket(self, moment_s: float) -> int:
        return int((moment_s - self.started_s) / BUCKET_S)
