"""`dqlite-py status --watch`: what is shown of looks at a cluster, and the command against peers on loopback."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py.cli import watching
from dqlite_py.cli.cluster_view import plain_lines
from dqlite_py.cli.main import main
from dqlite_py.cli.watch_view import (
    Look,
    as_object,
    best_view,
    catch_up,
    fitted,
    line,
    rates,
    roles_line,
    size_text,
    watch_table,
)
from dqlite_py.cli.watching import Lines, LiveScreen
from dqlite_py.errors import NoLeader
from tests.support.fakepeer import FakePeer, member


def answer(applied: int, *, leads: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "is_leader": leads,
        "leader_address": "a:1",
        "state": "leader" if leads else "follower",
        "term": 3,
        "commit_index": 100,
        "applied_index": applied,
        "journal_syncs": applied // 10,
        "journal_bytes": 3 * 1024 * 1024,
        "free_bytes": 5,
        "members": [{"id": n, "address": f"{name}:1", "role": "voter"} for n, name in enumerate("abc", 1)],
        **more,
    }


BEFORE = Look(10.0, answer(80, leads=True), {"a:1": answer(80, leads=True), "b:1": answer(90)})
NOW = Look(
    12.0,
    answer(100, leads=True),
    {"a:1": answer(100, leads=True), "b:1": answer(40), "c:1": NoLeader("gone")},
)


def rows() -> dict[str, dict[str, str]]:
    table = watch_table(BEFORE, NOW)
    return {row[1]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_the_table() -> None:
    found = rows()
    assert found["a:1"]["entries/s"] == "10"
    assert found["a:1"]["syncs/s"] == "1"
    assert found["a:1"]["log"] == "3.0 MiB"
    assert found["a:1"]["health"] == "ok"
    assert found["b:1"]["lag"] == "60"
    assert (found["c:1"]["state"], found["c:1"]["health"]) == ("unreachable", "gone")


def test_weights_domains_and_the_last_decision_about_roles() -> None:
    found = dict(NOW.answers)
    view = answer(
        100,
        leads=True,
        members=[{"id": 1, "address": "a:1", "role": "voter", "weight": 7, "domain": 3}],
        roles={
            "decision": "3 is away, for 4 s",
            "automatic": True,
            "voters": 3,
            "standbys": 1,
            "last": {"text": "2 becomes voter: too few\x1b", "age_s": 12.4},
        },
    )
    now = Look(12.0, view, {**found, "a:1": view})
    table = watch_table(BEFORE, now)
    [row] = [dict(zip(table.header, cells, strict=True)) for cells in table.rows]
    assert (row["weight"], row["domain"]) == ("7", "3")
    assert roles_line(view) == (
        "roles automatic: 3 voters, 1 stand-bys; 12 s ago: 2 becomes voter: too few?; now: 3 is away, for 4 s"
    )
    assert line(BEFORE, now).endswith(' problems=0 decision="3 is away, for 4 s"')
    assert as_object(BEFORE, now, "then")["roles"] == view["roles"]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"decision": ""}, "roles: every member votes"),
        ({"automatic": False, "decision": ""}, "roles by hand"),
        ("nonsense", ""),
        ({"automatic": True, "last": "x"}, "roles automatic: 0 voters, 0 stand-bys"),
    ],
)
def test_who_keeps_the_roles(roles: Any, said: str) -> None:
    assert roles_line({"roles": roles}) == said


@pytest.mark.parametrize("width", [20, 40, 80, 100])
def test_a_narrow_screen_keeps_what_matters_most(width: int) -> None:
    shown = fitted(watch_table(BEFORE, NOW), width)
    assert shown.header[0] in ("id", "address")
    assert shown.header[-1] == "health"
    assert ("lag" in shown.header) or width == 20
    assert max(map(len, plain_lines(shown))) <= max(width, 30)
    assert fitted(watch_table(BEFORE, NOW), 300) == watch_table(BEFORE, NOW)


def test_no_rates_at_first_nor_after_a_restart() -> None:
    assert rates(None, NOW, "a:1") == (None, None)
    assert rates(BEFORE, NOW, "b:1").applied is None
    assert rates(BEFORE, NOW, "c:1") == (None, None)


def test_the_line() -> None:
    assert line(BEFORE, NOW) == (
        "term=3 leader=a:1 answering=2/3 commit=100 entries_per_s=10 lag=60 problems=0"
    )


def test_the_object() -> None:
    found = as_object(BEFORE, NOW, "then")
    assert found["rates"]["a:1"] == {"applied_per_s": 10.0, "syncs_per_s": 1.0}
    assert found["members"]["c:1"] == {"error": "gone"}


def test_the_leaders_view_is_the_best() -> None:
    leaderless = answer(5, leader_address="")
    assert best_view({"a": leaderless, "b": answer(1), "c": answer(0, leads=True)}) == answer(0, leads=True)
    assert best_view({"a": leaderless, "b": answer(1)}) == answer(1)
    assert best_view({"a": NoLeader("x")}) is None
    old = answer(9, leads=True, term=2)
    assert best_view({"a": old, "b": answer(0, leads=True)}) == answer(0, leads=True)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"snapshot_phase": "fetching", "snapshot_bytes": [50, 200]}, "fetching 25%"),
        ({"snapshot_phase": "preparing", "snapshot_bytes": [0, 0]}, "preparing"),
        ({"snapshot_phase": "fetching", "snapshot_bytes": ["x", 9]}, "fetching 0%"),
        ({"snapshot_phase": "idle"}, "snapshot"),
    ],
)
def test_how_far_a_member_has_caught_up(status: dict[str, Any], shown: str) -> None:
    assert catch_up(status, {"progress": "snapshot"}) == shown


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 31, "2.0 GiB"), (1 << 52, "4096.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "has_frames"), [("200", True), ("60", False)])
def test_the_live_screen(width: str, has_frames: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", out)
    screen = LiveScreen()
    screen.show(BEFORE, NOW)
    screen.close()
    text = out.getvalue()
    assert "unreachable" in text
    assert "Ctrl-C ends" in text
    assert ("entries/s" in text) is has_frames
    assert ("┃" in text) is has_frames


def test_the_command_writes_lines_and_objects() -> None:
    with FakePeer(11).running() as first, FakePeer(12).running() as second:
        members = [member(first), member(second)]
        for peer in (first, second):
            peer.status = {
                "leader_address": first.address,
                "is_leader": peer is first,
                "term": 4,
                "members": members,
            }
        arguments = ["status", "-s", second.address, "--watch", "--interval", "0.05"]
        lines = CliRunner().invoke(main, [*arguments, "--count", "2"])
        objects = CliRunner().invoke(main, [*arguments, "--count", "3", "--json"])
    assert lines.exit_code == 0, lines.output
    assert [text.split(" ", 1)[1].split(" commit")[0] for text in lines.output.splitlines()] == [
        f"term=4 leader={first.address} answering=1/2",
        f"term=4 leader={first.address} answering=2/2",
    ]
    found = [json.loads(text) for text in objects.output.splitlines()]
    assert [len(one["members"]) for one in found] == [1, 2, 2]


def test_a_cluster_that_does_not_answer_is_asked_on(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    result = CliRunner().invoke(
        main, ["status", "-s", address, "--watch", "--interval", "0.05", "--count", "2", "--timeout", "0.3"]
    )
    assert result.exit_code == 1
    assert result.output.count("answering=0/1") == 2


@pytest.mark.parametrize(("leader", "code"), [("somebody:1", 0), ("", 1)])
def test_ctrl_c_ends_with_what_the_last_look_found(
    leader: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pressed(Lines):
        looks = 0

        def show(self, before: Look | None, now: Look) -> None:
            self.looks += 1
            if self.looks == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(watching, "Lines", Pressed)
    with FakePeer(11).running() as peer:
        peer.status = {"leader_address": leader, "members": [member(peer)]}
        result = CliRunner().invoke(main, ["status", "-s", peer.address, "--watch", "--interval", "0.05"])
    assert result.exit_code == code, result.output
