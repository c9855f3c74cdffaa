"""How a command ends: exit codes, and an error's text with what to do about it. Printing is click's."""

from __future__ import annotations

import enum
import errno
import socket
from typing import Final

import click

from dqlite_py import errors
from dqlite_py.cli.plain import visible_text


class ExitCode(enum.IntEnum):
    OK = 0
    FAILED = 1  # the cluster or node answered no, or not at all
    USAGE = 2
    CANNOT_START = 3
    FAILED_RUNNING = 4


EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done; a node: stopped by a signal",
    ExitCode.FAILED: "it failed: the cluster or node answered no, or not at all; verify: damage was found",
    ExitCode.USAGE: "wrong usage; nothing was tried",
    ExitCode.CANNOT_START: "a node cannot start; a folder cannot be looked at",
    ExitCode.FAILED_RUNNING: "a node failed while it ran; start it again",
}
"""The one place where they are told; docs/cli.md is made of it."""


class CommandFailed(click.ClickException):
    """Ends the command with one message on stderr; what another machine said in it cannot drive the terminal."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(visible_text(message))
        self.__dict__["exit_code"] = int(exit_code)  # click declares it for the class


_REBUILD: Final = (
    "keep the folder for inspection, remove this member (dqlite-py cluster remove), "
    "then start it with an empty folder and --join"
)

# The nearest class in an error's ancestry counts.
_MENDS: Final[dict[type[BaseException], str]] = {
    errors.DirectoryLocked: "stop the process that holds it, or give this node a folder of its own with --dir",
    errors.CorruptJournal: _REBUILD,
    errors.CorruptState: _REBUILD,
    errors.DivergenceDetected: _REBUILD,
    errors.UnknownFormat: "start the folder with the release that wrote it, or upgrade this one",
    errors.WrongCluster: "a folder belongs to one cluster for good: check --dir, --join and --node",
    errors.StorageFull: "free space on that disk; writes resume by themselves",
    errors.ClusterSuperseded: "start it again; what a supervisor does",
    errors.JournalFailed: "check the disk and the system log, then start the node again",
    errors.NoLeader: "see which members are running: dqlite-py status --node HOST:PORT",
    errors.NotLeader: "ask the leader (dqlite-py status shows it)",
    errors.OutcomeUnknown: "it may have happened: look at dqlite-py status before trying again",
    errors.RaftInvariantBroken: "keep the folder and please report this, with the log",
}

_SYSTEM_MENDS: Final[dict[int, str]] = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another --listen, and --advertise what others dial",
    errno.EACCES: "give this user the right to it, or choose another place",
    errno.EPERM: "give this user the right to it, or choose another place",
    errno.EROFS: "the file system is read-only: choose another --dir",
    errno.ENOSPC: "the disk is full: free space",
    errno.EDQUOT: "the quota is used up: free space",
    errno.ENOTDIR: "a part of the path is a file: choose another --dir",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def mend(error: BaseException) -> str:
    """What the operator can do about it; '' when the message says all there is."""
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve: check its spelling and the DNS"
    if isinstance(error, OSError) and error.errno is not None:
        return _SYSTEM_MENDS.get(error.errno, "")
    return next((_MENDS[cls] for cls in type(error).__mro__ if cls in _MENDS), "")


def explain(error: BaseException) -> str:
    """One message: what is wrong, and how to mend it."""
    text = str(error) or type(error).__name__
    if not isinstance(error, (errors.Error, OSError)):
        text = f"unexpected {type(error).__name__}: {text} (please report this, with the log)"
    advice = mend(error)
    return text if not advice or advice in text else f"{text}\n  -> {advice}"
