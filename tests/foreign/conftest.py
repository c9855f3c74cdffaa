"""The cluster that a module's scenarios share, and how a scenario in another process is led through them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign import clusters
from tests.foreign.clusters import ForeignCluster


def _cluster(folder: Path) -> ForeignCluster:
    if os.environ.get("FOREIGN_SERVER") != "stock":
        return clusters.ours(folder)
    if why := clusters.missing_stock():
        pytest.skip(why)
    return clusters.stock(folder)


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignCluster]:
    with _cluster(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[ForeignCluster]:
    """For one test that leaves it unlike what it was."""
    with _cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: ForeignCluster) -> ForeignCluster:
    """All nodes run again, whatever the scenario before did to them."""
    running_cluster.wait_settled()
    return running_cluster
