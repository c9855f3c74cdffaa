"""Where the shell's results go: stdout, or a file by .output and .once. One writer, the shell's thread."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO


class Output:
    """Results; what is said about them goes to stderr."""

    def __init__(self, stdout: TextIO | None = None) -> None:
        self._stdout = stdout
        self._file: TextIO | None = None
        self._is_once = False
        self.target = "stdout"

    @property
    def is_terminal(self) -> bool:
        return self._file is None and self.stdout.isatty()

    @property
    def stdout(self) -> TextIO:
        return sys.stdout if self._stdout is None else self._stdout

    def write(self, pieces: Iterable[str]) -> None:
        out = self.stdout if self._file is None else self._file
        for piece in pieces:
            out.write(piece)
        out.flush()

    def to(self, path: str, *, once: bool = False) -> None:
        """Write to a file from now on, or for one command; "stdout" and "" end that. Raises OSError."""
        self.close()
        if path not in ("", "stdout"):
            self._file = Path(path).expanduser().open("w", encoding="utf-8", newline="")
            self._is_once, self.target = once, path

    def command_done(self) -> None:
        """A result that .once was for is complete."""
        if self._is_once:
            self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        self._is_once, self.target = False, "stdout"
        if file is not None:
            file.close()
