"""A node under a service manager: readiness, watchdog and stop over a real notification socket, and the unit file."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.cli.notify import REPORT_S, Notifier, Service
from dqlite_py.errors import JournalFailed, NodeStopped
from tests.support.service_manager import Manager

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging/systemd/dqlite-py@.service"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = "@dqlite-py-" + secrets.token_hex(8) if request.param == "abstract" else str(tmp_path / "notify")
    made = Manager(name)
    yield made
    made.close()


@pytest.mark.parametrize("where", ["loop", "journal"])
def test_a_stuck_thread_stops_the_pings(where: str, manager: Manager, tmp_path: Path) -> None:
    clock = [0.0]
    notifier = Notifier(manager.address, watchdog_s=6.0)
    service = Service(notifier, lambda: clock[0])
    stuck, release = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        release.wait()

    def polls(count: int) -> None:
        for _ in range(count):
            clock[0] += REPORT_S
            service.poll(node.life_sign)

    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        try:
            if where == "loop":
                node._post(hang)
            else:
                node._running().journal_thread.submit_task(hang, lambda _error: None)
            assert stuck.wait(60.0)
            polls(100)
            assert manager.heard() == []
        finally:
            release.set()
        while not manager.heard():
            polls(1)
    notifier.close()


def test_a_failed_node_gives_no_sign(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    node = dqlite_py.Node(tmp_path / "node").start()
    node.wait_ready()
    node._post(node._running().on_fatal, JournalFailed("fdatasync failed"))
    assert node.join_thread(60.0)
    with pytest.raises(NodeStopped):
        node.life_sign()


@pytest.mark.slow
def test_a_process_tells_ready_lives_and_stops(manager: Manager, tmp_path: Path) -> None:
    environment = os.environ | {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    command = [sys.executable, "-m", "dqlite_py.cli.main", "node"]
    process = subprocess.Popen(
        [*command, "--dir", str(tmp_path / "a"), "--listen", "127.0.0.1:0"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert manager.next("READY")["STATUS"].startswith("leader, term ")
        for _ in range(3):
            assert "leader" in manager.next("WATCHDOG")["STATUS"]
        process.send_signal(signal.SIGTERM)
        assert int(manager.next("STOPPING")["EXTEND_TIMEOUT_USEC"]) > 30_000_000
        assert process.wait(60.0) == 0
    finally:
        process.kill()
        process.wait()


def test_the_unit_file_is_sound(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "ExecStart=/usr/bin/dqlite-py node " in text
    unit.write_text(text.replace("/usr/bin/dqlite-py", str(Path(sys.executable).with_name("dqlite-py"))))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_us = [line for line in result.stderr.splitlines() if UNIT.name.removesuffix("@.service") in line]
    assert (result.returncode, about_us) == (0, [])


def test_the_unit_file_speaks_our_protocol() -> None:
    lines = UNIT.read_text().splitlines()
    for wanted in (
        "Type=notify",
        "NotifyAccess=main",
        "KillMode=mixed",
        "KillSignal=SIGTERM",
        "Restart=on-failure",
    ):
        assert wanted in lines
    seconds = {
        name: int(value)
        for name, _, value in (line.partition("=") for line in lines)
        if name in ("WatchdogSec", "TimeoutStartSec", "TimeoutStopSec")
    }
    assert seconds["WatchdogSec"] >= 3 * REPORT_S
    assert seconds["TimeoutStopSec"] >= 45
