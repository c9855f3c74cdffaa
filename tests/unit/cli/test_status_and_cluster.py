"""`dqlite-py status` and `dqlite-py cluster`, asking peers over loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dqlite_py.cli.main import main
from dqlite_py.config import TlsSettings
from dqlite_py.errors import MembershipRefused
from tests.support.fakepeer import FakePeer, member


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def closed_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def peers() -> Iterator[list[FakePeer]]:
    """Three members; the first leads, the second lags, the third's state hash differs."""
    with ExitStack() as stack:
        found = [stack.enter_context(FakePeer(node_id).running()) for node_id in (11, 12, 13)]
        members = [member(peer, match_index=90 + n) for n, peer in enumerate(found)]
        for peer, applied, state_hash in zip(found, (100, 60, 100), ("aa", "bb", "cc"), strict=True):
            peer.status = {
                "state": "leader" if peer is found[0] else "follower",
                "is_leader": peer is found[0],
                "leader_id": 11,
                "leader_address": found[0].address,
                "term": 5,
                "last_index": 101,
                "commit_index": 100,
                "applied_index": applied,
                "sqlite_version": "3.54.1",
                "members": members,
                "databases": {"app": {"applied_index": applied, "state_hash": state_hash, "pending": 0}},
            }
        yield found


# -- status -------------------------------------------------------------------------------------------------


def test_status_shows_every_member(peers: list[FakePeer]) -> None:
    result = run("status", "--node", peers[1].address)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"cluster {peers[0].cluster_id.hex()}  term 5  leader {peers[0].address} (11)"
    columns = lines[1].split()
    rows = {words[0]: dict(zip(columns, words, strict=True)) for words in map(str.split, lines[2:5])}
    assert [rows[key]["state"] for key in ("11", "12", "13")] == ["leader", "follower", "follower"]
    assert [rows[key]["lag"] for key in ("11", "12", "13")] == ["0", "40", "0"]
    assert rows["12"]["sqlite"] == "3.54.1"
    databases = [line.split() for line in lines if line.startswith("app")]
    assert [words[-1] for words in databases if words[2] == "100"] == ["DIFFERS", "DIFFERS"]
    assert [words[-1] for words in databases if words[2] == "60"] == ["ok"]


def test_status_of_an_unreachable_member(peers: list[FakePeer], closed_address: str) -> None:
    gone = {"id": 14, "address": closed_address, "role": "standby"}
    peers[0].status["members"] = [*peers[0].status["members"], gone]
    result = run("status", "--node", peers[0].address)
    [row] = [line for line in result.output.splitlines() if closed_address in line]
    assert result.exit_code == 0
    assert "unreachable" in row
    assert "standby" in row


def test_status_as_json(peers: list[FakePeer]) -> None:
    found = json.loads(run("status", "--json", "--node", peers[0].address).stdout)
    assert found["asked"] == peers[0].address
    assert {answer["node_id"] for answer in found["members"].values()} == {11, 12, 13}


def test_status_without_a_leader_fails(peers: list[FakePeer]) -> None:
    peers[0].status |= {"leader_address": "", "is_leader": False, "problem": "no quorum"}
    result = run("status", "--node", peers[0].address)
    assert result.exit_code == 1
    assert "none known" in result.output
    assert "no quorum" in result.output


def test_status_where_nobody_listens(closed_address: str) -> None:
    result = run("status", "--node", closed_address)
    assert result.exit_code == 1
    assert closed_address in result.stderr
    assert "Is a node running there" in result.stderr


@pytest.mark.parametrize(
    "answer", [{"members": 5, "databases": []}, {"members": [7, {"id": "x"}], "term": None}]
)
def test_status_survives_odd_answers(answer: dict[str, object]) -> None:
    with FakePeer(1).running() as peer:
        peer.status = answer
        result = run("status", "--node", peer.address)
    assert result.exit_code == 1
    assert "leader none known" in result.output


def test_text_from_the_network_cannot_drive_the_terminal() -> None:
    with FakePeer(1).running() as peer:
        peer.status = {"leader_address": "x:1\x1b[2J", "problem": "\x1b]0;owned\x07"}
        result = run("status", "--node", peer.address)
    assert "\x1b" not in result.output


# -- cluster -------------------------------------------------------------------------------------------------


def test_members(peers: list[FakePeer]) -> None:
    result = run("cluster", "members", "--node", peers[0].address)
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[0] for row in rows[1:]] == ["11", "12", "13"]
    assert "leader" in rows[1]
    listed = json.loads(run("cluster", "members", "--json", "--node", peers[0].address).stdout)
    assert [entry["id"] for entry in listed] == [11, 12, 13]


def test_remove_asks_any_node(peers: list[FakePeer]) -> None:
    result = run("cluster", "remove", "12", "--node", peers[2].address)
    assert (result.exit_code, result.output) == (0, "removed 12\n")
    assert peers[2].asked == [("remove", {"id": 12})]


def test_transfer_asks_the_leader(peers: list[FakePeer]) -> None:
    assert run("cluster", "transfer", "13", "--node", peers[2].address).output == "leadership handed to 7\n"
    run("cluster", "transfer", "--node", peers[0].address)
    assert peers[0].asked == [("transfer", {"target": 13}), ("transfer", {})]
    assert peers[2].asked == []


def test_refusal_is_shown(peers: list[FakePeer]) -> None:
    peers[0].error = MembershipRefused("without 12 there is no majority")
    result = run("cluster", "remove", "12", "--node", peers[0].address)
    assert result.exit_code == 1
    assert "without 12 there is no majority" in result.stderr
    assert "Traceback" not in result.output


def test_change_without_a_leader(peers: list[FakePeer]) -> None:
    peers[1].status["leader_address"] = ""
    result = run("cluster", "transfer", "--node", peers[1].address)
    assert result.exit_code == 1
    assert "knows no leader" in result.stderr


def test_add_asks_the_node_for_its_id(peers: list[FakePeer]) -> None:
    with FakePeer(99).running() as back:
        result = run("cluster", "add", back.address, "--node", peers[1].address)
    assert result.exit_code == 0, result.output
    assert peers[0].asked == [("join", {"id": 99, "address": back.address, "formats": None})]


def test_add_of_a_stranger(peers: list[FakePeer]) -> None:
    with FakePeer(99, cluster_id=b"x" * 16).running() as stranger:
        result = run("cluster", "add", stranger.address, "--node", peers[0].address)
    assert result.exit_code == 1
    assert "another cluster" in result.stderr
    assert "--join" in result.stderr
    assert peers[0].asked == []


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["status"], "--node"),
        (["status", "--node", "10.0.0.1"], "10.0.0.1:9001"),
        (["status", "--node", "host:port"], "'host:port'"),
        (["status", "--node", "a:0"], "port 0"),
        (["status", "--node", "::1:9001"], "[::1]:9001"),
        (["status", "--node", "a:1", "--timeout", "0"], "--timeout"),
        (["status", "--node", "a:1", "--tls-cert", "x"], "--tls-key and --tls-ca"),
        (
            ["status", "--node", "a:1", "--tls-cert", "x", "--tls-key", "y", "--tls-ca", "z"],
            "'x' is not a file",
        ),
        (["status", "--nod", "a:1"], "--node"),
        (["cluster", "remove", "--node", "a:1"], "ID"),
        (["cluster", "remove", "zero", "--node", "a:1"], "zero"),
        (["cluster", "remove", "0", "--node", "a:1"], "cluster members"),
        (["cluster", "transfer", str(2**63), "--node", "a:1"], "cluster members"),
        (["cluster", "add", "nowhere", "--node", "a:1"], "nowhere"),
        (["stat"], "status"),
    ],
)
def test_bad_input_names_what_and_how(arguments: list[str], named: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_help_everywhere() -> None:
    for arguments in ([], ["node"], ["status"], ["cluster"], ["cluster", "remove"]):
        assert "Usage:" in run(*arguments, "--help").output


# -- TLS ----------------------------------------------------------------------------------------------------

TLS = Path(__file__).parents[2] / "support" / "tls"


def tls_arguments(name: str) -> list[str]:
    return [
        *("--tls-cert", str(TLS / f"{name}.pem")),
        *("--tls-key", str(TLS / f"{name}.key"), "--tls-ca", str(TLS / "ca.pem")),
    ]


@pytest.fixture
def guarded() -> Iterator[FakePeer]:
    tls = TlsSettings(str(TLS / "node.pem"), str(TLS / "node.key"), str(TLS / "ca.pem"))
    with FakePeer(5, tls=tls).running() as peer:
        peer.status = {"is_leader": True, "leader_address": peer.address, "members": [member(peer)]}
        yield peer


@pytest.mark.parametrize("name", ["node", "wrong-host"])
def test_change_over_tls_needs_any_certificate_of_the_authority(guarded: FakePeer, name: str) -> None:
    result = run("cluster", "remove", "4", "--node", guarded.address, *tls_arguments(name))
    assert (result.exit_code, result.output) == (0, "removed 4\n")
    assert guarded.asked == [("remove", {"id": 4})]


def test_strangers_get_nothing_over_tls(guarded: FakePeer) -> None:
    for arguments in ([], tls_arguments("stranger")):
        result = run("cluster", "remove", "4", "--node", guarded.address, *arguments)
        assert result.exit_code == 1
    assert guarded.asked == []


def test_certificate_that_fits_its_key_not(guarded: FakePeer) -> None:
    arguments = tls_arguments("node")
    arguments[3] = str(TLS / "stranger.key")
    result = run("status", "--node", guarded.address, *arguments)
    assert result.exit_code == 2
    assert "--tls-key" in result.stderr


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "command",
    [
        ["cluster", "roles", "automatic", "-s", "127.0.0.1:1", "--gone-after"],
        ["status", "-s", "127.0.0.1:1", "--timeout"],
        ["node", "--dir", "/nowhere", "--listen", "127.0.0.1:0", "--busy-timeout"],
    ],
)
def test_what_is_no_number_is_refused(command: list[str], number: str) -> None:
    result = CliRunner().invoke(main, [*command, number])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
