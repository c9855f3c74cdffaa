"""Compile the preload library on first use; the result is kept in jepsen/faults/build, named by its sources' hash."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from jepsen.errors import MissingTool

_HERE: Final = Path(__file__).resolve().parent
_SOURCES: Final = _HERE / "native"
BUILD_FOLDER: Final = _HERE / "build"
FLAGS: Final = ("-std=c11", "-O2", "-fPIC", "-shared")


def missing_tool() -> str | None:
    """Why faults inside the process are not possible here; None when they are."""
    if sys.platform != "linux" or sys.maxsize < 2**32 or platform.libc_ver()[0] != "glibc":
        return "faults inside the process need 64-bit Linux with glibc: the other nemeses still work"
    if _compiler() is None:
        return (
            "gcc is missing: install it (Debian: apt install gcc libc6-dev), or use nemeses that do without"
        )
    return None


def build_library(folder: Path = BUILD_FOLDER) -> Path:
    """Return the compiled library, made if need be. Raises MissingTool with the compiler's words when it cannot."""
    reason = missing_tool()
    if reason is not None:
        raise MissingTool(reason)
    sources = sorted(_SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    library = folder / f"jepsenfaults-{platform.machine()}-{digest}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    # Two runs may build at once: each into a file of its own, then one rename.
    descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(descriptor)
    try:
        _compile([path for path in sources if path.suffix == ".c"], temporary)
        os.chmod(temporary, 0o755)
        os.rename(temporary, library)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return library


def _compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def _compile(sources: list[Path], target: str) -> None:
    command = [str(_compiler()), *FLAGS, "-o", target, *map(str, sources), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingTool(
            f"the preload library does not compile ({command[0]} ended with {done.returncode}); are the C headers "
            f"installed (Debian: libc6-dev)? {done.stderr.strip()[-2000:]}"
        )
