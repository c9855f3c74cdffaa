"""dqlite_py.cli.notify: what a service manager hears, over a real socket."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.cli.notify import (
    EXTEND_EVERY_S,
    READY_WITHOUT_LEADER_S,
    REPORT_S,
    Notifier,
    Service,
    status_text,
)
from dqlite_py.errors import JournalFailed, NodeStopped
from tests.support.service_manager import Manager

STATUS = {
    "node_id": 7,
    "state": "follower",
    "leader_address": "10.0.0.2:9001",
    "term": 3,
    "applied_index": 120,
    "members": [{"id": 7}],
    "snapshot_phase": "idle",
    "snapshot_bytes": [0, 0],
    "problem": "",
}
ALONE = STATUS | {"leader_address": "", "state": "candidate"}
FETCHING = ALONE | {"snapshot_phase": "fetching", "snapshot_bytes": [512 << 20, 1 << 30]}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = "@dqlite-py-" + secrets.token_hex(8) if request.param == "abstract" else str(tmp_path / "notify")
    made = Manager(name)
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    made = Notifier(manager.address, watchdog_s=6.0)
    yield made
    made.close()


@pytest.fixture
def service(notifier: Notifier, clock: Clock) -> Service:
    return Service(notifier, clock)


def answered(status: dict[str, Any]) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(status)
    return future


def test_messages_are_lines_of_one_datagram(manager: Manager, notifier: Notifier) -> None:
    notifier.tell(READY=1, STATUS="two\nlines")
    assert manager.heard() == [{"READY": "1", "STATUS": "two lines"}]


def test_environment(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "11"}
    ours, others = Notifier.from_environment(environment, 11), Notifier.from_environment(environment, 12)
    assert (ours.is_wanted, ours.watchdog_s) == (True, 2.5)
    assert (others.is_wanted, others.watchdog_s) == (True, None)
    ours.close()
    others.close()


@pytest.mark.parametrize("usec", ["", "0", "soon", "-5", "٣"])
def test_watchdog_interval_that_is_none(usec: str) -> None:
    made = Notifier.from_environment({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec}, 1)
    assert made.watchdog_s is None
    made.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_nobody_to_tell(environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environment, 1)
    assert not notifier.is_wanted
    notifier.tell(READY=1)
    service = Service(notifier)
    assert service.poll(lambda: pytest.fail("nobody wants to know")) is None


def test_a_manager_that_is_gone_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "nothing"))
    notifier.tell(READY=1)
    assert "was not told" in caplog.text
    notifier.close()


def test_ready_once(manager: Manager, service: Service) -> None:
    service.ready(STATUS)
    service.ready(STATUS)
    (message,) = manager.heard()
    assert message == {"READY": "1", "STATUS": "follower of 10.0.0.2:9001, term 3, applied 120"}


def test_start_is_extended_at_once_and_its_thread_ends(manager: Manager, service: Service) -> None:
    with service.starting():
        assert int(manager.next("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > EXTEND_EVERY_S * 1e6
    assert not [thread for thread in threading.enumerate() if thread.name == "dqlite-notify"]


def poll_until_told(service: Service, status: dict[str, Any]) -> None:
    """One sign of life asked for, one given."""
    service.waiting(lambda: answered(status))
    service.waiting(lambda: answered(status))


def test_waiting_is_extended_only_by_signs_of_life(manager: Manager, service: Service, clock: Clock) -> None:
    never: Future[dict[str, Any]] = Future()
    for _ in range(20):
        service.waiting(lambda: never)
        clock.now_s += REPORT_S
    assert manager.heard() == []
    never.set_result(ALONE)
    service.waiting(lambda: never)
    assert any("EXTEND_TIMEOUT_USEC" in message for message in manager.heard())


def test_a_member_without_a_leader_is_ready_after_a_while(
    manager: Manager, service: Service, clock: Clock
) -> None:
    poll_until_told(service, ALONE)
    assert not [m for m in manager.heard() if "READY" in m]
    clock.now_s += READY_WITHOUT_LEADER_S
    poll_until_told(service, ALONE)
    (ready,) = [m for m in manager.heard() if "READY" in m]
    assert "no leader known" in ready["STATUS"]


@pytest.mark.parametrize("status", [FETCHING, ALONE | {"members": []}])
def test_who_has_no_state_yet_is_not_ready(
    manager: Manager, service: Service, clock: Clock, status: dict[str, Any]
) -> None:
    clock.now_s += 100 * READY_WITHOUT_LEADER_S
    poll_until_told(service, status)
    assert not [m for m in manager.heard() if "READY" in m]


def test_a_failed_node_is_not_kept_alive(
    manager: Manager, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    failed: Future[dict[str, Any]] = Future()
    failed.set_exception(JournalFailed("fdatasync failed"))
    service.poll(lambda: failed)
    service.poll(lambda: failed)
    assert manager.heard() == []
    assert "no sign of life" in caplog.text


def test_a_stopped_node_is_not_kept_alive(manager: Manager, service: Service) -> None:
    def gone() -> Future[dict[str, Any]]:
        raise NodeStopped("the node is not running")

    service.poll(gone)
    service.poll(gone)
    assert manager.heard() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "follower of 10.0.0.2:9001, term 3, applied 120"),
        (
            {"state": "leader", "leader_address": "10.0.0.1:9001"},
            "leader, term 3, applied 120",
        ),
        ({"problem": "the disk is full"}, "follower of 10.0.0.2:9001, term 3, applied 120: the disk is full"),
        (FETCHING, "fetching a snapshot: 512 of 1024 MiB"),
    ],
)
def test_status_text(change: dict[str, Any], text: str) -> None:
    assert status_text(STATUS | change) == text
