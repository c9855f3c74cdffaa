"""Options by flag, environment and file: which counts, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from dqlite_py.cli import layers, main
from dqlite_py.cli.options import AddressListType, servers_option, timeout_option


def program() -> tuple[click.Group, list[dict[str, Any]]]:
    """A program of three commands that note what they are called with."""
    seen: list[dict[str, Any]] = []

    @click.group()
    def group() -> None: ...

    @group.command()
    @click.option("--dir", "folder", required=True)
    @click.option("--join", multiple=True, type=AddressListType())
    @click.option("--log-level", type=click.Choice(["info", "debug"]), default="info")
    @click.option("--insecure", is_flag=True)
    @click.option("--yes", is_flag=True)
    def node(**options: Any) -> None:
        seen.append(options)

    @group.group()
    def cluster() -> None: ...

    for name in ("members", "remove"):

        @cluster.command(name)
        @servers_option()
        @timeout_option(15.0, "Seconds.")
        def asks(**options: Any) -> None:
            seen.append(options)

    layers.install(group)
    return group, seen


def run(group: click.Group, *arguments: str, **environment: str) -> Result:
    clean = {layers.CONFIG_VARIABLE: None, **environment}
    result = CliRunner().invoke(group, list(arguments), env=clean)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "options.toml"
    path.write_text(
        '[node]\ndir = "of file"\nlog_level = "debug"\njoin = ["a:1", "b:2,c:3"]\ninsecure = true\n'
        '[client]\nservers = ["x:1", "y:2"]\ntimeout = 3\n[cluster]\ntimeout = 4.5\n'
    )
    return path


def test_the_file_counts_before_the_default(file: Path) -> None:
    group, seen = program()
    assert run(group, "--config", str(file), "node").exit_code == 0
    assert seen.pop() == {
        "folder": "of file",
        "join": (("a:1",), ("b:2", "c:3")),
        "log_level": "debug",
        "insecure": True,
        "yes": False,
    }


def test_the_environment_counts_before_the_file_and_the_flag_first(file: Path) -> None:
    group, seen = program()
    environment = {
        "DQLITE_PY_NODE_DIR": "of environment",
        "DQLITE_PY_NODE_JOIN": "d:4,e:5 f:6",
        layers.CONFIG_VARIABLE: str(file),
    }
    assert run(group, "node", **environment).exit_code == 0
    found = seen.pop()
    assert (found["folder"], found["join"]) == ("of environment", (("d:4", "e:5"), ("f:6",)))
    assert run(group, "node", "--dir", "of flag", **environment).exit_code == 0
    assert seen.pop()["folder"] == "of flag"


def test_where_the_file_is_named(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[node]\ndir = "of other"\n')
    group, seen = program()
    for arguments in (
        ["--config", str(file), "node", "--config", str(other)],
        ["node", "--config", str(other)],
    ):
        assert run(group, *arguments, **{layers.CONFIG_VARIABLE: str(file)}).exit_code == 0
        assert seen.pop()["folder"] == "of other"


def test_a_file_at_the_usual_place_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, seen = program()
    monkeypatch.setattr(layers, "CONFIG_DEFAULT", str(file))
    assert run(group, "node").exit_code == 0
    assert seen.pop()["folder"] == "of file"


def test_clients_share_a_table_and_a_commands_own_counts_before_it(file: Path) -> None:
    group, seen = program()
    assert run(group, "--config", str(file), "cluster", "members").exit_code == 0
    assert seen.pop() == {"servers": ("x:1", "y:2"), "timeout_s": 4.5}
    assert run(group, "cluster", "remove", DQLITE_PY_SERVERS="z:9").exit_code == 0
    assert seen.pop() == {"servers": ("z:9",), "timeout_s": 15.0}
    environment = {"DQLITE_PY_SERVERS": "z:9", "DQLITE_PY_CLUSTER_REMOVE_SERVERS": "own:1"}
    assert run(group, "cluster", "remove", **environment).exit_code == 0
    assert seen.pop()["servers"] == ("own:1",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('[node]\nlisen = "x"\njoyn = "y"', "'lisen' in [node] means nothing"),
        ('[node]\njoyn = "y"', "did you mean join?"),
        ("[nod]\n", "[nod] means nothing: did you mean node?"),
        ("[client]\nserver = 1", "did you mean servers?"),
        ("[client]\ndir = 1", "'dir' in [client] means nothing"),
        ("[node]\nyes = true", "'yes' in [node] means nothing"),
        ("node = 3", "write [node]"),
        ('[node]\nlog-level = "loud"', "'log-level' in [node]: 'loud' is not one of"),
        ('[cluster]\ntimeout = "long"', "'timeout' in [cluster]"),
        ('[cluster]\nservers = "x:0"', "port 0"),
        ("[node", "is not TOML"),
        ("[node]\ninsecure = 'perhaps'", "'insecure' in [node]"),
    ],
)
def test_a_mistake_in_the_file_is_named_whatever_command_runs(
    tmp_path: Path, content: str, named: str
) -> None:
    path = tmp_path / "options.toml"
    path.write_text(content)
    group, seen = program()
    result = run(group, "node", "--dir", "x", "--config", str(path))
    assert (result.exit_code, seen) == (2, [])
    assert str(path) in result.stderr
    assert named in result.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    group, _seen = program()
    result = run(group, "node", "--dir", "x", "--config", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "cannot read the options file" in result.stderr


def test_variables_that_mean_nothing_are_told() -> None:
    group, _seen = program()
    environment = {
        "DQLITE_PY_NODE_DIRR": "x",
        "DQLITE_PY_NODE_DIR": "x",
        "DQLITE_PY_IMPL": "c",
        "OTHER": "y",
        "DQLITE_PY_NODE_YES": "1",
    }
    found = layers.strange_variables(group, environment)
    assert [line.split()[3] for line in found] == ["DQLITE_PY_NODE_DIRR", "DQLITE_PY_NODE_YES"]
    assert found[0].endswith("did you mean DQLITE_PY_NODE_DIR?")


def test_the_program_warns_of_them() -> None:
    result = CliRunner().invoke(main.main, ["completion", "bash"], env={"DQLITE_PY_STATUS_SERVER": "x"})
    assert result.exit_code == 0
    assert "did you mean DQLITE_PY_STATUS_SERVERS?" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main.main, ["completion", shell])
    assert result.exit_code == 0
    assert "_DQLITE_PY_COMPLETE" in result.output


def test_what_is_completed() -> None:
    environment = {"_DQLITE_PY_COMPLETE": "bash_complete", "COMP_WORDS": "dqlite-py clus", "COMP_CWORD": "1"}
    result = CliRunner().invoke(main.main, [], prog_name="dqlite-py", env=environment)
    assert result.output == "plain,cluster\n"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[node]\ndir = ["a"]\n', "'dir' in [node]: a list, where one value is to stand"),
        ("[node]\ndir = true\n", "'dir' in [node]: True is no value for it"),
        ("[client]\ntimeout = [1, 2]\n", "'timeout' in [client]: a list"),
        ("[client]\ntimeout = true\n", "'timeout' in [client]: True is no value for it"),
        ("[client]\nservers = {a = 1}\n", "'servers' in [client]: {'a': 1} is no value for it"),
        ('[node]\njoin = [["a:1"]]\n', "'join' in [node]: ['a:1'] is no value for it"),
        ("[node]\ninsecure = [true]\n", "'insecure' in [node]: a list"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(table: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(table)
    group, seen = program()
    result = run(group, "--config", str(path), "cluster", "members", "--servers", "x:1")
    assert result.exit_code == 2
    assert said in result.output
    assert not seen
