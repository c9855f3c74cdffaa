"""CPython's own tests of its sqlite3 module, those of the Python that runs, hold for this package's database API."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from tests.compat import shim
from tests.compat.not_applicable import NOT_APPLICABLE
from tests.support.fakegateway import FakeGateway

TESTS = shim.load() if shim.is_there() else {}
NAMES = sorted(TESTS) or ["none"]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as fake:
        yield fake


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
