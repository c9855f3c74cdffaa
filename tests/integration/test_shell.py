"""The shell as a real process: in pipes, at a terminal of its own, and through the death of the leader."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.integration.cluster import WAIT_S, Cluster

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "dqlite_py.cli.main", "shell")
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("shell")) as running:
        yield running


def servers(cluster: Cluster) -> str:
    return ",".join(node.address for node in cluster.nodes)


def shell(cluster: Cluster, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "-s", servers(cluster), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=WAIT_S, check=False)


class Terminal:
    """A shell whose terminal the test types at; everything it showed is in `seen`."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self.is_over = False
        self._looked = 0
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
        self.process = subprocess.Popen(
            [*PROGRAM, "-s", servers(cluster), "--history", "", "--mode", "list", database],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it has shown `text` behind what was waited for before."""
        deadline = time.monotonic() + WAIT_S
        while (found := self.seen.find(text, self._looked)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen[self._looked :]!r}"
            self.read(deadline - time.monotonic())
        self._looked = found + len(text)

    def shows_within(self, texts: tuple[str, ...], wait_s: float) -> bool:
        """Whether it shows one of them, behind what was waited for before."""
        deadline = time.monotonic() + wait_s
        while not any(text in self.seen[self._looked :] for text in texts):
            if (left_s := deadline - time.monotonic()) <= 0 or self.is_over:
                return False
            self.read(left_s)
        return True

    def end(self) -> int:
        """The exit code, when it has come by itself; a terminal that nobody reads would hold it."""
        deadline = time.monotonic() + WAIT_S
        while not self.is_over and time.monotonic() < deadline:
            self.read(0.3)
        return self.process.wait(WAIT_S)

    def read(self, wait_s: float) -> None:
        """What is shown next, or nothing within the time."""
        if select.select([self._master], [], [], max(0.0, wait_s))[0]:
            try:
                data = os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                self.is_over = True
                return
            if "\x1b[6n" in data:  # it asks where the cursor is
                os.write(self._master, b"\x1b[1;1R")
            self.seen += data


def _take_terminal() -> None:
    """Make stdin the controlling terminal, so that Ctrl-C reaches this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_sql_as_an_argument(cluster: Cluster) -> None:
    found = shell(cluster, "args", "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);", "SELECT * FROM t")
    assert (found.stdout, found.stderr, found.returncode) == ("1\n2\n", "", 0)
    found = shell(cluster, "--json", "args", "SELECT * FROM t")
    assert json.loads(found.stdout) == [{"a": 1}, {"a": 2}]


def test_an_error_ends_with_1(cluster: Cluster) -> None:
    text = "SELECT 1;\nSELECT * FROM nowhere;\nSELECT 2;\n"
    found = shell(cluster, "errors", text=text)
    assert (found.stdout, found.returncode) == ("1\n2\n", 1)
    assert found.stderr == "Error near line 2: no such table: nowhere [SQLITE_ERROR; not applied]\n"
    found = shell(cluster, "--bail", "errors", text=text)
    assert (found.stdout, found.returncode) == ("1\n", 1)
    assert shell(cluster, "errors", "SELECT nonsense", "SELECT 1").stdout == ""


def test_an_open_transaction_is_rolled_back_at_the_end(cluster: Cluster) -> None:
    found = shell(cluster, "ends", text="CREATE TABLE t(a);\nBEGIN;\nINSERT INTO t VALUES (1);\n")
    assert "rolled back" in found.stderr
    assert shell(cluster, "ends", "SELECT count(*) FROM t").stdout == "0\n"


def test_a_dump_through_a_pipe(cluster: Cluster, tmp_path: Path) -> None:
    shell(cluster, "one", "CREATE TABLE t(a PRIMARY KEY, b); INSERT INTO t VALUES (1, x'00ff'), ('x', NULL);")
    dump = shell(cluster, "one", ".dump")
    assert dump.returncode == 0, dump.stderr
    made = shell(cluster, "two", text=dump.stdout)
    assert made.returncode == 0, made.stderr
    assert shell(cluster, "two", ".dump").stdout == dump.stdout


def test_a_reader_that_goes_away_is_no_disaster(cluster: Cluster) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT * FROM n;"
    process = subprocess.Popen(
        [*PROGRAM, "-s", servers(cluster), "pipe", sql],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        assert process.wait(WAIT_S) == 1
        assert "Traceback" not in process.stderr.read()


def test_ctrl_c_cancels_what_runs_and_the_shell_goes_on(cluster: Cluster) -> None:
    with Terminal(cluster, "ctrlc") as terminal:
        terminal.wait_for("ctrlc>")
        terminal.type(".timeout 50\rBEGIN;\r")
        terminal.wait_for("ctrlc*>")
        terminal.type(f"{LONG}\r")
        terminal.wait_for("\x1b[?2004l")  # the editor has handed over
        terminal.type("\x03")
        # One that came before the statement was at its node ends nothing; the next one only stops waiting.
        while not terminal.shows_within(("interrupted", "cancelled"), 5.0):
            terminal.type("\x03")
        terminal.type("ROLLBACK;\r")
        terminal.wait_for("ctrlc>")
        terminal.type("SELECT 6 * 7;\r")
        terminal.wait_for("42")
        terminal.type(".quit\r")
        assert terminal.end() == 0


def test_the_leader_dies_in_the_middle(cluster: Cluster) -> None:
    """Outside a transaction nothing is noticed; one that is open is lost, whole, and the shell says so."""
    shell(cluster, "fails", "CREATE TABLE t(a)")
    command = [*PROGRAM, "-s", servers(cluster), "fails"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def say(text: str) -> None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(text + "\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]

        say("INSERT INTO t VALUES (1);")
        say("BEGIN;")
        say("INSERT INTO t VALUES (2);")
        say("SELECT count(*) FROM t;")
        assert process.stdout.readline() == "2\n"
        leader = cluster.leader()
        leader.kill()
        say("INSERT INTO t VALUES (3);")
        say("INSERT INTO t VALUES (4);")
        said = process.stderr.readline()
        assert "near line 5" in said
        assert "not applied" in said
        say("ROLLBACK;")
        say("INSERT INTO t VALUES (5);")
        say("SELECT group_concat(a) FROM t;")
        assert process.stdout.readline() == "1,5\n"
        process.stdin.close()
        assert process.wait(WAIT_S) == 1
        assert "ROLLBACK ends it" in process.stderr.read()
    leader.start()
    cluster.wait_formed()
    assert shell(cluster, "fails", "SELECT group_concat(a) FROM t").stdout == "1,5\n"
