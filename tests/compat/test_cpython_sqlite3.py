"""CPython's own tests of its sqlite3 module, those of the Python that runs, hold for this package's database API."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from dqlite_py import Node
from dqlite_py.client.gateway import RemoteGateway
from dqlite_py.client.shared import shared_link
from tests.compat import shim
from tests.compat.not_applicable import NOT_APPLICABLE, ON_A_NODE
from tests.support.fakegateway import FakeGateway

TESTS = shim.load() if shim.is_there() else {}
NAMES = sorted(TESTS) or ["none"]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as fake:
        yield fake


@pytest.fixture(scope="module", autouse=True)
def _what_the_first_node_opens_for_good(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Node(tmp_path_factory.mktemp("first") / "data") as running:
        running.wait_ready()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path / "node") as running:
        running.wait_ready()
        yield running


@pytest.fixture(autouse=True)
def _are_there() -> None:
    if not TESTS:
        pytest.skip("this Python came without its own tests (test.test_sqlite3)")


def _reason(name: str) -> str | None:
    return next((reason for known, reason in NOT_APPLICABLE.items() if fnmatchcase(name, known)), None)


@pytest.mark.parametrize("name", NAMES)
def test_of_cpython(gateway: FakeGateway, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are CPython's, and leave things open
        wrong = shim.run(TESTS[name], gateway)
        gc.collect()
    if wrong.startswith("skipped: "):
        pytest.skip(f"CPython's own: {wrong}")
    reason = _reason(name)
    if reason is None:
        assert wrong == ""
    elif wrong:
        pytest.skip(reason)
    else:
        assert any("*" in known and fnmatchcase(name, known) for known in NOT_APPLICABLE), "it passes"


def test_most_of_them_hold() -> None:
    holding = [name for name in TESTS if _reason(name) is None]
    assert len(holding) > 200


@pytest.mark.parametrize("way", ["embedded", "remote"])
@pytest.mark.parametrize("module", shim.MODULES)
def test_of_cpython_on_a_node(node: Node, module: str, way: str) -> None:
    gateway = RemoteGateway(shared_link([node.address], None)) if way == "remote" else node.gateway
    names = [name for name in TESTS if name.startswith(f"{module}.") and _reason(name) is None]
    wrong: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            shim.World.opened.clear()
            found = shim.run(TESTS[name], gateway)
            gc.collect()
            if found and not found.startswith("skipped: "):
                wrong[name] = found
            for database in shim.World.opened:
                node.drop_database(database)
    assert {name: text for name, text in wrong.items() if name not in ON_A_NODE} == {}
    assert {name for name in ON_A_NODE if name.startswith(f"{module}.")} <= set(wrong)
