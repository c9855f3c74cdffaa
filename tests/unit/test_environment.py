"""tools/environment says which package is missing, before it makes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "environment"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the script in a project of its own, so that a mistake harms nobody."""
    (tmp_path / "tools").mkdir()
    shutil.copy(SCRIPT, tmp_path / "tools" / "environment")
    return tmp_path


def _python(place: Path, case: str) -> Path:
    """An interpreter that is this one, but for `case`: a line of a shell's case statement."""
    path = place / "python-stand-in"
    path.write_text(f'#!/bin/sh\ncase "$*" in {case} ;; esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def _run(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / "tools" / "environment", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _refusal(place: Path, **environment: str) -> str:
    done = _run(place, "runtime", **environment)
    assert done.returncode == 1
    assert not (place / ".venv").exists()
    return done.stderr


def test_no_compiler(place: Path) -> None:
    assert "apt-get install gcc libc6-dev" in _refusal(place, CC="no-such-compiler", PYTHON=sys.executable)


def test_no_venv_module(place: Path) -> None:
    python = _python(place, "*ensurepip*) exit 1")
    assert "apt-get install python3-venv" in _refusal(place, PYTHON=str(python))


def test_no_python_headers(place: Path) -> None:
    python = _python(place, "*sysconfig*) echo -I/nowhere; exit 0")
    assert "apt-get install python3-dev" in _refusal(place, PYTHON=str(python))


def test_an_unsupported_python(place: Path) -> None:
    python = _python(place, "*version_info*) exit 1")
    assert "is not Python 3.11, 3.12 or 3.13" in _refusal(place, PYTHON=str(python))
    assert "is not a command" in _refusal(place, PYTHON="no-such-python")


def test_wrong_use(place: Path) -> None:
    assert _run(place).returncode != 0
    assert "unknown kind" in _run(place, "both").stderr
