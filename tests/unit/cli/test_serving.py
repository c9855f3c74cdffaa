"""dqlite_py.cli.serving: ready line, signals, failures and exit codes, with a node that does nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from dqlite_py.cli.exits import CommandFailed, ExitCode
from dqlite_py.cli.serving import StopSignals, ready_line, serve
from dqlite_py.errors import DirectoryLocked, JournalFailed, NodeStopped, NoLeader, OperationalError

STATUS = {
    "node_id": 7,
    "cluster_id": "ab" * 16,
    "address": "127.0.0.1:9001",
    "state": "leader",
    "members": [{"id": 7, "address": "127.0.0.1:9001", "role": "voter"}],
}


class IdleNode:
    """Implements serving.ServedNode."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failure: BaseException | None = None
        self.start_error: BaseException | None = None
        self.stop_error: BaseException | None = None
        self.not_ready = 0
        self.on_ready: Callable[[], None] = lambda: None
        self._ended = threading.Event()

    def start(self) -> None:
        self.calls.append("start")
        if self.start_error is not None:
            raise self.start_error

    def stop(self, *, drain_s: float = 0.0, leave_s: float = 0.0) -> None:
        self.calls.append("stop")
        if self.stop_error is not None:
            raise self.stop_error

    def wait_ready(self, timeout: float) -> None:
        if self.not_ready:
            self.not_ready -= 1
            raise NoLeader("no leader yet")
        self.calls.append("ready")

    def status(self) -> dict[str, Any]:
        self.on_ready()
        return STATUS

    def life_sign(self) -> Future[dict[str, Any]]:
        answer: Future[dict[str, Any]] = Future()
        answer.set_result(STATUS)
        return answer

    def join_thread(self, timeout: float | None = None) -> bool:
        return self._ended.wait(timeout)

    def fail(self, error: BaseException | None) -> None:
        self.failure = error
        self._ended.set()


@pytest.fixture
def exits() -> list[int]:
    return []


@pytest.fixture
def stop(exits: list[int]) -> StopSignals:
    return StopSignals(exits.append)


def run(node: IdleNode, stop: StopSignals) -> str:
    out = io.StringIO()
    serve(node, stop, out, "text")
    return out.getvalue()


def test_ready_then_signal(stop: StopSignals) -> None:
    node = IdleNode()
    node.not_ready = 2
    node.on_ready = lambda: stop.received(signal.SIGTERM)
    output = run(node, stop)
    assert output == (
        f"ready node_id=7 cluster_id={'ab' * 16} address=127.0.0.1:9001 role=voter state=leader\n"
    )
    assert node.calls == ["start", "ready", "stop"]


def test_ready_line_as_json() -> None:
    assert json.loads(ready_line(STATUS, "json")) == {
        "event": "ready",
        "node_id": 7,
        "cluster_id": "ab" * 16,
        "address": "127.0.0.1:9001",
        "role": "voter",
        "state": "leader",
    }


def test_signal_before_it_is_ready(stop: StopSignals) -> None:
    node = IdleNode()
    node.wait_ready = lambda timeout: stop.received(signal.SIGINT)  # type: ignore[method-assign]
    assert run(node, stop) == ""
    assert node.calls == ["start", "stop"]


def test_signal_while_starting_ends_at_once(stop: StopSignals, exits: list[int]) -> None:
    with stop.starting():
        stop.received(signal.SIGINT)
    assert exits == [0]


def test_second_signal_ends_at_once(stop: StopSignals, exits: list[int]) -> None:
    stop.received(signal.SIGTERM)
    assert exits == []
    stop.received(signal.SIGTERM)
    assert exits == [128 + signal.SIGTERM]


def test_real_signals_reach_it_and_handlers_are_given_back(stop: StopSignals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (DirectoryLocked("the folder is in use"), "--dir"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "--listen"),
        (ValueError("a bug"), "please report"),
    ],
)
def test_cannot_start(stop: StopSignals, error: Exception, advice: str) -> None:
    node = IdleNode()
    node.start_error = error
    with pytest.raises(CommandFailed, match=advice) as raised:
        run(node, stop)
    assert raised.value.exit_code == int(ExitCode.CANNOT_START) == 3
    assert node.calls == ["start"]


def test_failure_while_running(stop: StopSignals) -> None:
    node = IdleNode()
    node.on_ready = lambda: node.fail(JournalFailed("fdatasync failed: I/O error"))
    with pytest.raises(CommandFailed, match="check the disk") as raised:
        run(node, stop)
    assert raised.value.exit_code == int(ExitCode.FAILED_RUNNING) == 4


def test_failure_before_it_is_ready(stop: StopSignals) -> None:
    node = IdleNode()
    node.fail(JournalFailed("write failed"))
    with pytest.raises(CommandFailed, match="write failed"):
        run(node, stop)


def test_failure_between_ready_and_status(stop: StopSignals) -> None:
    def fail() -> None:
        node.fail(JournalFailed("fdatasync failed"))
        raise NodeStopped("the node is not running")

    node = IdleNode()
    node.on_ready = fail
    with pytest.raises(CommandFailed, match="fdatasync failed"):
        run(node, stop)


def test_end_without_a_reason(stop: StopSignals) -> None:
    node = IdleNode()
    node.on_ready = lambda: node.fail(None)
    with pytest.raises(CommandFailed, match="without a reason"):
        run(node, stop)


def test_stop_that_does_not_end(stop: StopSignals) -> None:
    node = IdleNode()
    node.stop_error = OperationalError("the node did not stop within 30 s")
    node.on_ready = lambda: stop.received(signal.SIGTERM)
    with pytest.raises(CommandFailed, match="did not stop") as raised:
        run(node, stop)
    assert raised.value.exit_code == ExitCode.FAILED_RUNNING


def test_a_ready_line_that_nobody_takes_stops_nothing() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for out in (Full(), None):
        node = IdleNode()
        with StopSignals() as stop:
            node.on_ready = lambda: stop.received(signal.SIGTERM)
            serve(node, stop, out, "text")
        assert node.calls == ["start", "ready", "stop"]
