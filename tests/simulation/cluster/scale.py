"""How small everything is in a simulated cluster, drawn per seed: small enough that rare paths come often."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from dqlite_py.limits import FRAME_FRAGMENT_BYTES
from dqlite_py.raft.settings import RaftSettings

KIB: Final = 1024
MIB: Final = 1024 * KIB
LARGE_SHARE: Final = 0.08
FRAGMENTS: Final = (
    "dqlite_py.raft.rpc",
    "dqlite_py.wire.frames",
    "dqlite_py.wire.peer",
    "dqlite_py.wire.sendqueue",
)
"""Modules that know how large a frame may be."""
RAFT: Final = RaftSettings(
    append_bytes_max=4 * KIB,
    append_entries_max=16,
    inflight_bytes_max=16 * KIB,
    inflight_messages_max=8,
    log_cache_bytes_max=8 * KIB,
    uncommitted_bytes_max=64 * KIB,
    unapplied_bytes_max=16 * KIB,
    promote_lag_entries_max=50,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in bytes. `short`: logs so short that who was away needs a snapshot."""

    segment_bytes: int = 64 * KIB
    step_bytes: int = 16 * KIB
    compact_bytes: int = 192 * KIB
    tail_bytes: int = 8 * KIB
    checkpoint_frames: int = 60
    chunk_bytes: int = 8 * KIB
    big_write_bytes: int = 0  # now and then a write is so big
    uncommitted_bytes: int = 64 * KIB
    operations_per_s: float = 20.0
    scratch_per_s: float = 1.5  # operations on databases that come and go
    fragment_bytes: int = FRAME_FRAGMENT_BYTES  # larger messages travel in pieces
    large_bytes: int = 0  # what the first database holds from the beginning
    refused: float = 0.0  # share of writes that break a constraint
    transactions_per_s: float = 0.0  # interactive ones, which hold up other writes
    levels_per_s: float = 0.0  # reads of all levels
    followers: int = 0  # consumers of changes
    keep_changes: int | None = None  # bytes, of every database; None: of those that are followed

    @classmethod
    def draw(cls, rng: random.Random) -> Scale:
        short = rng.random() < 0.4
        segment = rng.choice((8, 12) if short else (24, 64, 256)) * KIB
        return cls(
            segment_bytes=segment,
            step_bytes=rng.choice((4, 16)) * KIB,
            compact_bytes=segment * rng.choice((1, 3)),
            tail_bytes=0 if short else rng.choice((0, 8, 32)) * KIB,
            checkpoint_frames=rng.choice((20, 60, 200)),
            chunk_bytes=rng.choice((4, 8, 64)) * KIB,
            big_write_bytes=rng.choice((0, 0, 6, 40)) * KIB,
            uncommitted_bytes=rng.choice((4, 64, 64)) * KIB,
            operations_per_s=rng.choice((10.0, 20.0, 20.0, 60.0)),
            scratch_per_s=rng.choice((0.0, 1.0, 2.0, 8.0)),
            fragment_bytes=rng.choice((FRAME_FRAGMENT_BYTES, 2 * KIB, 16 * KIB)),
            large_bytes=rng.randrange(MIB, 4 * MIB) if rng.random() < LARGE_SHARE else 0,
            refused=rng.choice((0.0, 0.1)),
            transactions_per_s=rng.choice((0.0, 2.0, 6.0)),
            levels_per_s=rng.choice((0.0, 4.0, 12.0)),
            followers=rng.choice((0, 2, 3)),
            keep_changes=rng.choice((None, None, 16 * KIB)),
        )

    def rows(self) -> list[tuple[str, str, Any]]:
        """For seams.installed."""
        return [
            ("dqlite_py.node.startup", "SEGMENT_BYTES", self.segment_bytes),
            ("dqlite_py.node.role_manager", "UP_AFTER_MS", 300.0),
            ("dqlite_py.node.membership", "LEAVING_S", 5.0),
            ("dqlite_py.node.membership", "STEADY_MS", 300.0),
            ("dqlite_py.storage.engine", "WAL_CHECKPOINT_FRAMES", self.checkpoint_frames),
            ("dqlite_py.node.applier", "READERS_PER_DATABASE", 1),
            ("dqlite_py.node.snapshot_source", "SNAPSHOT_CHUNK_BYTES", self.chunk_bytes),
            ("dqlite_py.node.snapshot_incoming", "SNAPSHOT_CHUNK_BYTES", self.chunk_bytes),
            ("dqlite_py.node.snapshot_incoming", "SNAPSHOT_SYNC_BYTES", 4 * self.chunk_bytes),
            ("dqlite_py.node.snapshot_incoming", "SNAPSHOT_FLUSH_BYTES", 2 * self.chunk_bytes),
            ("dqlite_py.storage.changelog.log", "CHANGES_SEGMENT_BYTES_MIN", 2 * KIB),
            ("dqlite_py.node.change_hub", "CHANGES_KEEP_BYTES", 32 * KIB),
            ("dqlite_py.storage.pin", "SNAPSHOT_COPY_PAGES", 64 if self.large_bytes else 4),
            *((module, "FRAME_FRAGMENT_BYTES", self.fragment_bytes) for module in FRAGMENTS),
        ]

    def settings(self) -> dict[str, Any]:
        """For dqlite_py.Node."""
        return {
            "compact_log_bytes": self.compact_bytes,
            "log_tail_bytes": self.tail_bytes,
            "disk_reserve_bytes": 1024 * KIB,
            "start_timeout": 10.0,
            "keep_changes": self.keep_changes,
            "raft": replace(RAFT, uncommitted_bytes_max=self.uncommitted_bytes),
        }
