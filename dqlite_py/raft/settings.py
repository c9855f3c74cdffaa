"""Validated settings of the consensus core. Built by the node from its config."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dqlite_py import limits
from dqlite_py.errors import InterfaceError


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Times in ms, sizes in bytes. Every member needs the same election times: stickiness hangs on them."""

    election_min_ms: int = limits.ELECTION_MIN_MS
    election_max_ms: int = limits.ELECTION_MAX_MS
    heartbeat_ms: int = limits.HEARTBEAT_MS
    append_bytes_max: int = limits.APPEND_BYTES_MAX
    append_entries_max: int = limits.APPEND_ENTRIES_MAX
    inflight_bytes_max: int = limits.INFLIGHT_BYTES_MAX
    inflight_messages_max: int = limits.INFLIGHT_MESSAGES_MAX
    log_cache_bytes_max: int = limits.LOG_CACHE_BYTES_MAX
    uncommitted_bytes_max: int = limits.UNCOMMITTED_BYTES_MAX
    unapplied_bytes_max: int = 64 * limits.MIB  # handed to the state machine and not yet reported applied
    promote_lag_entries_max: int = 1024  # a stand-by further behind the commit index is not made a voter
    members_max: int = limits.MEMBERS_MAX

    @property
    def lease_ms(self) -> float:
        """How long nobody else can lead after a round began that a quorum answers, by a clock that is wrong by at most
        limits.LEASE_DRIFT_PERCENT against theirs."""
        return self.election_min_ms * (100 - limits.LEASE_DRIFT_PERCENT) / 100

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise InterfaceError(f"{field.name} must be positive, not {getattr(self, field.name)}")
        if not self.heartbeat_ms * 2 <= self.election_min_ms < self.election_max_ms:
            raise InterfaceError(
                "raft times need 2 * heartbeat_ms <= election_min_ms < election_max_ms, not "
                f"{self.heartbeat_ms}, {self.election_min_ms}, {self.election_max_ms}"
            )
