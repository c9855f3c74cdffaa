"""`dqlite-py node`: what is refused before a node starts, with the input named and the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dqlite_py.cli.main import main


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, ["node", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--listen", "127.0.0.1:0"], "--dir"),
        (["--dir", "DIR"], "--listen"),
        (["--dir", "DIR", "--listen", "9001"], "'9001' is not HOST:PORT"),
        (["--dir", "DIR", "--listen", "localhost"], "localhost:9001"),
        (["--dir", "DIR", "--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
        (["--dir", "DIR", "--listen", "0.0.0.0:9001", "--insecure"], "advertise"),
        (["--dir", "DIR", "--listen", "10.0.0.1:9001"], "--insecure"),
        (["--dir", "DIR", "--listen", "127.0.0.1:9001", "--join", "127.0.0.1:9001"], "this node's own"),
        (["--dir", "DIR", "--listen", "127.0.0.1:9001", "--join", "127.0.0.1:0"], "port 0"),
        (["--dir", "DIR", "--listen", "127.0.0.1:9001", "--join", "a:1,b"], "'b' is not HOST:PORT"),
        (["--dir", "DIR", "--listen", "127.0.0.1:0", "--advertise", "x"], "--advertise"),
        (["--dir", "DIR", "--listen", "127.0.0.1:0", "--tls-cert", "c"], "--tls-key and --tls-ca"),
        (["--dir", "DIR", "--listen", "127.0.0.1:0", "--log-level", "loud"], "loud"),
        (["--dir", "DIR", "--lisen", "127.0.0.1:0"], "--listen"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], named: str) -> None:
    result = run(*(str(tmp_path / "data") if word == "DIR" else word for word in arguments))
    assert result.exit_code == 2, result.output
    assert named in result.stderr
    assert "ready" not in result.stdout


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run("--dir", tmp_path / "file", "--listen", "127.0.0.1:0")
    assert result.exit_code == 2
    assert "file" in result.stderr


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run("--dir", tmp_path / "file" / "data", "--listen", "127.0.0.1:0")
    assert result.exit_code == 3
    assert "choose another --dir" in result.stderr


@pytest.mark.parametrize("path", ["/proc/dqlite"])
def test_folder_that_cannot_be_created(path: str) -> None:
    if os.path.isdir("/proc"):
        result = run("--dir", path, "--listen", "127.0.0.1:0")
        assert result.exit_code == 3
        assert path in result.stderr
