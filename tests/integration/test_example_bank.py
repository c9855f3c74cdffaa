"""The example application keeps its promise: members are killed under load, and every transfer is accounted for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BANK = Path(__file__).resolve().parents[2] / "examples" / "bank"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_under_load() -> None:
    options = ["--seconds", "10", "--clients", "4", "--pause", "1"]
    done = subprocess.run(
        [sys.executable, str(BANK / "kill_under_load.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no acknowledged write lost or doubled" in done.stdout
    found = re.match(r"(\d+) kills .*; (\d+) transfers answered", done.stdout)
    assert found is not None
    assert int(found[1]) >= 2
    assert int(found[2]) > 10
