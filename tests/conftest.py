"""For all tests: nothing may be left behind, and tests with real processes run one after the other."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlite_py.storage.engine_api import Implementation
from tests.support.twins import chosen

TESTS = Path(__file__).parent
PROCESS_TESTS = (TESTS / "integration", TESTS / "foreign")
GRACE_S = 2.0


@pytest.fixture(params=["c", "python"])
def implementation(request: pytest.FixtureRequest) -> Iterator[Implementation]:
    """The test runs with both apply engines, whatever DQLITE_PY_IMPL says."""
    with chosen(request.param) as found:
        yield found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`, one worker runs all that start clusters: elections need a processor."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in PROCESS_TESTS):
            item.add_marker(pytest.mark.xdist_group("processes"))


def pytest_collection_finish() -> None:
    """Every test ends with a garbage collection: it need not look at all modules each time."""
    gc.collect()
    gc.freeze()


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every thread and descriptor that a test opens is gone at its end."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    deadline = time.monotonic() + GRACE_S
    while True:
        gc.collect()
        left = [
            thread.name for thread in threading.enumerate() if thread not in threads and thread.is_alive()
        ]
        opened = {n: t for n, t in _descriptors().items() if descriptors.get(n) != t}
        if not (left or opened):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: threads {left}, descriptors {opened}")
        time.sleep(0.02)
