"""docs/howto/move-cluster.md as a test: a cluster moves to all new machines while programs write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.cli.demo.processes import NodeProcess, free_addresses
from tests.integration.cluster import DATABASE, Cluster, wait_until
from tests.support.steady_writer import SteadyWriter

WRITERS = 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        running.client.write(running.nodes[0].address, "CREATE TABLE rows(writer TEXT, number INTEGER)")
        yield running


def dqlite_py(*words: str) -> Any:
    result = subprocess.run(
        [sys.executable, "-m", "dqlite_py.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return json.loads(result.stdout) if result.returncode == 0 else None


def members(asked: str) -> dict[str, dict[str, Any]]:
    """Of a running cluster, by address."""
    found = dqlite_py("cluster", "members", "--json", "-s", asked) or []
    return {member["address"]: member for member in found}


def voters(asked: str) -> set[str]:
    return {address for address, member in members(asked).items() if member["role"] == "voter"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_moves_to_new_machines_under_writes(
    cluster: Cluster, tmp_path: Path, record_testsuite_property: Any
) -> None:
    old = list(cluster.nodes)
    given = ",".join(node.address for node in old)
    writers = [SteadyWriter(f"{given}/{DATABASE}", str(number)) for number in range(WRITERS)]

    def writes_go_on() -> None:
        before = [len(writer.acknowledged) for writer in writers]
        wait_until(
            lambda: all(len(w.acknowledged) > b + 20 for w, b in zip(writers, before, strict=True)),
            f"writes go on {[writer.refused for writer in writers]}",
        )

    for writer in writers:
        writer.start()
    try:
        writes_go_on()
        new = [
            NodeProcess(f"new{number}", address, tmp_path / f"new{number}", tuple(given.split(",")))
            for number, address in enumerate(free_addresses(3))
        ]
        for node in new:
            cluster.nodes.append(node)
            node.start()
            wait_until(
                lambda node=node: node.address in members(node.address), f"it joins: {node.log_tail()}"
            )
            writes_go_on()
        for node in old:
            enough = wait_until(
                lambda node=node: len(voters(new[0].address) - {node.address}) >= 2, "enough others vote"
            )
            assert enough
            number = str(members(new[0].address)[node.address]["id"])
            wait_until(
                lambda number=number: dqlite_py("cluster", "remove", "--json", number, "-s", new[0].address),
                f"{node.name} is removed",
            )
            writes_go_on()
            node.terminate()
            assert node.process is not None
            assert node.process.wait(60) == 0, node.log_tail()
            cluster.nodes.remove(node)
            writes_go_on()
        wait_until(
            lambda: voters(new[0].address) == {node.address for node in new}, "the new ones vote alone"
        )
        writes_go_on()
    finally:
        for node in old:
            node.kill()
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(60)
    cluster.check_equal()
    for node in new:
        rows = cluster.client.read(node.address, "SELECT writer, number FROM rows")
        for writer in writers:
            writer.check(rows)
    for writer in writers:
        # Each hand-over may hold writes up for an election's time, never the cluster's move as a whole.
        record_testsuite_property(f"longest_write_gap_s_{writer.label}", round(writer.longest_gap_s, 3))
        assert not writer.refused, writer.refused
        assert not writer.unsure
