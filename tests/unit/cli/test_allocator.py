"""Memory that a node has freed goes back to the system: malloc's bounds stay where they are set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dqlite_py.cli import allocator, node_command
from dqlite_py.cli.main import main

# What a load in large units leaves: many of 4 MiB at once, freed while a small one that stays lies behind them.
LOAD = """
import ctypes, os, re
from dqlite_py.cli import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None


def take(size):
    found = libc.malloc(size)
    ctypes.memset(found, 1, size)
    return found


def resident_mib():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1]) / 1024


print(allocator.give_memory_back(os.environ))
libc.free(take(24 << 20))  # where the bounds move, this moves them
before = resident_mib()
for block in [take(4 << 20) for _ in range(10)]:
    libc.free(block)
print(resident_mib() - before)
"""


def load(**environment: str) -> tuple[str, float]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    output = subprocess.run(
        [sys.executable, "-c", LOAD], env=clean | environment, capture_output=True, text=True, check=True
    ).stdout
    word, held_mib = output.split()
    return word, float(held_mib)


def test_what_is_freed_is_given_back() -> None:
    word, held_mib = load()
    if word == "False":  # another C library: it has no such bounds
        assert platform.libc_ver()[0] != "glibc"
        return
    assert held_mib < 8, f"{held_mib} MiB of 40 MiB that were freed are held"


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_environment_has_the_last_word(name: str) -> None:
    assert not allocator.give_memory_back({name: "1"})


def test_a_node_sets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Reached(Exception):
        pass

    def reached(_environment: object) -> bool:
        raise Reached

    monkeypatch.setattr(node_command.allocator, "give_memory_back", reached)
    result = CliRunner().invoke(main, ["node", "--dir", str(tmp_path), "--listen", "127.0.0.1:0"])
    assert isinstance(result.exception, Reached)
