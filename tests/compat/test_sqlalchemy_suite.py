"""SQLAlchemy's own compliance suite for dialects, run as a process of its own because of its pytest plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.compat.sqlalchemy.requirements import HAS, HAS_ASYNC, HAS_NOT, REASONS, closed

FOLDER = Path(__file__).parent / "sqlalchemy"
ROOT = Path(__file__).resolve().parents[2]
PASSED_MIN = 1_000  # with SQLAlchemy 2.0; more with 2.1


def _run(folder: Path, *arguments: str) -> ElementTree.Element:
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(FOLDER / "setup.cfg"),
        f"--junitxml={report}",
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    found = ElementTree.parse(report).getroot().find("testsuite")
    assert found is not None
    return found


def _reason(message: str) -> str:
    """The suite writes "name of the test : reason"."""
    return message.rpartition(" : ")[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("url", ["dqlitepy:///suite", "dqlitepy+aio:///suite"])
def test_the_whole_suite(tmp_path: Path, url: str) -> None:
    found = _run(tmp_path, str(FOLDER / "test_suite.py"), "--dburi", url)
    skipped = [_reason(case.get("message", "")) for case in found.iter("skipped")]
    assert set(skipped) <= REASONS, "each skip has a reason of ours"
    assert int(found.get("tests", "0")) - len(skipped) >= PASSED_MIN


def test_everything_that_the_suite_leaves_open_is_answered() -> None:
    tables = [set(HAS), set(HAS_NOT), set(HAS_ASYNC)]
    assert sum(map(len, tables)) == len(set.union(*tables)), "each once"
    assert closed() <= set(HAS_NOT), "say for each whether the dialect has it, or why not"
