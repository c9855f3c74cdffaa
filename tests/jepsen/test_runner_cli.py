"""`python -m jepsen`: exit codes and messages for good and bad input. Starts no cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jepsen.__main__ as cli
from jepsen.errors import MissingTool, SetupError
from jepsen.run.options import Options, Result
from jepsen.verdict import Verdict

GOOD_BANK = """\
{:index 0 :type :invoke :process 0 :f :read :value nil :time 1}
{:index 1 :type :ok :process 0 :f :read :value {0 40 1 60} :time 2}
"""
BAD_BANK = GOOD_BANK.replace("1 60", "1 61")


@pytest.fixture(autouse=True)
def _namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here tries them out."""
    monkeypatch.setattr("jepsen.cluster.make.why_no_namespaces", lambda: "no rights")


@pytest.fixture(autouse=True)
def _signals() -> Any:
    """`main` takes over two signals; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def _history(folder: Path, text: str) -> str:
    path = folder / "history.edn"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [(GOOD_BANK, 0, "valid: bank"), (BAD_BANK, 1, "INVALID: bank"), ("", 3, "unknown: bank")],
)
def test_check_says_its_verdict_twice(
    text: str, code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "bank", _history(tmp_path, text), "--total", "100"]) == code
    assert capsys.readouterr().out.startswith(word)


def test_check_shows_and_draws_the_operations_of_a_violation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "bad.svg"
    path = _history(tmp_path, BAD_BANK)
    assert cli.main(["check", "bank", path, "--total", "100", "--draw", str(picture)]) == 1
    assert ":f :read" in capsys.readouterr().out
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "banks", "h.edn"], "no checker 'banks'; choose one of"),
        (["check", "bank", "h.edn"], "needs --total"),
        (["check", "long-fork", "h.edn"], "needs --group"),
        (["check", "set", "h.edn", "--total", "3"], "takes no --total"),
        (["check", "set", "h.edn"], "h.edn"),
        (["run", "--workload", "sets", "--nemesis", "none"], "no workload 'sets'; choose one of append"),
        (["run", "--workload", "set", "--nemesis", "none", "--time", "-1"], "--time is -1"),
        (["run", "--workload", "set", "--nemesis", "none", "--nodes", "40"], "--nodes is 40"),
        (["run", "--workload", ","], "names nothing"),
        (["all", "--workloads", "set,ring"], "no workload 'ring'; choose from"),
        (["index", "--out", "/nonexistent/folder"], "not a folder"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["frob"], ["run"], ["run", "-w", "set", "--kind", "cloud"], ["check"]]
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m jepsen" in capsys.readouterr().err


def test_a_malformed_history_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _history(tmp_path, GOOD_BANK + "{:type :ok :process 0 :f")
    assert cli.main(["check", "bank", path, "--total", "100"]) == 2
    assert f"{path}:3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("h.edn", GOOD_BANK.splitlines()[1], "completes read at index 1 without an invocation"),
        ("h.edn", GOOD_BANK + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("h.json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("h.edn", "9" * 10_000, "h.edn:1: cannot read '999"),
        ("h.edn", "\0\0", "'\\x00\\x00' is no operation"),
    ],
)
def test_strange_histories_are_named_without_a_traceback(
    name: str, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert cli.main(["check", "append", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jepsen: {path}")
    assert words in said
    assert "limit (4300" not in said


def test_what_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.html").mkdir()
    assert cli.main(["index", "--out", str(tmp_path)]) == 2
    assert f"cannot write {tmp_path / 'index.html'}: Is a directory; choose" in capsys.readouterr().err


def test_a_refusal_of_the_system_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def together(*_arguments: Any) -> list[Result]:
        raise OSError(28, "No space left on device", "history.edn")

    monkeypatch.setattr("jepsen.run.runner.run_together", together)
    assert cli.main(["run", "-w", "set", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "No space left on device: 'history.edn'" in said
    assert "Traceback" not in said


def test_what_ci_leaves_out_is_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(workloads: list[str], nemesis: str, options: Options, out: Path, say: Any) -> list[Result]:
        if nemesis == "power-loss":
            raise MissingTool("gcc is missing")
        return [Result("set", nemesis, out, "now", [Verdict("x", True, "")])]

    monkeypatch.setattr("jepsen.run.campaign.run_together", together)
    assert cli.main(["ci", "--out", str(tmp_path)]) == 3


@pytest.mark.parametrize(("valid", "code"), [(True, 0), (False, 1), (None, 3)])
def test_run_s_exit_code_is_the_verdict(
    valid: bool | None,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def together(workloads: list[str], nemesis: str, options: Options, out: Path) -> list[Result]:
        assert (workloads, nemesis, options.time_s, options.seed) == (["set", "bank"], "kill", 5.0, 9)
        assert options.kind == "loopback"
        return [Result(name, nemesis, out, "now", [Verdict("x", valid, "found it")]) for name in workloads]

    monkeypatch.setattr("jepsen.run.runner.run_together", together)
    arguments = ["run", "-w", "set,bank", "-n", "kill", "--time", "5", "--seed", "9", "--out", str(tmp_path)]
    assert cli.main(arguments) == code
    said = capsys.readouterr()
    assert ("found it" in said.out) is (valid is not True)
    assert "on loopback, since this machine allows no namespaces: no rights" in said.err


def test_a_mistake_of_the_suite_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def together(*_arguments: Any) -> list[Result]:
        raise TypeError("a mistake")

    monkeypatch.setattr("jepsen.run.runner.run_together", together)
    assert cli.main(["run", "-w", "set", "--out", str(tmp_path)]) == 2
    assert "TypeError: a mistake" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("checker", "options"),
    [
        ("register", []),
        ("mutex", []),
        ("fifo-queue", []),
        ("counter", []),
        ("multi-register", []),
        ("append", []),
        ("append", ["--model", "snapshot-isolation"]),
        ("bank", ["--total", "100"]),
        ("set", []),
        ("unique-ids", []),
        ("sequence", []),
        ("long-fork", ["--group", "3"]),
        ("exactly-once", []),
    ],
)
def test_every_checker_reads_a_file(
    checker: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", checker, _history(tmp_path, ""), *options]) == 3
    assert capsys.readouterr().out.startswith("unknown: ")


def test_a_missing_tool_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def together(*_arguments: Any) -> list[Result]:
        raise MissingTool("nemesis slow: tc is not installed; apt install iproute2")

    monkeypatch.setattr("jepsen.run.runner.run_together", together)
    assert cli.main(["run", "-w", "set", "--out", str(tmp_path)]) == 2
    assert "apt install iproute2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ({"a": True, "b": True}, 0),
        ({"a": True, "b": False}, 1),
        ({"a": True, "b": None}, 3),
        ({"a": True, "b": MissingTool("no strace")}, 0),
        ({"a": MissingTool("no strace")}, 3),
        ({"a": True, "b": SetupError("no cluster")}, 2),
        ({"a": False, "b": SetupError("no cluster")}, 1),
    ],
)
def test_exit_codes_of_campaigns(
    outcomes: dict[str, Any],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def together(workloads: list[str], nemesis: str, options: Options, out: Path, say: Any) -> list[Result]:
        outcome = outcomes[nemesis]
        if isinstance(outcome, Exception):
            raise outcome
        return [Result("set", nemesis, out, "now", [Verdict("x", outcome, "")])]

    monkeypatch.setattr("jepsen.run.campaign.run_together", together)
    monkeypatch.setattr(cli, "nemesis_names", lambda: list(outcomes))
    assert cli.main(["all", "--time", "1", "--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert ("skipped" in said) is any(isinstance(outcome, MissingTool) for outcome in outcomes.values())
    assert (tmp_path / "index.html").exists()


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for name in ("register", "long-fork", "exactly-once", "append-txn", "none", "unique-ids"):
        assert name in said


def test_help_explains_the_exit_codes() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "jepsen", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "COLUMNS": "120"},
    )
    assert ended.returncode == 0
    for words in ("exit codes: 0 valid, 1 a violation", "run", "all", "ci", "check", "list", "index"):
        assert words in ended.stdout
