"""What a connection can be told, checked: time limits, read level, isolation level, autocommit, the session token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import InterfaceError, ProgrammingError
from dqlite_py.gateway import Freshness, ReadLevel, TransactionLimits, WriteKey
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.units import SESSION_BYTES

LEGACY_TRANSACTION_CONTROL: Final = -1
TIMEOUT_S: Final = REQUEST_TIMEOUT_MS / 1000
BUSY_TIMEOUT_S: Final = 5.0
IDLE_LIMIT_S: Final = 10.0
HOLD_LIMIT_S: Final = 60.0
_ISOLATION_LEVELS: Final = ("", "DEFERRED", "IMMEDIATE", "EXCLUSIVE")
_TOKEN_PREFIX: Final = "index-"


@dataclass(slots=True)
class Settings:
    """Of one connection; `freshness` is kept ready for the usual read."""

    timeout_s: float
    busy_timeout_s: float
    limits: TransactionLimits
    read_level: ReadLevel
    max_staleness_s: float | None
    once: bool
    isolation_level: str | None
    autocommit: bool | int
    detect_types: int
    freshness: Freshness

    def refresh(self) -> None:
        """After a change of level or staleness."""
        staleness = self.max_staleness_s if self.read_level is ReadLevel.STALE else None
        self.freshness = Freshness(self.read_level, 0, staleness)


def check_seconds(name: str, seconds: Any, *, zero: bool = False) -> float:
    """A number of seconds above 0 (or of at least 0, with `zero`); raises InterfaceError."""
    ok = not isinstance(seconds, bool) and isinstance(seconds, (int, float)) and math.isfinite(seconds)
    if not ok or seconds < 0 or (seconds == 0 and not zero):
        raise InterfaceError(
            f"{name} must be a number of seconds {'of at least' if zero else 'above'} 0, not {seconds!r}"
        )
    return float(seconds)


def check_staleness(seconds: Any) -> float | None:
    return None if seconds is None else check_seconds("max_staleness", seconds, zero=True)


def check_level(level: ReadLevel | str) -> ReadLevel:
    try:
        return ReadLevel(level)
    except ValueError:
        names = ", ".join(known.value for known in ReadLevel)
        raise InterfaceError(f"read_level {level!r} is not known: use one of {names}") from None


def check_isolation_level(level: Any) -> str | None:
    if level is None:
        return None
    if not isinstance(level, str):
        raise TypeError("isolation_level must be str or None")
    known = str.upper(level)
    if known not in _ISOLATION_LEVELS:
        raise ValueError("isolation_level string must be '', 'DEFERRED', 'IMMEDIATE', or 'EXCLUSIVE'")
    return known


def check_autocommit(value: Any) -> bool | int:
    if value is True or value is False:
        return bool(value)
    if type(value) is int and value == LEGACY_TRANSACTION_CONTROL:
        return LEGACY_TRANSACTION_CONTROL
    raise ValueError("autocommit must be True, False, or dqlite_py.LEGACY_TRANSACTION_CONTROL")


def encode_token(log_index: int) -> str:
    return f"{_TOKEN_PREFIX}{log_index}"


def decode_token(token: Any) -> int:
    """The log index in a session token; raises InterfaceError for anything else."""
    digits = token.removeprefix(_TOKEN_PREFIX) if isinstance(token, str) else ""
    if not (
        digits.isascii() and digits.isdigit() and len(digits) < 20 and token == encode_token(int(digits))
    ):
        raise InterfaceError(f"a session token looks like {encode_token(42)!r}, not {token!r:.80}")
    return int(digits)


def check_key(key: WriteKey, *, in_transaction: bool) -> None:
    """Raises InterfaceError for what new_key() did not give, ProgrammingError inside a transaction."""
    if in_transaction:
        raise ProgrammingError("a transaction's COMMIT has a key of its own: commit or roll back first")
    if not (isinstance(key, WriteKey) and type(key.session) is bytes and type(key.sequence) is int):
        raise InterfaceError(f"a key is what new_key() gave, not {key!r:.80}")
    if len(key.session) != SESSION_BYTES or not 0 < key.sequence < 2**63:
        raise InterfaceError(f"a key has {SESSION_BYTES} bytes and a sequence above 0, not {key!r:.80}")
