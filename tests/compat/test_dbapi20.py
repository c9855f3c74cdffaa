"""The public DB-API 2.0 compliance suite (dbapi-compliance on PyPI): on a fake gateway, on a node, over the network."""

from __future__ import annotations

import threading
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import dbapi20
import pytest

from dqlite_py import Node, dbapi
from dqlite_py.client.gateway import RemoteGateway
from dqlite_py.client.shared import shared_link
from tests.support.fakegateway import FakeGateway

NOT_APPLICABLE: Final = {
    "test_non_idempotent_close": "closing twice is allowed, as in sqlite3; the suite itself calls this questionable",
    "test_nextset": "nextset() is optional: a statement has one result",
    "test_setoutputsize": "the suite leaves what to check to the driver",
}
NAMES: Final = unittest.defaultTestLoader.getTestCaseNames(dbapi20.DatabaseAPI20Test)


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("node") / "data") as running:
        running.wait_ready()
        running.connect("main").close()  # its threads and files are the node's, not a test's
        yield running


@pytest.fixture(scope="module", autouse=True)
def remote(node: Node) -> RemoteGateway:
    """Its thread, and the node's for it, are there before the tests that they would be held against."""
    runtime = node._running()
    for pool in (runtime.read_services._threads, runtime.transactions.executor):
        together = threading.Barrier(pool._max_workers)
        for future in [pool.submit(together.wait, 30.0) for _ in range(pool._max_workers)]:
            future.result()
    gateway = RemoteGateway(shared_link([node.address], None))
    dbapi.connect(gateway, "main").close()
    return gateway


@pytest.fixture(params=["fake", "node", "remote"])
def gateway(request: pytest.FixtureRequest, node: Node, remote: RemoteGateway) -> Iterator[Any]:
    with FakeGateway() as fake:
        yield {"fake": fake, "node": node.gateway, "remote": remote}[request.param]


def _driver(gateway: Any) -> types.SimpleNamespace:
    names = {name: getattr(dbapi, name) for name in dbapi.__all__}
    names["connect"] = lambda **options: dbapi.connect(gateway, "main", **options)
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_APPLICABLE])
@pytest.mark.parametrize("isolation_level", ["", None])
def test_compliance(gateway: Any, name: str, isolation_level: str | None) -> None:
    class Ours(dbapi20.DatabaseAPI20Test):  # type: ignore[misc]
        driver = _driver(gateway)
        connect_kw_args: Final = {"isolation_level": isolation_level}

    result = unittest.TestResult()
    Ours(name).run(result)
    assert [text for _, text in (*result.errors, *result.failures)] == []
    assert result.skipped == []


def test_what_is_left_out_is_there() -> None:
    assert set(NOT_APPLICABLE) <= set(NAMES)
    assert Path(dbapi20.__file__).name == "dbapi20.py"
