"""The pysyncobj whose private members raft/host.py overrides is the one that was read and tested."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pysyncobj.syncobj as upstream
from pysyncobj.version import VERSION

from dqlite_py.raft import host
from dqlite_py.raft import upstream as ours

SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"


def test_version_and_file_hash() -> None:
    assert VERSION == "0.3.17"
    assert hashlib.sha256(Path(upstream.__file__).read_bytes()).hexdigest() == SHA256


def test_the_host_pins_the_same() -> None:
    assert ours.PINNED_VERSION == VERSION
    assert ours.PINNED_SHA256 == SHA256


def test_overridden_members_exist_upstream() -> None:
    missing = [
        name for name in host.OVERRIDDEN_MEMBERS if not callable(getattr(upstream.SyncObj, name, None))
    ]
    assert missing == []
    assert len(set(host.OVERRIDDEN_MEMBERS)) == len(host.OVERRIDDEN_MEMBERS)


def test_every_overridden_member_is_ours() -> None:
    """Listed and forgotten would be as bad as overridden and not listed."""
    theirs = [name for name in host.OVERRIDDEN_MEMBERS if name not in vars(host.RaftHost)]
    assert theirs == []
    overridden = {name for name in vars(host.RaftHost) if name in vars(upstream.SyncObj)}
    expected = set(host.OVERRIDDEN_MEMBERS) | set(host.BYPASSED_MEMBERS) | STANDARD
    assert overridden <= expected


STANDARD = {"__module__", "__doc__", "__init__", "__dict__", "__weakref__"}
