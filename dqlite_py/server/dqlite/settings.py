"""What the server of dqlite's protocol is bounded by. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dqlite_py.errors import InterfaceError
from dqlite_py.gateway import ReadLevel, TransactionLimits
from dqlite_py.limits import KIB, MIB

REQUESTS_BYTES_MAX: Final = 256 * MIB  # received in part, waiting or at work, of all connections
ANSWERS_BYTES_MAX: Final = 512 * MIB  # of rows that clients do not take, of all connections
TEXTS_BYTES_MAX: Final = 256 * MIB  # of prepared statements, of all connections
READ_AHEAD_BYTES: Final = 64 * KIB  # what a client may send while a request of its is at work
SMALL_BYTES: Final = 64 * KIB  # a connection that holds no more is never ended for the memory of all
WRITE_BUFFER_BYTES: Final = 64 * KIB
STATEMENTS_BYTES_MAX: Final = 8 * MIB  # of the texts of prepared statements, per connection
CONNECTIONS_MAX: Final = 16_384
FRAME_S: Final = 30.0  # for a frame once it has begun to come; one more second per FRAME_RATE_BYTES of it
FRAME_RATE_BYTES: Final = 64 * KIB
STALL_S: Final = 60.0  # a client that takes less than STALL_BYTES of its answer in such a time is given up
STALL_BYTES: Final = 64 * KIB
SWEEP_S: Final = 1.0
HEARTBEAT_MS: Final = 15_000  # what WELCOME says; nothing is expected


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`timeout_s`: how long a statement may take, each piece of its rows anew; clients give up when they like.
    `busy_timeout_s`: how long BEGIN IMMEDIATE and the first write of a transaction wait for the database."""

    timeout_s: float = 60.0
    busy_timeout_s: float = 5.0
    limits: TransactionLimits = field(default=TransactionLimits(idle_s=30.0, hold_s=60.0))
    read_level: ReadLevel = ReadLevel.LINEARIZABLE
    connections_max: int = CONNECTIONS_MAX

    def __post_init__(self) -> None:
        """Raises InterfaceError, naming the setting."""
        for name, least in (("timeout_s", 0.001), ("busy_timeout_s", 0.0), ("connections_max", 1)):
            if getattr(self, name) < least:
                raise InterfaceError(f"{name} is at least {least:g}")
        if self.limits.idle_s <= 0 or self.limits.hold_s <= 0:
            raise InterfaceError("the limits of transactions are above 0 s")
