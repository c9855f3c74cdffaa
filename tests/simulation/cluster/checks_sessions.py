"""Which units of the log take effect: by the rules of client sessions, written down a second time (sessionmodel.py).

A node sends a write with a key again when its outcome is uncertain, so the log may hold it more than once; it may also
hold keys that are refused, for which their node takes another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgpack

from dqlite_py import limits
from dqlite_py.command import CommandKind
from dqlite_py.model import Entry, WriteKey
from tests.support.sessionmodel import EXPIRED, Bounds, SessionModel, Unit

BOUNDS: Final = Bounds(
    limits.SESSION_KEEP_US,
    limits.SESSION_AHEAD_US,
    limits.SESSIONS_MAX,
    limits.SESSION_ROWS_BYTES_MAX,
    limits.SESSION_EVICTIONS_MAX,
)


class SessionFacts:
    """All databases, fed with the log's entries in their order."""

    def __init__(self) -> None:
        self._models: dict[str, SessionModel] = {}
        self.repeated = 0  # units that did not take effect, or not again
        self.fenced = 0  # fences of a later term for transactions that had taken effect
        self._transactions: dict[tuple[str, bytes, int], int] = {}  # that took effect: term
        self._expired: dict[int, frozenset[int]] = {}  # entry -> units that are refused for their key's age

    def effective(self, entry: Entry) -> Iterator[tuple[str, Any]]:
        """Database and statements of each unit that is executed, in order; a transaction's are its groups."""
        command = msgpack.unpackb(entry.payload, raw=False, use_list=False, strict_map_key=False)
        if command[1] == CommandKind.OPEN:
            self._opened(*command[2:4])
        elif command[1] == CommandKind.DROP:
            self._models.pop(command[2], None)
        elif command[2] in self._models:  # else it has no effect
            yield from self._units(entry, command)

    def disagreement(self, entry: Entry, results: Sequence[Any]) -> str | None:
        """Of a node's results with the rules: which units are refused for their key's age."""
        refused = {at for at, result in enumerate(results) if result[0] == EXPIRED}
        rules = self._expired.get(entry.index, frozenset())
        return (
            None if refused == rules else f"units {sorted(refused)} are refused, by the rules {sorted(rules)}"
        )

    def _opened(self, database: str, now_us: int) -> None:
        """What is there goes on; what is made takes no write that was for one of before."""
        if database not in self._models:
            self._models[database] = SessionModel(BOUNDS, now_us)

    def _units(self, entry: Entry, command: Any) -> Iterator[tuple[str, Any]]:
        executed: list[int] = []

        def run(position: int) -> Callable[[], bytes]:
            def note() -> bytes:
                executed.append(position)
                return b""

            return note

        units = []
        for position, (session, sequence, statements, *_digest) in enumerate(command[6]):
            key = None if session is None else WriteKey(session, sequence)
            units.append(Unit(key, not statements, run(position)))
        answers = self._models[command[2]].apply(entry.index, command[3], units)
        self._expired[entry.index] = frozenset(at for at, answer in enumerate(answers) if answer == EXPIRED)
        self.repeated += len(units) - len(executed)
        for position, (session, sequence, statements, *digest) in enumerate(command[6]):
            known = (command[2], session, sequence)
            if digest and position in executed:
                self._transactions[known] = entry.term
            elif not statements:
                self.fenced += self._transactions.get(known, entry.term) < entry.term
        for position in executed:
            yield command[2], command[6][position][2]
