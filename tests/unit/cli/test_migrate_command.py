"""`dqlite-py migrate`: what it shows and how it ends; the connection is one to a gateway of the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py import client
from dqlite_py.cli.main import main
from dqlite_py.dbapi import connect
from tests.support.fakegateway import FakeGateway


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        (tmp_path / f"{number:04}_t.sql").write_text(f"CREATE TABLE t{number} (a)")
    asked: list[tuple[Any, ...]] = []

    with FakeGateway() as gateway:

        def connected(target: str, database: str, **options: Any) -> Any:
            asked.append((target, database, options.pop("tls")))
            return connect(gateway, database, **options)

        monkeypatch.setattr(client, "connect", connected)
        command = ["migrate", "--node", "127.0.0.1:9001", "--database", "app", str(tmp_path)]
        shown = CliRunner().invoke(main, [*command, "--dry-run"])
        assert (shown.exit_code, shown.output.count("pending")) == (0, 2), shown.output
        done = CliRunner().invoke(main, command)
        assert (done.exit_code, done.output.count("applied")) == (0, 2), done.output
        assert CliRunner().invoke(main, command).output == "nothing to apply\n"
        assert CliRunner().invoke(main, [*command, "--dry-run"]).output.count("pending") == 0
        (tmp_path / "0002_t.sql").write_text("SELECT 1")
        refused = CliRunner().invoke(main, command)
        assert refused.exit_code == 1
        assert "0002_t.sql was changed after it was applied" in refused.output
    assert set(asked) == {("127.0.0.1:9001", "app", None)}
