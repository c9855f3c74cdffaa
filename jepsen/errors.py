"""The suite's own errors. What a node answers to a client is not here: see jepsen/cluster/client.py."""

from __future__ import annotations

from pathlib import Path


class JepsenError(Exception):
    """Root of what the suite itself raises; the message names the input and the mend."""


class HistoryError(JepsenError):
    """A history cannot be read, or does not obey the rules of a history.

    `path` and `line` (1-based) say where, when known; `expected` says what should have been there.
    """

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None, expected: str = ""
    ) -> None:
        where = ":".join(str(part) for part in (path, line) if part is not None)
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text}; expected {expected}" if expected else text)
        self.path = path
        self.line = line
        self.expected = expected


class MissingTool(JepsenError):
    """A program or kernel feature that the run needs is not there; the message names it and the way round."""


class SetupError(JepsenError):
    """The cluster or the run could not be set up (rights, ports, folders)."""
