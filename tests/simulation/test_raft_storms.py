"""Seeded storms over RaftCore: loss, duplication, reordering, one-way cuts, crashes, pauses, slow disks, snapshots,
membership changes, transfers, quarantine; then healing. Every check lives in raft_world.py.

DQLITE_SIM_SEEDS: how many seeds ("200"), or which ("1000-1500").
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.raft_world import storm


def _seeds() -> range:
    first, dash, last = os.environ.get("DQLITE_SIM_SEEDS", "16").partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


@pytest.mark.parametrize("seed", _seeds())
def test_storm(seed: int) -> None:
    world = storm(seed)
    assert world.count["acked"] > 0


def test_a_seed_is_a_replayable_run() -> None:
    once, again = storm(5, duration_ms=3000), storm(5, duration_ms=3000)
    assert (once.now, once.count, once.committed) == (again.now, again.count, again.committed)
