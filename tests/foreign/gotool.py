"""Build the Go program of go/ against the released go-dqlite: Debian's package of its source, or the module proxy."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "go"
DEBIAN = Path("/usr/share/gocode")
MODULE = "github.com/canonical/go-dqlite"
PLACES = ("/usr/local/go/bin", "/usr/lib/go/bin")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dqlite-py-tests"
BUILD_S = 300.0


class NotAvailable(Exception):
    """What is missing, and how to get it."""


def go() -> str:
    """The go command. Raises NotAvailable."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    found = shutil.which("go", path=path)
    if found is None:
        raise NotAvailable("go is not on PATH (Debian: apt-get install golang-go)")
    return found


@functools.cache
def program() -> Path:
    """Path of the built program; built once, go's own cache makes the next time short. Raises NotAvailable."""
    command = go()
    CACHE.mkdir(parents=True, exist_ok=True)
    output = CACHE / "foreign-go"
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        source = Path(folder) / "src" / "foreign"
        shutil.copytree(SOURCE, source)
        settings = {"CGO_ENABLED": "0", "GOFLAGS": ""}
        if (DEBIAN / "src" / MODULE).is_dir():
            settings |= {"GO111MODULE": "off", "GOPATH": f"{folder}{os.pathsep}{DEBIAN}"}
            arguments = ["build"]
        else:
            settings["GOFLAGS"] = "-mod=mod"
            arguments = ["build"]
        built = subprocess.run(
            [command, *arguments, "-o", str(Path(folder) / output.name), "."],
            cwd=source,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        if built.returncode != 0:
            if settings.get("GO111MODULE") != "off" and "proxy" in built.stderr:
                raise NotAvailable(
                    f"{MODULE} cannot be fetched here (Debian: apt-get install "
                    f"golang-github-canonical-go-dqlite-dev): {built.stderr[-300:]}"
                )
            raise RuntimeError(f"go build failed: {built.stderr[-2000:]}")
        (Path(folder) / output.name).replace(output)
    return output
