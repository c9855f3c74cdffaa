"""The shell's session: SQL, dot commands, and what is said when something goes wrong."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.cli.shell.dotcommands import COMMANDS
from dqlite_py.cli.shell.formats import MODES, Look
from dqlite_py.cli.shell.output import Output
from dqlite_py.errors import OperationalError
from dqlite_py.gateway import OURS
from tests.support.fakepeer import FakePeer, member
from tests.unit.cli.shell.shells import shell

TABLE = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);INSERT INTO t VALUES (1,'x'),(2,NULL);"


def test_sql() -> None:
    with shell() as one:
        assert one.run(TABLE) == ""
        assert one.run("SELECT * FROM t ORDER BY a; SELECT count(*) FROM t") == "1|x\n2|\n2\n"
        assert one.session.failures == 0


def test_an_error_is_told_with_its_place_and_the_rest_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with shell() as one:
        assert one.run(f"{TABLE}\nSELECT 1;\nINSERT INTO t VALUES (1, 2);\n.nonsense\nSELECT 2;") == "1\n2\n"
        assert one.session.failures == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "Error near line 3: UNIQUE constraint failed: t.a [SQLITE_CONSTRAINT_PRIMARYKEY; not applied]",
        "Error near line 4: there is no command .nonsense: .help lists them",
    ]


def test_bail_stops() -> None:
    with shell() as one:
        assert one.run(".bail on\nSELECT * FROM none;\nSELECT 1;") == ""
        assert not one.session.run_text("SELECT * FROM none; SELECT 1;", stops=True)


def test_transactions_are_the_users() -> None:
    with shell() as one:
        one.run(TABLE)
        assert one.session.transaction == "none"
        one.run("BEGIN; DELETE FROM t;")
        assert one.session.transaction == "open"
        assert one.run("SELECT count(*) FROM t; ROLLBACK; SELECT count(*) FROM t;") == "0\n2\n"
        assert one.session.transaction == "none"


def test_a_transaction_that_its_node_ended_takes_nothing_more_until_rollback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shell() as one:
        one.run(f"{TABLE} BEGIN; DELETE FROM t;")
        one.gateway.end_transactions("app", "the leader is gone")
        one.run("INSERT INTO t VALUES (7, 7); INSERT INTO t VALUES (8, 8);")
        assert one.session.transaction == "ended"
        assert "nothing of the transaction happened: ROLLBACK ends it" in capsys.readouterr().err
        one.run("ROLLBACK;")
        assert one.session.transaction == "none"
        assert one.run("SELECT group_concat(a) FROM t") == "1,2\n"


@pytest.mark.parametrize(
    ("fate", "answer", "count"),
    [("lost", "it happened, once", "3\n"), ("dropped", "it did not happen", "2\n")],
)
def test_an_unknown_outcome_is_resolved(
    fate: str, answer: str, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with shell() as one:
        assert one.run(".resolve") == "there is no write whose outcome is unknown\n"
        one.run(TABLE)
        one.gateway.next_write = fate
        one.run("INSERT INTO t VALUES (3, 'y')")
        said = capsys.readouterr().err
        assert "outcome unknown: it may have happened" in said
        assert ".resolve asks the cluster" in said
        assert answer in one.run(".resolve")
        assert one.run("SELECT count(*) FROM t") == count
        assert one.session.unresolved is None


def test_tables_schema_and_indexes() -> None:
    with shell() as one:
        one.run(TABLE + "CREATE INDEX i ON t(b); CREATE VIEW v AS SELECT 1; CREATE TABLE u(x UNIQUE);")
        one.run("CREATE TABLE _dqlite_meta(x); CREATE INDEX _dqlite_i ON _dqlite_meta(x);")
        assert one.run(".tables") == "t\nu\nv\n"
        assert one.run(".tables u%") == "u\n"
        assert one.run(".indexes") == "i\n"
        assert (
            one.run(".schema t")
            == "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\nCREATE INDEX i ON t(b);\n"
        )
        assert "_dqlite" not in one.run(".schema")


def test_output_and_once(tmp_path: Path) -> None:
    with shell() as one:
        once, all_ = tmp_path / "once", tmp_path / "all"
        assert one.run(f".once {once}\nSELECT 1;\nSELECT 2;") == "2\n"
        assert once.read_text() == "1\n"
        assert one.run(f".output '{all_}'\nSELECT 3;\nSELECT 4;\n.output\nSELECT 5;") == "5\n"
        assert all_.read_text() == "3\n4\n"
        assert one.run(f".output {tmp_path}\nSELECT 6;") == "6\n"
        assert one.session.failures == 1


def test_a_dump_makes_the_same_database(tmp_path: Path) -> None:
    with shell() as one, shell() as other:
        one.run(TABLE + "CREATE TABLE u(x); INSERT INTO u VALUES ('it''s'); CREATE INDEX i ON t(b);")
        (tmp_path / "all.sql").write_text(one.run(".dump"))
        other.run(f".read {tmp_path / 'all.sql'}")
        assert other.session.failures == 0
        assert other.run(".dump") == one.run(".dump")
        part = one.run(".dump t")
        assert 'INTO "t"' in part
        assert "CREATE INDEX i" in part
        assert '"u"' not in part
        assert one.gateway.open_streams == one.gateway.open_transactions == 0


def test_files_that_read_each_other_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "circle.sql"
    file.write_text(f".read {file}\n")
    with shell() as one:
        one.run(f".read {file}")
        assert one.session.failures == 1
        assert one.session.read_depth == 0
    assert "circle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (".mode nonsense", "there is no mode 'nonsense': box"),
        (".headers perhaps", "neither on nor off"),
        (".timeout -1", "no number of seconds"),
        (".consistency strong", "linearizable, leader, session, stale"),
        (".consistency leader 5", "only stale reads"),
        (".open 'a b'", "a b"),
        (".import x", "write .import"),
        (".quit now", "write .quit"),
        (".watch 1 DELETE FROM t", "write .watch"),
        (".read nowhere.sql", "nowhere.sql"),
        (".tabels", "did you mean .tables?"),
        (".schema 'x", "quotation"),
        (".s", "no command .s"),
        (".separator", "write .separator TEXT"),
        (".weight 11 heavy", "is no weight"),
    ],
)
def test_wrong_commands(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with shell() as one:
        one.run(command)
        assert one.session.failures == 1
    assert said in capsys.readouterr().err


def test_settings() -> None:
    with shell() as one:
        one.run(".mode json\n.nullvalue -\n.timer on\n.bail on\n.consistency stale 5\n.timeout 3")
        shown = one.run(".show")
        assert "mode: json" in shown
        assert "consistency: stale" in shown
        assert one.run(".consistency") == "stale, at most 5 s old\n"
        assert one.session.connection.read_level.value == "stale"
        assert one.session.connection.timeout == 3.0
        one.run(".open other\n.mode list\n.separator ::\nSELECT 1;")
        assert one.session.connection.database == "other"
        assert one.session.connection.max_staleness == 5.0
        assert one.run("SELECT 1, NULL") == "1::-\n"


def test_another_database_only_outside_a_transaction() -> None:
    with shell() as one:
        one.run(f"{TABLE} BEGIN;\n.open other")
        assert (one.session.database, one.session.failures) == ("app", 1)
        one.run("COMMIT;\n.open other")
        assert one.session.database == "other"


def test_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    with shell(database="") as one:
        one.run("SELECT 1")
        assert "no database is open: .open NAME" in capsys.readouterr().err
        assert one.run(".open app\nSELECT 1;") == "1\n"


def test_help_names_every_command() -> None:
    with shell() as one:
        lines = one.run(".help").splitlines()
        assert [line.split()[0][1:] for line in lines] == list(COMMANDS)
        assert list(COMMANDS) == sorted(COMMANDS)
        assert one.run(".help trans").startswith(".transfer [MEMBER]")


def test_the_beginning_of_a_name_is_enough() -> None:
    with shell() as one:
        one.run(TABLE)
        assert one.run(".tab") == "t\n"


def test_the_timer(capsys: pytest.CaptureFixture[str]) -> None:
    with shell() as one:
        one.run(".timer on\nSELECT 1;")
    assert capsys.readouterr().err.startswith("Run Time: real 0.")


def test_a_query_that_is_watched_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("dqlite_py.cli.shell.settingcommands.time.sleep", sleep)
    with shell() as one:
        shown = one.run(".watch 0.5 SELECT 'it''s';")
    assert pauses == [0.5] * 3
    assert shown.count("\nit's\n") == 3


class Signalled:
    """A connection whose statements are interrupted by Ctrl-C."""

    in_transaction = False
    server = OURS

    def __init__(self) -> None:
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1

    def execute(self, _sql: str) -> Any:
        signal.raise_signal(signal.SIGINT)
        raise OperationalError("interrupted", code=9)

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(("is_interactive", "runs"), [(False, 1), (True, 2)])
def test_ctrl_c_ends_a_script_and_at_a_terminal_a_statement(is_interactive: bool, runs: int) -> None:
    with shell(is_interactive=is_interactive) as one:
        connection = Signalled()
        one.session.use(connection)
        one.run("SELECT 1;\nSELECT 2;")
        assert connection.interrupts == one.session.failures == runs


# -- the cluster ----------------------------------------------------------------------------------------------


def answered(peer: FakePeer, **more: Any) -> dict[str, Any]:
    return {
        "leader_address": peer.address,
        "leader_id": peer.node_id,
        "is_leader": True,
        "members": [member(peer)],
        "databases": {"app": {"applied_index": 3, "state_hash": "ab", "pending": 0}},
        **more,
    }


def test_commands_about_the_cluster() -> None:
    async def done(_body: Any) -> None:
        """It is done."""

    methods = {"assign": done, "describe": done}
    with FakePeer(11, methods=methods).running() as peer, shell(servers=(peer.address,)) as one:
        peer.status = answered(peer)
        assert one.run(".leader") == f"{peer.address}\n"
        assert peer.address in one.run(".cluster")
        assert one.run(".databases").splitlines()[1].split() == ["app", peer.address, "3", "ab", "ok"]
        assert json.loads(one.run(".describe 11"))["node_id"] == 11
        assert one.run(".assign 11 standby") == "11 is a standby now\n"
        assert ("assign", {"id": 11, "role": "standby", "timeout_s": 0.1}) in peer.asked
        assert one.run(f".weight {peer.address} 7") == "11 has weight 7 now\n"
        assert ("describe", {"id": 11, "weight": 7, "domain": None}) in peer.asked
        assert one.run(".remove 11") == "removed 11\n"
        assert ("remove", {"id": 11}) in peer.asked
        assert one.run(f".transfer {peer.address}").startswith("leadership handed to")
        assert ("transfer", {"target": 11}) in peer.asked
        one.run(".mode json")
        assert json.loads(one.run(".cluster"))[0]["id"] == 11
        assert one.session.failures == 0


def test_a_member_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with FakePeer(11).running() as peer, shell(servers=(peer.address,)) as one:
        peer.status = answered(peer)
        one.run(".remove 12")
        assert all(method != "remove" for method, _body in peer.asked)
    assert "there is no member '12'" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    with shell(servers=(f"127.0.0.1:{unused_tcp_port}",)) as one:  # type: ignore[arg-type]
        one.run(".leader")
        assert one.session.failures == 1
    assert "no answer from" in capsys.readouterr().err


def test_a_file_that_fails_stops_what_stops_at_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.sql").write_text("SELECT * FROM nowhere;\nSELECT 'in it';\n")
    with shell() as one:
        assert one.run(f".bail on\n.read {tmp_path / 'bad.sql'}\nSELECT 'behind it';") == ""
        assert one.session.failures == 1
        one.run(".bail off")
        assert not one.session.run_text(f".read {tmp_path / 'bad.sql'}", stops=True)


def test_what_is_not_utf_8_fails_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "latin.sql").write_bytes(b"SELECT 1;\nSELECT '\xff';\nSELECT 2;\n")
    with shell() as one:
        assert one.run(f".read {tmp_path / 'latin.sql'}") == "1\n2\n"
        assert one.session.failures == 1
    assert "Error near line 2: SQL is not valid UTF-8" in capsys.readouterr().err


def test_values_go_through_a_file_as_they_are(tmp_path: Path) -> None:
    with shell() as one, shell() as other:
        one.run(
            "CREATE TABLE t(a); INSERT INTO t VALUES (char(13) || 'x' || char(13, 10) || 'y'), "
            "('ready' || char(10) || 'go' || char(10)), (char(0x2028, 0x85, 12)), ('a' || char(0))"
        )
        one.run(f".output {tmp_path / 'all.sql'}\n.dump\n.output")
        other.run(f".read {tmp_path / 'all.sql'}")
        assert other.session.failures == 0
        assert other.run("SELECT hex(a) FROM t") == one.run("SELECT hex(a) FROM t")


def test_once_by_the_beginning_of_its_name_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "to.sql").write_text(f".onc {tmp_path / 'result'}\nSELECT 1;\nSELECT 2;\n")
    with shell() as one:
        assert one.run(f".read {tmp_path / 'to.sql'}") == "2\n"
    assert (tmp_path / "result").read_text() == "1\n"


def test_a_full_disk_is_told_with_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with shell() as one:
        assert one.run(".output /dev/full\nSELECT 1;\n.output\nSELECT 2;") == "2\n"
        assert one.session.failures >= 1
        assert one.run(".once /dev/full\nSELECT 1;\nSELECT 2;") == "2\n"
    assert "cannot write to the file: No space left on device: '/dev/full'" in capsys.readouterr().err


def test_a_wrong_address_ends_the_command_not_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with FakePeer(11).running() as peer, shell(servers=(peer.address,)) as one:
        assert one.run(".add nonsense\nSELECT 2;") == "2\n"
        assert one.session.failures == 1
    assert "Error: 'nonsense' is not HOST:PORT" in capsys.readouterr().err


def test_a_home_that_nobody_has(capsys: pytest.CaptureFixture[str]) -> None:
    with shell() as one:
        assert one.run(".read ~nobody-of-this-name/x.sql\nSELECT 2;") == "2\n"
    assert "~nobody-of-this-name/x.sql" in capsys.readouterr().err


class _Typewriter(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("mode", [*MODES])
def test_nothing_drives_a_terminal(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Values, names of tables and columns, SQL of the schema, and what an error quotes."""
    with shell(look=Look().with_mode(mode)) as one:
        one.run(
            'CREATE TABLE "t\x1b[31m" ("c\x9b1m" TEXT DEFAULT \'\x1b\');'
            "INSERT INTO \"t\x1b[31m\" VALUES ('\x1b]0;x\x07');"
        )
        screen = _Typewriter()
        one.session.output = Output(screen)
        one.run('SELECT * FROM "t\x1b[31m";\n.tables\n.schema\n.dump\n.headers on\nSELECT * FROM "t\x1b[31m"')
        one.run('SELECT * FROM "n\x1b[31m";\n.read /no/\x1b[31m\n.remove \x1b[31m')
    shown = screen.getvalue() + capsys.readouterr().err
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert "\\x1b" in shown or "\\u001b" in shown
