"""A rolling restart by SIGTERM, under writes: leadership is handed over, and callers hardly notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, wait_until
from tests.support.rows_writer import check_rows, create_rows, wait_more, writing


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        create_rows(running)
        yield running


@pytest.mark.slow
def test_rolling_restart_under_writes(cluster: Cluster) -> None:
    with writing(cluster, 3) as writers:
        for node in cluster.nodes:
            wait_more(writers, 30)
            node.terminate()
            assert node.process is not None
            assert node.process.wait(30) == 0
            node.start()
            wait_until(lambda n=node: cluster.status(n)["leader_id"], f"{node.name} is back")
    check_rows(cluster, *writers)
    # A request that was on its way to the process that stopped may go unanswered, no more than that.
    assert sum(len(writer.unsure) for writer in writers) <= 3 * len(writers)
