"""The demo as a user runs it: it passes, it cleans up, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 110


def _start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dqlite_py.cli.main", "demo", "--dir", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    """Also where this test run does not, as in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for_children(pid: int) -> list[int]:
    deadline = time.monotonic() + 30
    while len(found := _children(pid)) < 3:
        assert time.monotonic() < deadline, "the demo started no nodes"
        time.sleep(0.02)
    return found


def _assert_gone(children: list[int]) -> None:
    deadline = time.monotonic() + 10
    while alive := [pid for pid in children if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"nodes outlive the demo: {alive}"
        time.sleep(0.02)


@pytest.mark.slow
def test_the_demo_passes_and_leaves_nothing(tmp_path: Path) -> None:
    demo = _start(tmp_path, "--seconds", "1", "--rate", "40")
    children = _wait_for_children(demo.pid)
    output, _ = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 0, output
    assert "PASSED" in output
    assert "kill -9" in output
    assert "state hash after log index" in output
    _assert_gone(children)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_demo_stops_its_nodes(tmp_path: Path, number: signal.Signals, code: int) -> None:
    demo = _start(tmp_path)
    children = _wait_for_children(demo.pid)
    os.kill(demo.pid, number)
    output, _ = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == code, output
    _assert_gone(children)
