"""dqlite_py.cli.exits: every error has a text, and what can be mended says how."""

from __future__ import annotations

import errno
import socket

import pytest

from dqlite_py import errors
from dqlite_py.cli.exits import explain, mend


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.DirectoryLocked("held"), "--dir"),
        (errors.CorruptJournal("damaged at 4096"), "--join"),
        (errors.UnknownFormat("version 9"), "upgrade"),
        (errors.WrongCluster("other"), "--join"),
        (errors.NoLeader("none"), "dqlite-py status"),
        (OSError(errno.EACCES, "Permission denied", "/data"), "right"),
        (OSError(errno.EADDRNOTAVAIL, "no such address"), "--advertise"),
        (socket.gaierror(-2, "Name or service not known"), "DNS"),
    ],
)
def test_mend(error: BaseException, advice: str) -> None:
    assert advice in mend(error)
    assert explain(error).startswith(str(error))
    assert advice in explain(error)


def test_a_message_that_says_all_stands_alone() -> None:
    assert explain(errors.MemberRefused("remove it first")) == "remove it first"
    assert explain(OSError("odd")) == "odd"


def test_a_bug_is_called_one() -> None:
    assert "unexpected KeyError" in explain(KeyError("x"))
    assert "please report" in explain(KeyError("x"))
