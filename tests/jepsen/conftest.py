"""What several test modules of the suite share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jepsen.fake_nodes import FakeCluster

MakeCluster = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeCluster]:
    """Clusters in memory, of as many nodes as asked for."""
    made: list[FakeCluster] = []

    def make_cluster(count: int, **options: Any) -> FakeCluster:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(FakeCluster(folder, count, **options))
        return made[-1]

    yield make_cluster
    for cluster in made:
        cluster.close()
