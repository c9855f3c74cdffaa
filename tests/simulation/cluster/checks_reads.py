"""Read levels: what a read showed, against what docs/read-levels.md says of its level.

Every read shows a whole small database (clients.STATE): so many of its writes, which must be the first ones of the log.
What is KNOWN of a database at a moment are the writes acknowledged, and the states seen by reads that ended, before it:

- linearizable and leader: all that was known when the read began;
- stale with a bound: all that was known so long before it began, by the slowest clock there is;
- session: all up to the token's entry and whatever was seen by who had it before; the index that it tells is that of
  the state which it shows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dqlite_py.gateway import ReadLevel
from tests.simulation.cluster.checks_consensus import Fail
from tests.simulation.cluster.checks_stale import Row, StaleFacts

SLOWEST_CLOCK: Final = 0.95  # see faults.clock_drift
FRESH: Final = (ReadLevel.LINEARIZABLE, ReadLevel.LEADER)


@dataclass(slots=True)
class Token:
    """Of one database, handed from reader to reader. `count`: writes seen by those who had it; `node`: the last."""

    log_index: int = 0
    count: int = 0
    node: str = ""


@dataclass(slots=True)
class LevelRead:
    """`bound_s`: max_staleness, None for none. `token`: of level session. `is_frozen`: it is two reads in one read
    transaction. `count`: so many writes the state had that it showed."""

    reader: int
    number: int
    level: ReadLevel
    database: str
    node: str
    began: float
    timeout_s: float = 1.0
    bound_s: float | None = None
    token: Token | None = None
    is_frozen: bool = False
    outcome: str = "pending"  # answered or failed
    error: str = ""
    log_index: int = 0
    count: int = -1
    floor: int = field(default=0)  # what it must show at least
    is_judged: bool = True


class _Known:
    """Of one database: when it was known that it has so many writes. Both grow."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.counts: list[int] = []

    def add(self, now: float, count: int) -> None:
        if not self.counts or count > self.counts[-1]:
            self.times.append(now)
            self.counts.append(count)

    def before(self, when: float) -> int:
        position = bisect_right(self.times, when)
        return self.counts[position - 1] if position else 0


class ReadFacts:
    """Fed with what writes and reads of any client tell, and with reads of all levels."""

    def __init__(self, fail: Fail, stale: StaleFacts) -> None:
        self._fail = fail
        self._stale = stale
        self._known: dict[str, _Known] = defaultdict(_Known)
        self.newest_write: dict[
            str, tuple[int, int]
        ] = {}  # per database: token and count of one acknowledged
        self.reads = 0

    def known(self, database: str, now: float, count: int) -> None:
        """Somebody was told of so many writes."""
        self._known[database].add(now, count)

    def wrote(self, database: str, log_index: int, count: int) -> None:
        """An acknowledged write has this token."""
        if log_index > self.newest_write.get(database, (0, 0))[0]:
            self.newest_write[database] = log_index, count

    def began(self, read: LevelRead) -> None:
        known = self._known[read.database]
        if read.level in FRESH:
            read.floor = known.before(read.began)
        elif read.token is not None:
            read.floor = read.token.count
        elif read.bound_s is not None:
            read.floor = known.before(read.began - read.bound_s / SLOWEST_CLOCK)

    def ended(self, read: LevelRead, now: float, states: Sequence[Sequence[Row]]) -> None:
        """It was answered: one state, or several of one read transaction."""
        who = f"{read.level.value} read {read.reader, read.number} at {read.node}"
        if any(state != states[0] for state in states):
            self._fail(f"read transactions: {who} sees {states[0]}, then {states[-1]}")
        count = read.count = self._stale.shown(who, read.database, states[0])
        self.reads += 1
        if read.level is ReadLevel.SESSION or read.is_frozen:
            self._check_index(who, read)
        if read.is_judged and count < read.floor:
            bound = "" if read.bound_s is None else f" {read.bound_s:g} s before"
            self._fail(
                f"read levels: {who} shows {count} writes in {read.database}; {read.floor} were known{bound} when it "
                f"began at {read.began:.6f} s"
            )
        if read.token is not None:
            read.token.log_index = max(read.token.log_index, read.log_index)
            read.token.count = max(read.token.count, count)
            read.token.node = read.node
        self.known(read.database, now, count)

    def _check_index(self, who: str, read: LevelRead) -> None:
        least = 0 if read.token is None else read.token.log_index
        if read.log_index < least:
            self._fail(f"read levels: {who} has token {least} and is told {read.log_index}")
        self.is_at(who, read.database, read.log_index, read.count)

    def is_at(self, who: str, database: str, log_index: int, count: int) -> None:
        """A state with so many writes was told to be that of this index."""
        known = self._stale.count_at(database, log_index)
        if count != known:
            self._fail(
                f"read levels: {who} shows {count} writes in {database}, but tells log index {log_index}, where it "
                f"had {known}"
            )
