"""`dqlite-py node` as a real process: ready line, signals, refusals, and the other commands against it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WAIT_S = 60.0  # ends a broken test; nothing is measured with it


class NodeProcess:
    """A node started by its command; `errors` holds its log."""

    def __init__(
        self, folder: Path, *more: str, listen: str = "127.0.0.1:0", program: Sequence[str] = ()
    ) -> None:
        self.errors = folder.with_suffix(".log")
        with self.errors.open("ab") as log:
            self.process = subprocess.Popen(
                [*(program or PROGRAM), "node", "--dir", str(folder), "--listen", listen, *more],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> dict[str, str]:
        """The ready line's fields."""
        lines: list[str] = []
        assert self.process.stdout is not None
        reader = threading.Thread(
            target=lambda out: lines.append(out.readline()), args=(self.process.stdout,)
        )
        reader.start()
        reader.join(WAIT_S)
        assert lines, f"not ready: {self.log()}"
        assert lines[0].startswith("ready "), f"{lines[0]!r}: {self.log()}"
        return dict(word.split("=", 1) for word in lines[0].split()[1:])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def log(self) -> str:
        return self.errors.read_text()


PROGRAM = [sys.executable, "-m", "dqlite_py.cli.main"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.fixture
def nodes() -> Iterator[list[NodeProcess]]:
    started: list[NodeProcess] = []
    yield started
    for node in started:
        if node.process.poll() is None:
            node.process.kill()
        node.process.wait(WAIT_S)
        if node.process.stdout is not None:
            node.process.stdout.close()


def test_start_status_stop_and_start_again(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a"))
    first = nodes[0].ready()
    assert (first["role"], first["state"]) == ("voter", "leader")
    result = run("status", "--json", "--node", first["address"])
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)["members"][first["address"]]
    assert str(answer["node_id"]) == first["node_id"]
    shown = run("status", "--node", first["address"])
    assert first["node_id"] in shown.stdout
    assert nodes[0].end(signal.SIGTERM) == 0, nodes[0].log()
    assert "stopped" in nodes[0].log()
    nodes.append(NodeProcess(tmp_path / "a", listen=first["address"]))
    second = nodes[1].ready()
    assert (second["node_id"], second["cluster_id"]) == (first["node_id"], first["cluster_id"])
    assert nodes[1].end(signal.SIGINT) == 0, nodes[1].log()


def test_refusals_say_what_to_do(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a"))
    address = nodes[0].ready()["address"]
    locked = run("node", "--dir", str(tmp_path / "a"), "--listen", "127.0.0.1:0")
    assert (locked.returncode, locked.stdout) == (3, "")
    assert "--dir" in locked.stderr
    taken = run("node", "--dir", str(tmp_path / "b"), "--listen", address)
    assert (taken.returncode, taken.stdout) == (3, "")
    assert "--listen" in taken.stderr
    assert "Traceback" not in locked.stderr + taken.stderr


def test_damaged_folder(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a"))
    nodes[0].ready()
    assert nodes[0].end() == 0, nodes[0].log()
    identity = tmp_path / "a" / "identity"
    identity.write_bytes(b"x" * len(identity.read_bytes()))
    result = run("node", "--dir", str(tmp_path / "a"), "--listen", "127.0.0.1:0")
    assert (result.returncode, result.stdout) == (3, "")
    assert str(identity) in result.stderr
    assert "->" in result.stderr


def test_waiting_to_join_ends_with_one_signal(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        nodes.append(NodeProcess(tmp_path / "a", "--join", address))
        silent.settimeout(WAIT_S)
        silent.accept()[0].close()  # it asks: so it is starting
        assert nodes[0].end(signal.SIGINT) == 0
    assert "stopped while starting" in nodes[0].log()


def test_members_are_changed_by_commands(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a"))
    first = nodes[0].ready()
    nodes.append(NodeProcess(tmp_path / "b", "--join", first["address"]))
    second = nodes[1].ready()
    assert second["cluster_id"] == first["cluster_id"]
    moved = _until_done("cluster", "transfer", second["node_id"], "--node", first["address"])
    assert moved.stdout == f"leadership handed to {second['node_id']}\n"
    for role in ("spare", "voter"):
        assigned = run("cluster", "assign", first["node_id"], role, "--node", first["address"])
        assert assigned.returncode == 0, assigned.stderr
        assert assigned.stdout == f"{first['node_id']} is a {role} now\n"
        known = run("cluster", "members", "--json", "--node", second["address"])
        roles = {str(entry["id"]): entry["role"] for entry in json.loads(known.stdout)}
        assert roles == {str(first["node_id"]): role, str(second["node_id"]): "voter"}
    last = run("cluster", "assign", "5", "spare", "--node", first["address"])
    assert last.returncode == 1
    assert "no member has the id 5" in last.stderr
    removed = run("cluster", "remove", first["node_id"], "--node", first["address"])
    assert removed.returncode == 0, removed.stderr
    left = run("cluster", "members", "--json", "--node", second["address"])
    assert [str(entry["id"]) for entry in json.loads(left.stdout)] == [second["node_id"]]


def test_roles_are_kept_or_given_by_commands(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a"))
    only = nodes[0].ready()
    at = ("--node", only["address"])
    kept = run("cluster", "roles", "automatic", "--voters", "1", "--standbys", "1", *at)
    assert kept.stdout.startswith("the leader keeps 1 voters and 1 stand-bys"), kept.stderr
    by_hand = run("cluster", "assign", only["node_id"], "voter", *at)
    assert by_hand.returncode == 1
    assert "kept automatically" in by_hand.stderr
    heavy = run("cluster", "describe", only["node_id"], "--weight", "7", *at)
    assert heavy.stdout == f"{only['node_id']} has weight 7 now\n", heavy.stderr
    known = json.loads(run("cluster", "members", "--json", *at).stdout)
    assert [(entry["role"], entry["weight"]) for entry in known] == [("voter", 7)]


def test_a_node_that_is_to_leave_hands_over_its_vote(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a", "--leave"))
    first = nodes[0].ready()
    for name in "bcd":
        nodes.append(NodeProcess(tmp_path / name, "--leave", "--join", first["address"]))
    others = [node.ready() for node in nodes[1:]]
    _until_roles(first["address"], ["voter"] * 4)
    at = ("--node", first["address"])
    kept = run("cluster", "roles", "automatic", "--voters", "3", "--standbys", "1", *at)
    assert kept.returncode == 0, kept.stderr
    _until_roles(first["address"], ["standby", "voter", "voter", "voter"])
    leaving = next(node for node in (first, *others) if node["node_id"] == _leader_at(first["address"]))
    process = nodes[(first, *others).index(leaving)]
    assert process.end() == 0
    assert "left: another member has the vote" in process.log()
    asked = next(node for node in others if node is not leaving)
    members = json.loads(run("cluster", "members", "--json", "--node", asked["address"]).stdout)
    voters = [str(member["id"]) for member in members if member["role"] == "voter"]
    assert len(voters) == 3
    assert leaving["node_id"] not in voters


def test_a_node_that_is_alone_just_stops(tmp_path: Path, nodes: list[NodeProcess]) -> None:
    nodes.append(NodeProcess(tmp_path / "a", "--leave"))
    nodes[0].ready()
    assert nodes[0].end() == 0
    assert "left:" not in nodes[0].log()


def _leader_at(address: str) -> str:
    shown = json.loads(run("status", "--json", "--node", address).stdout)
    return str(shown["members"][address]["leader_id"])


def _until_roles(address: str, roles: list[str]) -> None:
    known: list[str] = []
    for _ in range(60):
        members = json.loads(run("cluster", "members", "--json", "--node", address).stdout)
        known = sorted(member["role"] for member in members)
        if known == roles:
            return
    pytest.fail(f"the roles are {known}, not {roles}")


def _until_done(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Repeat a command that is refused until the new member votes."""
    for _ in range(60):
        result = run(*arguments)
        if result.returncode == 0:
            return result
    raise AssertionError(result.stderr)
