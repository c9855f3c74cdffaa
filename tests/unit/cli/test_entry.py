"""The program's beginning."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

import pytest

from dqlite_py.cli import entry


class _Pressed:
    """Ctrl-C while the commands are loaded."""

    def find_spec(self, name: str, *_more: Any) -> None:
        if name == "dqlite_py.cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_program_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "dqlite_py.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Pressed(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Aborted!\n"


def test_it_runs_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dqlite-py", "--version"])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 0
    assert metadata.version("dqlite-py") in capsys.readouterr().out
