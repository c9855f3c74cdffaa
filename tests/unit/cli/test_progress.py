"""Progress bars: for people at a terminal, and nothing for anybody else."""

from __future__ import annotations

import io
import sys

import pytest

from dqlite_py.cli.progress import BytesBar, TimeBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as a fixture: between set-up and test the capture sets stderr anew."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", out)


def test_a_terminal_sees_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    at(terminal, monkeypatch)
    with BytesBar() as bar:
        bar.show("sync\x1b[2J", 2048, 4096)
    text = terminal.getvalue()
    assert "2.0/4.1 kB" in text
    assert "sync?[2J" in text


def test_silence_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    at(terminal, monkeypatch)
    with BytesBar(is_wanted=False) as bar:
        bar.show("copy", 10, 10)
    assert terminal.getvalue() == ""


def test_nothing_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    at(out, monkeypatch)
    with BytesBar() as bar:
        bar.show("copy", 10, 10)
    assert out.getvalue() == ""


def test_time_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        at(out, monkeypatch)
        with TimeBar("load", 10.0) as bar:
            bar.show(5.0)
    assert "load" in terminal.getvalue()
    assert pipe.getvalue() == ""
