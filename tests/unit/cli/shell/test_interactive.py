"""The shell at a terminal, typed into through a pipe that prompt_toolkit reads as keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from dqlite_py.cli.shell.completing import ShellCompleter
from dqlite_py.cli.shell.interactive import KnownSchema, prompt_text, run_interactive
from tests.unit.cli.shell.shells import Shell, shell

TABLE = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT);"


def typed(one: Shell, text: str, history: str = "") -> str:
    """What it writes to stdout when this is typed; ends with Ctrl-D."""
    begin = len(one.written.getvalue())
    with create_pipe_input() as pipe:
        pipe.send_text(text + "\x04")
        run_interactive(one.session, history, input=pipe, output=DummyOutput())
    return one.written.getvalue()[begin:]


def test_a_statement_runs_when_it_is_complete() -> None:
    with shell(is_interactive=True) as one:
        assert typed(one, "SELECT\r1,\r2;\r.mode csv\rSELECT 3;\r") == "1|2\n3\r\n"


def test_the_end_of_input_and_quit(capsys: pytest.CaptureFixture[str]) -> None:
    with shell(is_interactive=True) as one:
        assert typed(one, ".quit\rSELECT 1;\r") == ""
        assert one.session.is_done
    assert "no answer from" in capsys.readouterr().err  # the greeting, where nobody listens


def test_ctrl_c_throws_away_what_was_typed() -> None:
    with shell(is_interactive=True) as one:
        assert typed(one, "SELECT 'a\x03SELECT 2;\r") == "2\n"


def test_the_prompt_shows_the_transaction() -> None:
    with shell(is_interactive=True) as one:
        assert prompt_text(one.session) == "app> "
        typed(one, f"{TABLE}\rBEGIN;\rDELETE FROM people;\r")
        assert prompt_text(one.session) == "app*> "
        one.gateway.end_transactions("app", "gone")
        one.run("SELECT 1;")
        assert prompt_text(one.session) == "app!> "
        one.run("ROLLBACK;")
        assert prompt_text(one.session) == "app> "


def test_how_many_rows_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with shell(is_interactive=True) as one:
        typed(one, f"{TABLE}\rINSERT INTO people(name) VALUES ('Ann'), ('Bob');\r")
    assert "(2 rows changed)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "said", "is_known"),
    [
        ("\r", "it happened, once", True),
        ("y\r", "it happened, once", True),
        ("n\r", "later: .resolve", False),
    ],
)
def test_an_unknown_outcome_is_offered_to_be_resolved(
    keys: str, said: str, is_known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with shell(is_interactive=True) as one:
        one.run(TABLE)
        one.gateway.next_write = "lost"
        typed(one, f"INSERT INTO people(name) VALUES ('Ann');\r{keys}")
        assert said in capsys.readouterr().out
        assert (one.session.unresolved is None) is is_known
        assert one.run("SELECT count(*) FROM people") == "1\n"


def test_history_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    with shell(is_interactive=True) as one:
        typed(one, "SELECT 1;\r", history=str(file))
        assert typed(one, "\x1b[A\r", history=str(file)) == "1\n"  # the line before, by the arrow
    assert "SELECT 1;" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_history_that_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with shell(is_interactive=True) as one:
        assert typed(one, "SELECT 1;\r", history=str(tmp_path / "file" / "history")) == "1\n"
    assert "no history" in capsys.readouterr().err


def test_the_schema_is_asked_for_when_it_may_have_changed() -> None:
    with shell(is_interactive=True) as one:
        schema = KnownSchema(one.session)
        schema.refresh()
        assert not one.session.is_connected  # a database is not made by looking
        for text, tables in ((TABLE, ["people"]), ("SELECT 1;", ["people"]), ("DROP TABLE people;", [])):
            one.run(text)
            schema.note(text)
            schema.refresh()
            assert list(schema.known()) == tables


# -- completion -----------------------------------------------------------------------------------------------

SCHEMA = {"people": ["id", "name"], "places": ["id", "town"]}


def completed(text: str) -> list[str]:
    completer = ShellCompleter(lambda: SCHEMA)
    return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT na", ["name", "natural"]),
        ("SEL", ["SELECT"]),
        ("sel", ["select"]),
        ("SELECT * FROM p", ["people", "places", "partition", "plan", "pragma", "preceding", "primary"]),
        ("SELECT people.", ["id", "name"]),
        ("SELECT p.to", ["town"]),
        (".ta", ["tables"]),
        (".mode js", ["json"]),
        (".consistency ", ["linearizable", "leader", "session", "stale"]),
        (".schema pl", ["places"]),
        (".import x.csv pe", ["people"]),
        (".watch 2 SELECT tow", ["town"]),
        ("SELECT ", []),
    ],
)
def test_completion(text: str, found: list[str]) -> None:
    assert completed(text) == found


def test_completion_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.sql").write_text("")
    monkeypatch.chdir(tmp_path)
    assert completed(".read scr") == ["ipt.sql"]


def test_keys_of_a_write_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cancelled by Ctrl-C has a key, so that its fate can be found out."""
    with shell(is_interactive=True) as one:
        one.run(TABLE)
        connection = one.session.connection

        def interrupted(*_arguments: Any, **_options: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(connection, "execute_atomic", interrupted)
        one.run("INSERT INTO people(name) VALUES ('Ann');")
        assert one.session.unresolved is not None
        assert "never will" in one.run(".resolve")
