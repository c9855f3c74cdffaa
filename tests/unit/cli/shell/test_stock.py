"""The shell where the servers are stock dqlite: what it says of them, and the commands about the cluster."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dqlite_py.cli.members import Asked
from dqlite_py.cli.remote import Remote
from dqlite_py.cli.shell.formats import Look
from dqlite_py.cli.shell.output import Output
from dqlite_py.cli.shell.session import Session
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.responses import Failure
from tests.support.fakestock import CLOSE, FakeServer, servers

WAIT_S = 20.0


class Shell:
    def __init__(self, server: FakeServer, database: str) -> None:
        self.written = io.StringIO()
        asked = Asked(Remote(), (server.address,), WAIT_S)
        self.session = Session(
            asked, database, look=Look(), output=Output(self.written), options={"timeout": WAIT_S}
        )

    def run(self, text: str) -> str:
        begin = len(self.written.getvalue())
        self.session.run_text(text)
        return self.written.getvalue()[begin:]

    def close(self) -> None:
        self.session.output.close()
        self.session.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with servers(1) as [made]:
        yield made


@pytest.fixture(params=["connected", "not connected"])
def shell(server: FakeServer, request: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    made = Shell(server, "app")
    if request.param == "connected":
        made.run("SELECT 1;")
    capsys.readouterr()
    yield made
    made.close()


def test_what_the_servers_are_is_one_line(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    made = Shell(server, "app")
    made.run("SELECT 1;\nSELECT 2;")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("Warning: these are servers of dqlite itself: reads are what their leader has")
    made.close()


def test_settings_say_what_such_servers_do(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    made = Shell(server, "app")
    made.run("SELECT 1;")
    level = "leader (what the leader has; what dqlite servers promise is: stale)"
    assert made.run(".consistency") == level + "\n"
    shown = made.run(".show")
    assert f"consistency: {level}\n" in shown
    assert "server: dqlite\n" in shown
    assert "writes: not exactly once\n" in shown
    capsys.readouterr()
    assert made.run(".consistency linearizable") == ""
    assert "reads are not linearizable" in capsys.readouterr().err
    assert made.run(".consistency") == level + "\n"
    assert made.run(".consistency stale\n.consistency") == "stale\n"
    made.close()


def test_the_cluster(server: FakeServer, shell: Shell) -> None:
    assert shell.run(".leader") == f"{server.address}\n"
    lines = shell.run(".cluster").splitlines()
    assert lines[0] == f"servers of dqlite itself  leader {server.address}"
    assert lines[2].split() == ["1", server.address, "voter", "leader"]
    described = {"address": server.address, "failure_domain": 3, "weight": 5}
    assert json.loads(shell.run(".describe")) == json.loads(shell.run(".describe 1")) == described
    shell.run(".mode json")
    expected = [{"id": 1, "address": server.address, "role": "voter", "leads": True}]
    assert json.loads(shell.run(".cluster")) == expected
    assert shell.session.failures == 0


def test_members_are_changed(server: FakeServer, shell: Shell) -> None:
    assert shell.run(f".assign {server.address} spare") == "1 is a spare now\n"
    assert shell.run(".transfer") == "leadership handed over\n"
    assert shell.run(".transfer 1") == "leadership handed to 1\n"
    assert shell.run(".weight 1 7") == "1 has weight 7 now\n"
    assert shell.run(".remove 1") == "removed 1\n"
    expected = [("ASSIGN", 1, 2), ("TRANSFER", 0), ("TRANSFER", 1), ("WEIGHT", 7), ("REMOVE", 1)]
    assert server.changes == expected


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (".assign 1 king", "there is no role 'king'"),
        (".weight 1 -2", "is no weight"),
        (".remove 99", "there is no member '99'"),
        (".add 127.0.0.1:5", "joins by its own program"),
        (".databases", "do not have what .databases shows"),
    ],
)
def test_what_cannot_be_done_is_said(
    shell: Shell, server: FakeServer, command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.run(command) == ""
    assert said in capsys.readouterr().err
    assert server.changes == []


def test_nobody_leads(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.leader = Address("")
    made = Shell(server, "app")
    made.session.asked = made.session.asked._replace(timeout_s=0.3)
    assert made.run(".remove 1") == ""
    assert "no leader was found in time" in capsys.readouterr().err
    assert server.changes == []
    made.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [(Failure(1, "no such member"), "no such member"), (CLOSE, "outcome unknown")],
)
def test_what_the_leader_says_to_a_change(
    shell: Shell, server: FakeServer, answer: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script["REMOVE"] = [answer]
    assert shell.run(".remove 1") == ""
    assert said in capsys.readouterr().err
    assert server.changes == [("REMOVE", 1)]  # never twice
