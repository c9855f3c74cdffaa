"""go-dqlite's driver and client package, unmodified, through the program in go/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign import gotool
from tests.foreign.clusters import ForeignCluster
from tests.foreign.scenario import run

pytestmark = pytest.mark.timeout(400)  # the first build compiles Go's own library too


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return gotool.program()
    except gotool.NotAvailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["values", "transactions", "prepared", "rows", "interrupt", "members"])
def test_scenario(program: Path, cluster: ForeignCluster, name: str) -> None:
    run([str(program), name, cluster.servers, cluster.database(name)])


def test_an_endless_query(program: Path, cluster: ForeignCluster) -> None:
    if cluster.is_stock:
        pytest.skip(
            "an endless query keeps stock dqlite's loop for ever: the node is lost until it is killed"
        )
    run([str(program), "endless", cluster.servers, "endless"])


def test_the_leader_is_killed(program: Path, cluster: ForeignCluster) -> None:
    run([str(program), "kill", cluster.servers, cluster.database("kill")], at_ready=cluster.kill_leader)


def test_leadership_and_roles(program: Path, own_cluster: ForeignCluster) -> None:
    """Transfer, Assign and Remove: one node is out of the cluster afterwards."""
    run([str(program), "leadership", own_cluster.servers, own_cluster.database("leadership")])
