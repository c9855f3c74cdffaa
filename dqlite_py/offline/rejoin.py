"""Tell a stopped node's folder to be set aside at the next start, and the node to join a recovered cluster. Blocking.

What node.superseded does by itself when nothing is lost by it; here an operator has decided.
"""

from __future__ import annotations

import os
from typing import Any

from dqlite_py.errors import InterfaceError, MalformedMessage
from dqlite_py.model import Address
from dqlite_py.node.succession import (
    Rejoin,
    check_not_recovering,
    free_name,
    predecessors_from_wire,
    read_rejoin,
    write_rejoin,
)
from dqlite_py.node.superseded import ASIDE_PREFIX
from dqlite_py.ports import Disk, SystemDisk
from dqlite_py.raft.journal import Identity, lock_folder


def plan_rejoin(folder: str, address: Address, status: dict[str, Any]) -> Rejoin:
    """What would be noted, from the status of a node of the recovered cluster at `address`; changes nothing.

    Raises InterfaceError when the folder is none, or that cluster does not continue the folder's.
    """
    path = os.path.abspath(folder)
    disk: Disk = SystemDisk()
    check_not_recovering(disk, path)
    identity, noted = Identity.load(disk, path), read_rejoin(disk, path)
    if noted is not None and (identity is None or noted.waits(identity.cluster_id)):
        old, aside = noted.old, noted.aside  # where a part may be already
    elif identity is None:
        raise InterfaceError(f"{path} is no data folder of a node: it has no identity")
    else:
        old, aside = identity.cluster_id, free_name(disk, path, ASIDE_PREFIX)
    try:
        new = bytes.fromhex(str(status.get("cluster_id")))
        predecessors = predecessors_from_wire(status.get("recovered_from", []))
    except (ValueError, MalformedMessage):
        raise InterfaceError(f"the node at {address} gave no readable status") from None
    if new == old:
        raise InterfaceError(f"{path} is of the cluster of {address} already: start it")
    if old not in [p.cluster_id for p in predecessors]:
        raise InterfaceError(
            f"cluster {new.hex()} of {address} was not recovered from {old.hex()}, to which {path} "
            "belongs. To join it with an empty folder, name a new one with --dir"
        )
    return Rejoin(old, new, aside, (address,))


def note_rejoin(folder: str, rejoin: Rejoin) -> None:
    """Durable on return; raises DirectoryLocked (the node runs), OSError."""
    path = os.path.abspath(folder)
    disk = SystemDisk()
    lock = lock_folder(disk, path)
    try:
        write_rejoin(disk, path, rejoin)
    finally:
        lock.close()
