"""The Dockerfile: what it says, its build commands in a clean environment, and the image where docker is there."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.test_node_process import NodeProcess

ROOT = Path(__file__).parents[2]
NO_NETWORK = re.compile(r"NewConnectionError|Temporary failure in name resolution|Network is unreachable")


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction, in order."""
    lines = (line.strip() for line in (ROOT / "Dockerfile").read_text().splitlines())
    return [
        (name, rest) for name, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")
    ]


def build_stage() -> list[tuple[str, str]]:
    every = instructions()
    second = [i for i, (name, _) in enumerate(every) if name == "FROM"][1]
    return every[:second]


def copied() -> list[str]:
    """What the build stage takes of the repository."""
    return [path for name, rest in build_stage() if name == "COPY" for path in rest.split()[:-1]]


def test_all_that_is_copied_is_there_and_reaches_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_the_image_has_no_compiler_and_no_root() -> None:
    every = instructions()
    final = every[len(build_stage()) :]
    assert not [rest for name, rest in final if name == "RUN" and ("gcc" in rest or "apt-get" in rest)]
    names = [name for name, _ in final]
    assert ("USER", "dqlite") in final
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert ("STOPSIGNAL", "SIGTERM") in final
    assert ("VOLUME", "/data") in final
    assert any(name == "HEALTHCHECK" and rest.endswith(" CMD dqlite-py status") for name, rest in final)
    assert ("ENV", "DQLITE_PY_STATUS_SERVERS=127.0.0.1:9001") in final  # with TLS another name is needed
    assert json.loads(dict(final)["ENTRYPOINT"])[:2] == ["dqlite-py", "node"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_commands_make_a_node_that_runs(tmp_path: Path) -> None:
    """The RUN lines with pip and venv, as they are but for the folders, on nothing but what COPY takes."""
    source, wheels, target = tmp_path / "src", tmp_path / "wheels", tmp_path / "opt"
    source.mkdir()
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(
                ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.o")
            )
        else:
            shutil.copy(ROOT / path, source)
    commands = [rest for name, rest in build_stage() if name == "RUN" and "apt-get" not in rest]
    assert len(commands) == 3
    for command in commands:
        words = [
            word.replace("/wheels", str(wheels)).replace("/opt/dqlite-py", str(target))
            for word in shlex.split(command)
        ]
        if words[0] == "python":
            words[0] = sys.executable
        result = subprocess.run(words, cwd=source, capture_output=True, text=True, check=False)
        if result.returncode and NO_NETWORK.search(result.stderr + result.stdout):
            pytest.skip("the package index cannot be reached")
        assert result.returncode == 0, result.stdout + result.stderr
    node = NodeProcess(tmp_path / "node", program=[str(target / "bin/dqlite-py")])
    try:
        address = node.ready()["address"]
        answer = subprocess.run(
            [target / "bin/dqlite-py", "status", "-s", address], capture_output=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        assert node.end() == 0, node.log()
    finally:
        node.process.kill()
        node.process.wait()
        assert node.process.stdout is not None
        node.process.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_image_becomes_healthy() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("the docker daemon does not run")
    name = f"dqlite-py-test-{secrets.token_hex(4)}"

    def docker(*words: str) -> str:
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()

    docker("build", "--tag", name, str(ROOT))
    try:
        docker("run", "--detach", "--name", name, name, "--advertise", "127.0.0.1:9001", "--insecure")
        docker("exec", name, "sh", "-c", "until dqlite-py status -s 127.0.0.1:9001; do sleep 1; done")
        assert docker("exec", name, "id", "-un") == "dqlite"
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)
        subprocess.run(["docker", "rmi", name], capture_output=True, check=False)
