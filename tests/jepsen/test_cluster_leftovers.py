"""Whatever ends the suite, no process, namespace, device or mount stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.make import why_no_namespaces

pytestmark = pytest.mark.xdist_group("processes")
REPOSITORY = Path(__file__).parents[2]
GONE_S = 20.0
SUITE = """
import json, os, sys, time
from pathlib import Path
from jepsen.cluster.make import make_cluster

with make_cluster(sys.argv[1], Path(sys.argv[2]), 2) as cluster:
    cluster.nodes[1].pause()
    cluster.network.cut("n1", "n2")
    pids = [cluster._keeper.pid, *(node.pid for node in cluster.nodes)]
    print(json.dumps([*pids, [os.readlink(f"/proc/{pid}/ns/net") for pid in pids[1:]]]), flush=True)
    if sys.argv[3] == "exception":
        raise RuntimeError("the suite has a bug")
    time.sleep(300)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def namespaces() -> set[str]:
    """Of all processes that can be seen."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(process / "ns/net"))
        except OSError:
            continue
    return found


def names_on_this_machine() -> dict[str, Any]:
    """What would outlive a process: devices, mounts, named namespaces."""
    named = Path("/run/netns")
    return {
        "devices": sorted(os.listdir("/sys/class/net")),
        "mounts": Path("/proc/self/mounts").read_text(),
        "names": sorted(os.listdir(named)) if named.exists() else [],
    }


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("namespaces", "SIGKILL"),
        ("namespaces", "keeper"),
        ("namespaces", "SIGTERM"),
        ("loopback", "SIGKILL"),
        ("loopback", "SIGINT"),
        ("loopback", "exception"),
    ],
)
def test_nothing_is_left(kind: str, end: str, tmp_path: Path) -> None:
    """One node is paused, which no polite signal ends. `keeper`: the keeper is killed, then the suite."""
    if kind == "namespaces" and (missing := why_no_namespaces()):
        pytest.skip(missing)
    before = names_on_this_machine()
    folder = tmp_path / "run"
    suite = subprocess.Popen(
        [sys.executable, "-c", SUITE, kind, str(folder), end],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert suite.stdout is not None
        with suite.stdout:
            line = suite.stdout.readline()
        assert line, "the suite did not start a cluster"
        *pids, own = json.loads(line)
        if kind == "namespaces":
            assert len(set(own)) == 2
            assert os.readlink("/proc/self/ns/net") not in own
        if end == "keeper":
            os.kill(pids[0], signal.SIGKILL)
            wait_gone(pids[1:])
        elif end != "exception":
            suite.send_signal(signal.Signals[end])
            suite.wait(GONE_S)
    finally:
        if end != "exception":
            suite.kill()
        suite.wait(GONE_S)
    wait_gone(pids)
    assert names_on_this_machine() == before
    if kind == "namespaces":
        assert not set(own) & namespaces()


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_S
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)
