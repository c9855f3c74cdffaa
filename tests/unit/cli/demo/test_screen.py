"""The demo's display, drawn to a string."""

from __future__ import annotations

import io
import time

from rich.console import Console

from dqlite_py.cli.demo.client import NodeStatus, parse_status
from dqlite_py.cli.demo.ledger import Ledger, RowKey
from dqlite_py.cli.demo.screen import DemoState, LiveScreen, NodeView, PlainScreen, make_screen


def _state() -> DemoState:
    now = time.monotonic()
    ledger = Ledger(now)
    ledger.acknowledge(RowKey("node1.0", 0), "node1", now, now + 0.0012)
    nodes = [
        NodeView("node1", "127.0.0.1:1", True, NodeStatus(1, "leader", "voter", 3, 1, 12, 11, 10, 3)),
        NodeView("node2", "127.0.0.1:2", False),
        NodeView("node3", "127.0.0.1:3", True),
    ]
    return DemoState(nodes, ledger, now)


def test_the_live_screen_shows_leader_indexes_and_the_dead() -> None:
    out = io.StringIO()
    with LiveScreen(Console(file=out, force_terminal=True, width=120, color_system=None)) as screen:
        screen.event(_state(), "something happened")
    text = out.getvalue()
    for part in ("LEADER", "12", "11", "10", "killed", "starting", "1.2 / 1.2", "something happened"):
        assert part in text


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    screen = make_screen(Console(file=out, width=60))
    assert isinstance(screen, PlainScreen)
    state = _state()
    screen.event(state, "something [happened]")
    screen.refresh(state)
    screen.refresh(state)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "something [happened]" in lines[0]
    assert "node1 leader 12/11/10  node2 killed  node3 starting" in lines[1]


def test_a_status_of_another_release_does_not_break_the_screen() -> None:
    for body in (None, {}, {"term": "x", "members": [1, {"id": 4}]}, {"state": 5}):
        assert parse_status(body).term == 0
