"""A cluster that was recovered is another cluster, and remembers which it comes from: the files that say so.

Losing a majority for good ends a cluster: what its last log entries were, nobody can know. `recover` (offline) makes a
new one of a surviving node's folder, under a new cluster id, so that no message, vote or file of the old one can ever
count in it (docs/decisions/0015-recovery.md). Three sealed files in a data folder:

DIR/RECOVERED   [[old cluster id, term, index], …], oldest first: whose states this cluster continues, and the last
                log entry that was taken over
DIR/RECOVERING  a recovery that is under way, or was interrupted: the folder must not be started
DIR/REJOIN      this folder is to be set aside, and the node to join the named cluster anew

Read before a node starts and written while it does not serve. Blocking.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.errors import CorruptState, MalformedMessage, OperationalError
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.model import Address
from dqlite_py.ports import Disk
from dqlite_py.storage.sealedfile import read_sealed, seal, unseal, write_temporary
from dqlite_py.wire.handshake import NO_CLUSTER

RECOVERED: Final = "RECOVERED"
RECOVERING: Final = "RECOVERING"
REJOIN: Final = "REJOIN"
PREDECESSORS_MAX: Final = 64
ID_BYTES: Final = 16
_MAGIC: Final = {RECOVERED: b"dqlpyRED", RECOVERING: b"dqlpyRNG", REJOIN: b"dqlpyREJ"}
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A cluster that this one continues, from its log entry `index` of `term` on."""

    cluster_id: bytes
    term: int
    index: int

    def to_wire(self) -> list[Any]:
        return [self.cluster_id, self.term, self.index]


@dataclass(frozen=True, slots=True)
class Rejoin:
    """`old`: the cluster of the folder that is set aside as DIR/<aside>; `new`: the one to join, by `addresses`."""

    old: bytes
    new: bytes
    aside: str
    addresses: tuple[Address, ...]

    def waits(self, cluster_id: bytes) -> bool:
        """Whether it is still to be done in a folder of this cluster (zeros: of none yet)."""
        return cluster_id in (self.old, NO_CLUSTER)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery was begun with: cluster `old` becomes `new`, the member at `address`; its old files are set
    aside in DIR/<aside>."""

    old: bytes
    new: bytes
    aside: str
    address: Address


def predecessors_from_wire(value: Any) -> tuple[Predecessor, ...]:
    """Checked decoding; raises MalformedMessage."""
    if not isinstance(value, list) or len(value) > PREDECESSORS_MAX:
        raise MalformedMessage("predecessors are a list", what="predecessors")
    found = []
    for row in value:
        if not (
            isinstance(row, list)
            and len(row) == 3
            and type(row[0]) is bytes
            and len(row[0]) == ID_BYTES
            and all(type(number) is int and 0 <= number < 2**63 for number in row[1:])
        ):
            raise MalformedMessage("a predecessor is [cluster id, term, index]", what="predecessors")
        found.append(Predecessor(*row))
    return tuple(found)


def read_predecessors(disk: Disk, folder: str) -> tuple[Predecessor, ...]:
    """Oldest first; raises CorruptState, UnknownFormat, OSError."""
    body = _read(disk, folder, RECOVERED)
    try:
        return predecessors_from_wire([] if body is None else body)
    except MalformedMessage as error:
        raise _damaged(folder, RECOVERED, error.message) from error


def write_predecessors(disk: Disk, folder: str, predecessors: tuple[Predecessor, ...]) -> None:
    """Durable on return. The oldest are forgotten beyond PREDECESSORS_MAX."""
    _write(disk, folder, RECOVERED, [p.to_wire() for p in predecessors[-PREDECESSORS_MAX:]])


def read_rejoin(disk: Disk, folder: str) -> Rejoin | None:
    body = _read(disk, folder, REJOIN)
    if body is None:
        return None
    if not (
        _is_pair(body) and isinstance(body[3], list) and 0 < len(body[3]) <= MEMBERS_MAX and _texts(body[3])
    ):
        raise _damaged(folder, REJOIN, "wrong fields")
    return Rejoin(body[0], body[1], body[2], tuple(map(Address, body[3])))


def write_rejoin(disk: Disk, folder: str, rejoin: Rejoin) -> None:
    """Durable on return."""
    _write(disk, folder, REJOIN, [rejoin.old, rejoin.new, rejoin.aside, list(rejoin.addresses)])


def read_recovery(disk: Disk, folder: str) -> Recovery | None:
    body = _read(disk, folder, RECOVERING)
    if body is None:
        return None
    if not (_is_pair(body) and type(body[3]) is str):
        raise _damaged(folder, RECOVERING, "wrong fields")
    return Recovery(body[0], body[1], body[2], Address(body[3]))


def write_recovery(disk: Disk, folder: str, recovery: Recovery) -> None:
    """Durable on return."""
    _write(disk, folder, RECOVERING, [recovery.old, recovery.new, recovery.aside, recovery.address])


def remove(disk: Disk, folder: str, name: str) -> None:
    """Durably gone on return."""
    if disk.exists(os.path.join(folder, name)):
        disk.unlink(os.path.join(folder, name))
        disk.fsync_dir(folder)


def check_not_recovering(disk: Disk, folder: str) -> None:
    """Raise OperationalError for a folder whose recovery was interrupted."""
    if disk.exists(os.path.join(folder, RECOVERING)):
        raise OperationalError(
            f"the recovery of {folder} was interrupted: run dqlite-py cluster recover --dir {folder} again"
        )


def free_name(disk: Disk, folder: str, prefix: str) -> str:
    """A name that nothing in the folder has yet."""
    number = 1
    while disk.exists(os.path.join(folder, f"{prefix}-{number}")):
        number += 1
    return f"{prefix}-{number}"


def move(disk: Disk, source: str, target: str) -> None:
    """Rename durably, if the source is (still) there."""
    if disk.exists(source):
        disk.rename(source, target)
        disk.fsync_dir(os.path.dirname(target))
        disk.fsync_dir(os.path.dirname(source))


def _is_pair(body: Any) -> bool:
    return (
        isinstance(body, list)
        and len(body) == 4
        and all(type(part) is bytes and len(part) == ID_BYTES for part in body[:2])
        and type(body[2]) is str
        and body[2] not in ("", ".", "..")
        and "/" not in body[2]
    )


def _texts(values: list[Any]) -> bool:
    return all(type(value) is str for value in values)


def _read(disk: Disk, folder: str, name: str) -> Any:
    path = os.path.join(folder, name)
    if not disk.exists(path):
        return None
    try:
        return unseal(_MAGIC[name], _VERSION, read_sealed(disk, path), path)
    except MalformedMessage as error:
        raise _damaged(folder, name, error.message) from error


def _write(disk: Disk, folder: str, name: str, body: Any) -> None:
    path = os.path.join(folder, name)
    disk.rename(write_temporary(disk, path, seal(_MAGIC[name], _VERSION, body)), path)
    disk.fsync_dir(folder)


def _damaged(folder: str, name: str, what: str) -> CorruptState:
    path = os.path.join(folder, name)
    return CorruptState(f"{path} is damaged: {what}", file=path, expected="a sealed file", found=what)
