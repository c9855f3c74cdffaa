"""An earlier release of this project, as it was: its commit's files, built into an environment of its own, once."""

from __future__ import annotations

import fcntl
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ROOT / "build" / "releases"
# The last one that wrote MANIFEST in format 1.
BEFORE_MANIFEST_2 = "053b5a73"
_NO_NETWORK = re.compile(r"NewConnectionError|Temporary failure in name resolution|Network is unreachable")


def program_of(commit: str) -> str:
    """Path of its `dqlite-py`; skips the test where history or the package index cannot be reached."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this clone does not have commit {commit}: fetch the whole history")
    folder = RELEASES / commit
    folder.mkdir(parents=True, exist_ok=True)
    with (RELEASES / f"{commit}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of one test run
        program = folder / "venv/bin/dqlite-py"
        if not (folder / "built").exists():
            _build(archive.stdout, folder)
            (folder / "built").touch()
    return str(program)


def _build(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / "source", filter="data")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    install = [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check", "."]
    result = subprocess.run(install, cwd=folder / "source", capture_output=True, text=True, check=False)
    if result.returncode and _NO_NETWORK.search(result.stdout + result.stderr):
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stdout + result.stderr
