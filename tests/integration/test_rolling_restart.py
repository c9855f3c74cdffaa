"""A rolling restart by SIGTERM, under writes: leadership is handed over, and callers hardly notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, wait_until
from tests.integration.test_kills import Writer, check_rows


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        running.client.write(running.nodes[0].address, "CREATE TABLE rows(writer TEXT, number INTEGER)")
        yield running


@pytest.mark.slow
def test_rolling_restart_under_writes(cluster: Cluster) -> None:
    writers = [Writer(cluster, str(i)) for i in range(3)]
    for writer in writers:
        writer.start()
    try:
        for node in cluster.nodes:
            before = sum(len(w.acknowledged) for w in writers)
            wait_until(lambda b=before: sum(len(w.acknowledged) for w in writers) > b + 30, "writes go on")
            node.terminate()
            assert node.process is not None
            assert node.process.wait(30) == 0
            node.start()
            wait_until(lambda n=node: cluster.status(n)["leader_id"], f"{node.name} is back")
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join(30)
    check_rows(cluster, writers)
    # A request that was on its way to the process that stopped may go unanswered, no more than that.
    assert sum(len(writer.unsure) for writer in writers) <= 3 * len(writers)
