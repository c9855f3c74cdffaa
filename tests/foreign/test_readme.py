"""The README's three nodes in three terminals, with our shell and Debian's: its lines, as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.foreign import clusters

README = Path(__file__).parents[2] / "README.md"
COMMAND_S = 60.0
PORTS = (9001, 9002, 9003)


def lines() -> list[list[str]]:
    """Commands of nodes and of shells."""
    found = re.findall(r"^    (dqlite(?:-py)? .*)$", README.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in found]


def test_three_nodes_by_hand_and_both_shells(tmp_path: Path) -> None:
    if shutil.which("dqlite") is None:
        pytest.skip("the dqlite shell is not on PATH (Debian: apt-get install go-dqlite)")
    starts = [words for words in lines() if words[:2] == ["dqlite-py", "node"]]
    asked = [words for words in lines() if "-s" in words]
    assert (len(starts), len(asked)) == (3, 4)
    with clusters.ours(tmp_path) as cluster:
        addresses = {
            f"127.0.0.1:{port}": node.address for port, node in zip(PORTS, cluster.nodes, strict=True)
        }
        assert {words[words.index("--listen") + 1] for words in starts} == set(addresses)
        told = [_told(words, addresses) for words in asked]
        assert told[0] == told[1] == ""
        assert told[2] == "1|Ada"
        row, leader, *members = told[3].splitlines()
        assert row == "1|Ada"
        assert leader in cluster.addresses
        assert len(members) == len(PORTS)


def _told(words: list[str], addresses: dict[str, str]) -> str:
    command = [",".join(addresses.get(part, part) for part in word.split(",")) for word in words]
    if command[0] == "dqlite-py":
        command[:1] = [sys.executable, "-m", "dqlite_py.cli.main"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert ran.returncode == 0, (words, ran.stderr)
    return ran.stdout.strip()
