"""Keys of writes, a node's or a program's: a pool of client sessions per database (docs/decisions/0011). Loop thread.

A write takes an idle session, and gives it back once its outcome is known to whoever asked. A session whose write
ended with an unknown outcome is not used again, so that `resolve` can still find the result.
INVARIANT: of a session, one write is under way at a time, and sequence numbers grow.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from dqlite_py.limits import SESSION_AHEAD_US
from dqlite_py.model import WriteKey
from dqlite_py.resultcodes import NEVER_APPLIED, SESSION_EXPIRED, SESSION_SUPERSEDED
from dqlite_py.units import SESSION_BYTES

_REFUSALS: Final = frozenset({SESSION_EXPIRED, SESSION_SUPERSEDED, NEVER_APPLIED})


def is_refusal(outcome: Any) -> bool:
    """Whether (log index, result) of a unit says something of its key and not of its statements."""
    return outcome is not None and outcome[1][0] in _REFUSALS


class ClientSessions:
    """`log_time_us`: of the last entry that is known of here; sequence numbers follow it."""

    def __init__(self, log_time_us: Callable[[], int]) -> None:
        self._log_time_us = log_time_us
        self._idle: dict[str, list[WriteKey]] = {}

    def take(self, database: str) -> WriteKey:
        """A key that was never used."""
        idle = self._idle.get(database)
        if not idle:
            return self.fresh(self._log_time_us())
        session, before = idle.pop()  # the last one given back: what the cluster keeps stays small
        now_us = self._log_time_us()
        return WriteKey(session, (before if before > now_us else now_us) + 1)

    def new(self) -> WriteKey:
        """A key of a new session, for a caller to hold. Any thread."""
        return self.fresh(self._log_time_us())

    def fresh(self, log_time_us: int) -> WriteKey:
        """A key of a new session, at this log time."""
        return WriteKey(secrets.token_bytes(SESSION_BYTES), log_time_us + 1)

    def take_at(self, database: str, log_time_us: int) -> WriteKey:
        """A key for an entry whose log time was set a while ago (a transaction's): it must not be ahead of that, nor
        behind: what is known here may be older than the database."""
        key = self.take(database)
        if key.sequence <= log_time_us + SESSION_AHEAD_US // 2:
            return key if key.sequence > log_time_us else WriteKey(key.session, log_time_us + 1)
        self.give_back(database, key)
        return self.fresh(log_time_us)

    def give_back(self, database: str, key: WriteKey) -> None:
        """The outcome of the key's write is known, or it certainly did not happen."""
        idle = self._idle.get(database)
        if idle is None:
            idle = self._idle[database] = []
        idle.append(key)
