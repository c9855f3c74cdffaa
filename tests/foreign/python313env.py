"""An environment of Python 3.13 with the published Python clients, made once and kept in the user's cache."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dqlite-py-tests"
PACKAGES = (
    "dqlite-wire==0.8.0",
    "dqlite-client==0.8.0",
    "dqlite-dbapi==0.8.0",
    "sqlalchemy-dqlite==0.8.0",
    "sqlalchemy>=2.0.44,<2.2",
)
PIP_S = 240.0


class NotAvailable(Exception):
    """What is missing, and how to get it."""


def interpreter() -> str:
    """Path of a Python 3.13. Raises NotAvailable."""
    candidates = [shutil.which("python3.13"), *Path(sys.base_prefix).parent.glob("3.13*/bin/python")]
    for candidate in candidates:
        if candidate is not None and _runs(str(candidate)):
            return str(candidate)
    raise NotAvailable(
        "Python 3.13 is neither on PATH as python3.13 nor beside this interpreter; the clients need it"
    )


def _runs(path: str) -> bool:
    """pyenv's shim on PATH exists even where its version is not chosen."""
    code = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 13))"
    return subprocess.run([path, "-c", code], capture_output=True, check=False).returncode == 0


@functools.cache
def python() -> Path:
    """The environment's interpreter; packages are fetched once. Raises NotAvailable."""
    folder = CACHE / "python313"
    stamp = folder / "made-from"
    wanted = "\n".join(PACKAGES)
    path = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and _runs(str(path)):
        return path
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter(), "-m", "venv", str(folder)], check=True, capture_output=True)
    pip = [str(path), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    fetched = subprocess.run(pip, capture_output=True, text=True, timeout=PIP_S, check=False)
    if fetched.returncode != 0:
        raise NotAvailable(f"the Python clients cannot be fetched here: {fetched.stderr[-300:]}")
    stamp.write_text(wanted)
    return path
