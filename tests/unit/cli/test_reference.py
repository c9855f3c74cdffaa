"""docs/cli.md says what the program does, and every command has what it should."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner

from dqlite_py.cli import layers
from dqlite_py.cli.exits import EXIT_CODES, ExitCode
from dqlite_py.cli.main import main
from dqlite_py.cli.reference import reference
from dqlite_py.cli.shell.dotcommands import COMMANDS

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_is_what_the_program_says() -> None:
    assert (DOCS / "cli.md").read_text() == reference(), (
        "run: python -m dqlite_py.cli.reference > docs/cli.md"
    )


def test_every_exit_code_is_told() -> None:
    assert set(EXIT_CODES) == set(ExitCode)


def test_every_command_can_be_helped_and_configured() -> None:
    for path, command in layers.leaves(main):
        shown = CliRunner().invoke(main, [*path, "--help"])
        assert shown.exit_code == 0, path
        assert "--config" in shown.output, path
        assert command.help, path
        for key, option in layers.keys(command).items():
            assert option.help or isinstance(option.type, click.Choice), f"{path}: --{key} says nothing"


def test_no_variable_means_two_things() -> None:
    seen: dict[str, str] = {}
    for path, command in layers.leaves(main):
        for key in layers.keys(command):
            first = layers.variables(path, key, command)[0]
            assert first not in seen, f"{first}: {seen[first]} and {path} {key}"
            seen[first] = f"{path} {key}"


def test_the_shells_page_names_every_command() -> None:
    page = (DOCS / "shell.md").read_text()
    for command in COMMANDS.values():
        usage = f".{command.name} {command.takes}".strip().replace("|", "\\|")
        assert f"| `{usage}` | {command.does} |" in page
