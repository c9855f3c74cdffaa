"""Drivers in processes of their own: answers, failures, and nothing left behind. SQLite alone stands for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tests.benchmarks.hosting import DriverFailed, Hosted, hosted
from tests.benchmarks.session import QUICK, Session


@pytest.fixture(scope="module", autouse=True)
def tracker_runs() -> None:
    """multiprocessing starts it once for the whole process: that is not a leak of the first test."""
    resource_tracker.ensure_running()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Hosted]:
    with hosted("sqlite-apsw", tmp_path / "driver") as made:
        yield made


def test_a_driver_measures_in_its_own_process(host: Hosted) -> None:
    sample = host.measure("insert", 2, 0.1)
    assert (sample.driver, sample.clients, sample.errors) == ("sqlite-apsw", 2, {})
    assert sample.rate > 0
    assert sample.p50 <= sample.p99
    assert sample.cpu_us > 0
    (node,) = host.call("nodes")
    assert node.pid != os.getpid()


def test_what_it_cannot_do_is_said_and_it_goes_on(host: Hosted) -> None:
    with pytest.raises(DriverFailed, match=r"sqlite-apsw: .*no attribute 'grow'"):
        host.call("grow")
    assert host.measure("read-stale", 1, 0.05).rate > 0


def test_a_process_that_ends_is_a_failure_of_its_driver_only(tmp_path: Path) -> None:
    session = Session(tmp_path, QUICK)
    with session.tolerant("peers: SQLite"), session.cluster("sqlite-apsw") as host:
        (node,) = host.call("nodes")
        os.kill(node.pid, signal.SIGKILL)
        host.measure("insert", 1, 0.1)
    assert len(session.failures) == 1
    assert "exit code -9" in session.failures[0] or "has ended" in session.failures[0]
    assert not any(tmp_path.iterdir())


def test_one_that_cannot_open_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(DriverFailed, match="unexpected keyword"),
        hosted("sqlite-apsw", tmp_path / "x", sails=3),
    ):
        pass


def test_one_that_does_not_answer_in_time_is_ended(host: Hosted) -> None:
    (node,) = host.call("nodes")
    with pytest.raises(DriverFailed, match="no answer within 0 s"):
        host.call("measure", "insert", 1, 30.0, timeout_s=0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(node.pid, 0)
