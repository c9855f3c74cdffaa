"""Keys of a node's writes: one pool of client sessions per database (docs/decisions/0011). Loop thread.

A write takes an idle session, and gives it back once its outcome is known to whoever asked. A session whose write
ended with an unknown outcome is not used again, so that `resolve` can still find the result.
INVARIANT: of a session, one write is under way at a time, and sequence numbers grow.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any, Final

from dqlite_py.model import WriteKey
from dqlite_py.units import SESSION_BYTES

KEYS_ARE_KNOWN: Final = False  # to the engines
_ABORT: Final = 4
SESSION_EXPIRED: Final = _ABORT | 200 << 8
SESSION_SUPERSEDED: Final = _ABORT | 201 << 8
KEY_IS_VOID: Final = _ABORT | 202 << 8
_REFUSALS: Final = frozenset({SESSION_EXPIRED, SESSION_SUPERSEDED, KEY_IS_VOID})
_TIME: Final = re.compile(r"\d{15,18}")


def is_refusal(outcome: Any) -> bool:
    """Whether (log index, result) of a unit says something of its key and not of its statements."""
    return outcome is not None and outcome[1][0] in _REFUSALS


def told_log_time(message: str) -> int:
    """The log time (microseconds since 1970) in the message of an expired session; 0 without one."""
    return max(map(int, _TIME.findall(message)), default=0)


class ClientSessions:
    """`newest_us`: the newest log time that this node has routed; sequence numbers follow it."""

    def __init__(self, newest_us: Callable[[], int]) -> None:
        self._newest_us = newest_us
        self._idle: dict[str, list[WriteKey]] = {}

    def take(self, database: str) -> WriteKey:
        """A key that was never used."""
        idle = self._idle.get(database)
        if not idle:
            return self.fresh(0)
        session, before = idle.pop()  # the last one given back: what the cluster keeps stays small
        newest = self._newest_us()
        return WriteKey(session, (before if before > newest else newest) + 1)

    def fresh(self, log_time_us: int) -> WriteKey:
        """A key of a new session; log time is known to be at least `log_time_us`."""
        return WriteKey(secrets.token_bytes(SESSION_BYTES), max(self._newest_us(), log_time_us) + 1)

    def give_back(self, database: str, key: WriteKey) -> None:
        """The outcome of the key's write is known, or it certainly did not happen."""
        idle = self._idle.get(database)
        if idle is None:
            idle = self._idle[database] = []
        idle.append(key)
