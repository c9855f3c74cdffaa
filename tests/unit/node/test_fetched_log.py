"""What of the log is kept for followers that fetch a snapshot: from its index on, until they are near."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dqlite_py.model import LogIndex, NodeId
from dqlite_py.node.fetched_log import NEAR_ENTRIES, FetchedLog
from dqlite_py.raft.progress import ProgressState

SNAPSHOT, REPLICATE = ProgressState.SNAPSHOT, ProgressState.REPLICATE


class Bench:
    def __init__(self) -> None:
        self.leader: Any = SimpleNamespace(peers={}, last_index=LogIndex(10_000))
        self.oldest: LogIndex | None = LogIndex(5_000)
        self.log = FetchedLog(self.leader, lambda: self.oldest)

    def index(self, **peers: tuple[ProgressState, int]) -> LogIndex | None:
        self.leader.peers = {
            NodeId(int(name[1:])): SimpleNamespace(state=state, match_index=LogIndex(match))
            for name, (state, match) in peers.items()
        }
        return self.log.index()


def test_a_copy_that_nobody_needs_keeps_nothing() -> None:
    bench = Bench()
    assert bench.index() is None
    assert bench.index(n2=(REPLICATE, 5_500)) is None, "slow, and was never given one"


def test_kept_from_the_copy_and_then_from_what_has_arrived_until_it_is_near() -> None:
    bench = Bench()
    assert bench.index(n2=(SNAPSHOT, 0), n3=(REPLICATE, 9_999)) == 5_000
    assert bench.index(n2=(REPLICATE, 5_000), n3=(REPLICATE, 9_999)) == 5_000
    assert bench.index(n2=(REPLICATE, 7_000), n3=(REPLICATE, 9_999)) == 7_000
    assert bench.index(n2=(REPLICATE, 10_000 - NEAR_ENTRIES), n3=(REPLICATE, 9_999)) is None
    assert bench.index(n2=(REPLICATE, 5_000), n3=(REPLICATE, 9_999)) is None


def test_the_slowest_counts_and_who_is_gone_does_not() -> None:
    bench = Bench()
    assert bench.index(n2=(SNAPSHOT, 0), n3=(SNAPSHOT, 0)) == 5_000
    assert bench.index(n2=(REPLICATE, 6_000), n3=(REPLICATE, 7_000)) == 6_000
    assert bench.index(n3=(REPLICATE, 7_000)) == 7_000
    assert bench.index() is None, "it leads no more"
    assert bench.index(n3=(REPLICATE, 7_000)) is None


def test_nothing_is_kept_without_a_copy() -> None:
    bench = Bench()
    bench.oldest = None
    assert bench.index(n2=(SNAPSHOT, 0)) is None


def test_nothing_is_kept_for_who_is_not_fed_any_more() -> None:
    """Found by reading: a stand-by that became a spare while it fetched kept the log as long as anybody fetched."""
    for state in (ProgressState.SPARE, ProgressState.LOST_DATA):
        bench = Bench()
        assert bench.index(n2=(SNAPSHOT, 0)) == 5_000
        assert bench.index(n2=(state, 0)) is None
