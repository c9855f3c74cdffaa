"""dqlite-client, dqlite-dbapi and sqlalchemy-dqlite 0.8, unmodified, on Python 3.13: the scripts of python313/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign import python313env
from tests.foreign.clusters import ForeignCluster
from tests.foreign.scenario import run

SCRIPTS = Path(__file__).parent / "python313"

pytestmark = pytest.mark.timeout(400)  # the first run fetches the packages


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return python313env.python()
    except python313env.NotAvailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["client", "dbapi", "orm"])
def test_scenario_with_the_leader_killed(python: Path, cluster: ForeignCluster, name: str) -> None:
    command = [str(python), str(SCRIPTS / f"{name}.py"), cluster.servers, cluster.database(name)]
    run(command, at_ready=cluster.kill_leader)
