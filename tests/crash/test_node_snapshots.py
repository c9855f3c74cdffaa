"""kill -9 of either side of a snapshot's transfer, with real processes and a database that takes a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.cli.demo.processes import free_addresses
from dqlite_py.limits import SNAPSHOT_SYNC_BYTES
from tests.integration.cluster import wait_until
from tests.support.rows_writer import Writer, check_rows, create_rows
from tests.support.settings_cluster import (
    COMPACTING,
    MIB,
    SettingsCluster,
    SettingsNode,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes"), pytest.mark.timeout(300)]

SIZE_BYTES = 48 * MIB
SLOW_S = 0.02  # for each MiB that the receiver writes: the transfer takes a second at least
FRACTIONS = (0.0, 0.3, 0.6, 0.95)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SettingsCluster]:
    with SettingsCluster(tmp_path, slow_incoming_s=SLOW_S, **COMPACTING) as running:
        create_rows(running)
        running.fill(running.leader(), SIZE_BYTES)
        yield running


def down_and_behind(cluster: SettingsCluster) -> SettingsNode:
    """A follower that was killed and now needs a snapshot."""
    victim = cluster.followers()[0]
    assert isinstance(victim, SettingsNode)
    victim.kill()
    cluster.leave_behind(victim)
    return victim


def wait_transfer(cluster: SettingsCluster, node: SettingsNode, fraction: float) -> int:
    """Wait until so much has arrived, or all and the transfer is over; the bytes that are there then."""
    found = 0

    def reached() -> bool:
        nonlocal found
        status = cluster.status(node)
        found, total = status["snapshot_bytes"]
        phase = status["snapshot_phase"]
        over = phase == "idle" and status["snapshot_index"] > 0
        return over or (phase == "fetching" and found >= fraction * total) or phase == "verifying"

    wait_until(reached, f"{fraction:.0%} of the snapshot has arrived at {node.name}: {node.log_tail()}")
    return found


def check_caught_up_by_snapshot(cluster: SettingsCluster, node: SettingsNode) -> None:
    def is_done() -> bool:
        status = cluster.status(node)
        return bool(status["snapshot_index"] > 0 and status["healthy"] and status["first_index"] > 1)

    wait_until(is_done, f"{node.name} installed a snapshot: {node.log_tail()}")


def test_the_receiver_is_killed_at_random_moments(cluster: SettingsCluster) -> None:
    rng = random.Random(11)
    with Writer(cluster, "w", pause_s=0.01) as writer:
        writer.wait_more(5)
        victim = down_and_behind(cluster)
        resumed_at = []
        for fraction in FRACTIONS:
            victim.start()
            resumed_at.append(wait_transfer(cluster, victim, 0.0))
            wait_transfer(cluster, victim, min(1.0, fraction + rng.random() * 0.05))
            victim.kill()
            writer.wait_more(2)  # the others do not mind
        assert resumed_at[-1] >= SNAPSHOT_SYNC_BYTES, f"what was durable is not fetched again: {resumed_at}"
        victim.start()
        check_caught_up_by_snapshot(cluster, victim)
        writer.wait_more(5)
    check_rows(cluster, writer)


def test_the_source_is_killed_and_the_next_leader_goes_on(cluster: SettingsCluster) -> None:
    with Writer(cluster, "w", pause_s=0.01) as writer:
        writer.wait_more(5)
        victim = down_and_behind(cluster)
        source = cluster.leader()
        victim.start()
        wait_transfer(cluster, victim, 0.3)
        source.kill()
        # Two of three remain, one of them without state: the quorum needs the receiver's log and vote.
        check_caught_up_by_snapshot(cluster, victim)
        writer.wait_more(5)
        source.start()
        wait_until(lambda: cluster.status(source)["leader_id"], "the source is back")
        writer.wait_more(5)
    check_rows(cluster, writer)
    assert not list((source.folder / "outgoing").glob("*")), "what the killed source left is removed"


def test_all_are_killed_during_a_transfer(cluster: SettingsCluster) -> None:
    with Writer(cluster, "w", pause_s=0.01) as writer:
        writer.wait_more(5)
        victim = down_and_behind(cluster)
        victim.start()
        wait_transfer(cluster, victim, 0.5)
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
        check_caught_up_by_snapshot(cluster, victim)
        writer.wait_more(5)
    check_rows(cluster, writer)


def test_a_joiner_that_dies_in_its_snapshot_costs_nobody_anything(tmp_path: Path) -> None:
    """A single voter and a node that joins: while that one has no vote, its death does not stop writes."""
    with SettingsCluster(tmp_path, 1, slow_incoming_s=SLOW_S, **COMPACTING) as cluster:
        create_rows(cluster)
        first = cluster.nodes[0]
        cluster.fill(first, SIZE_BYTES // 2)
        cluster.advance_log(first)
        cluster.compact(first)
        assert cluster.status(first)["first_index"] > 2
        with Writer(cluster, "w", pause_s=0.01) as writer:
            (address,) = free_addresses(1)
            options = {"slow_incoming_s": SLOW_S, **COMPACTING}
            joiner = SettingsNode("late", address, tmp_path / "late", (first.address,), options=options)
            try:
                for fraction in (0.1, 0.6):
                    joiner.start()
                    wait_transfer(cluster, joiner, fraction)
                    joiner.kill()
                    members = cluster.status(first)["members"]
                    assert [m["role"] for m in members if m["id"] != cluster.status(first)["node_id"]] == [
                        "standby"
                    ], "it has not caught up: no vote"
                    writer.wait_more(5)
                joiner.start()
                wait_until(
                    lambda: sum(m["role"] == "voter" for m in cluster.status(joiner)["members"]) == 2,
                    f"the joiner votes: {joiner.log_tail()}",
                )
                cluster.nodes.append(joiner)
                writer.wait_more(5)
            finally:
                if joiner not in cluster.nodes:
                    joiner.kill()
        check_rows(cluster, writer)
