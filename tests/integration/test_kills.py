"""kill -9 of each role during writes: nothing acknowledged is lost or doubled, all nodes end equal."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, wait_until
from tests.support.rows_writer import check_rows, create_rows, wait_more, writing

KILLS = 20
WRITERS = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        create_rows(running)
        yield running


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_kills_in_a_row(cluster: Cluster) -> None:
    rng = random.Random(7)
    with writing(cluster, WRITERS) as writers:
        for kill in range(KILLS):
            wait_more(writers, 20)
            victim = cluster.leader() if kill % 2 == 0 else rng.choice(cluster.followers())
            victim.kill()
            wait_more(writers, 1)
            victim.start()
            wait_until(lambda v=victim: cluster.status(v)["leader_id"], f"{victim.name} is back")
    check_rows(cluster, *writers)
    assert all(len(writer.acknowledged) > KILLS for writer in writers)


@pytest.mark.slow
def test_all_killed_at_once(cluster: Cluster) -> None:
    with writing(cluster, WRITERS) as writers:
        wait_more(writers, 100)
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()
        wait_more(writers, 50)
    check_rows(cluster, *writers)
