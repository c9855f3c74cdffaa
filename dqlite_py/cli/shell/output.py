"""Where the shell's results go: stdout, or a file by .output and .once. One writer, the shell's thread."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from typing import TextIO


class StdoutLost(Exception):
    """Nothing can be written to stdout any more: its reader went away, its disk is full, or it is closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to stdout: {error.strerror or error}")
        self.is_reader_gone = error.errno == errno.EPIPE


class Output:
    """Results; what is said about them goes to stderr."""

    def __init__(self, stdout: TextIO | None = None) -> None:
        self._stdout = stdout
        self._file: TextIO | None = None
        self._commands_left = 0  # of .once: itself, and the next one
        self.target = "stdout"

    @property
    def is_terminal(self) -> bool:
        out = sys.stdout if self._stdout is None else self._stdout
        return self._file is None and out is not None and out.isatty()

    def write(self, pieces: Iterable[str]) -> None:
        """Raises StdoutLost, or OSError that names the file."""
        file = self._file
        if file is None:
            self._write_stdout(pieces)
            return
        for piece in pieces:
            try:
                file.write(piece)
            except OSError as error:
                raise self._named(error) from None
        try:
            file.flush()
        except OSError as error:
            raise self._named(error) from None

    def flush(self) -> None:
        """Stdout, before something is said on stderr. Raises StdoutLost."""
        self._write_stdout(())

    def _write_stdout(self, pieces: Iterable[str]) -> None:
        out = sys.stdout if self._stdout is None else self._stdout
        if out is None:
            if any(pieces):
                raise StdoutLost(OSError(errno.EBADF, os.strerror(errno.EBADF)))
            return
        for piece in pieces:
            try:
                out.write(piece)
            except OSError as error:
                raise StdoutLost(error) from None
        try:
            out.flush()
        except OSError as error:
            raise StdoutLost(error) from None

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, f"cannot write to the file: {error.strerror}", self.target)

    def to(self, path: str, *, once: bool = False) -> None:
        """Write to a file from now on, or for one command; "stdout" and "" end that. Raises OSError."""
        self.close()
        if path not in ("", "stdout"):
            self._file = open(os.path.expanduser(path), "w", encoding="utf-8", newline="")  # noqa: SIM115
            self._commands_left, self.target = (2 if once else 0), path

    def command_done(self) -> None:
        """A result that .once was for is complete. Raises OSError when the file did not take all of it."""
        if self._commands_left:
            self._commands_left -= 1
            if not self._commands_left:
                self.close()

    def close(self) -> None:
        """Raises OSError when the file did not take all that was written; it is closed all the same."""
        file, self._file = self._file, None
        target, self.target, self._commands_left = self.target, "stdout", 0
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise OSError(error.errno, f"cannot write to the file: {error.strerror}", target) from None
