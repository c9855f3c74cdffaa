"""A member of a cluster that was recovered without it: it finds out, and joins the recovered one with new files.

While no leader is known, members of its configuration are asked, as a stranger would, which cluster they are of now.
One that continues ours is the proof. The node then leaves a note (succession.REJOIN) and stops; at its next start its
old files are set aside, never deleted, and it joins anew. It does so by itself only when nothing is lost by it: no
member of the old cluster sees a leader, one successor only is known, and no log entry here is newer than what that took
over. Else it says why in the log, and an operator decides (dqlite-py cluster rejoin).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.config import TlsSettings
from dqlite_py.errors import ClusterSuperseded, Error, MalformedMessage
from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.succession import (
    RECOVERED,
    REJOIN,
    Predecessor,
    Rejoin,
    free_name,
    move,
    predecessors_from_wire,
    read_rejoin,
    remove,
    write_rejoin,
)
from dqlite_py.ports import Disk
from dqlite_py.raft.journal import Identity
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import NO_CLUSTER, LocalIdentity

log = logging.getLogger("dqlite_py.membership")

LEADERLESS_S: Final = 5.0  # before anybody is asked: an election takes less
ASK_EVERY_S: Final = 5.0
ASK_TIMEOUT_S: Final = 2.0
ASIDE_PREFIX: Final = "before-rejoin"


@dataclass(frozen=True, slots=True)
class Successor:
    """A recovered cluster that continues ours."""

    cluster_id: bytes
    took_over: Predecessor
    addresses: tuple[Address, ...]


class Strangers:
    """Asks nodes of any cluster for their status. Made and stopped on the loop."""

    def __init__(self, tls: TlsSettings | None) -> None:
        self._transport = PeerTransport(  # never started: it listens nowhere
            identity=lambda: LocalIdentity(NO_CLUSTER, NodeId(0)),
            listen=Address("127.0.0.1:0"),
            tls=tls,
            on_message=lambda _sender, _message: None,
            accept_sender=lambda _sender: False,
        )

    async def status(self, address: Address) -> dict[str, Any]:
        """{} when there is no answer."""
        try:
            found = await self._transport.call(address, "status", {}, ASK_TIMEOUT_S)
        except (Error, RpcError) as error:
            event(log, logging.DEBUG, "an address gave no status", address=address, reason=error)
            return {}
        return found if isinstance(found, dict) else {}

    async def stop(self) -> None:
        await self._transport.stop()


async def find_successors(
    ask: Callable[[Address], Awaitable[dict[str, Any]]], addresses: Iterable[Address], cluster_id: bytes
) -> tuple[list[Successor], bool]:
    """Recovered clusters among who answers, and whether a member of `cluster_id` itself knows a leader."""
    asked = list(dict.fromkeys(addresses))
    found: dict[bytes, Successor] = {}
    has_leader = False
    for address, status in zip(asked, await asyncio.gather(*map(ask, asked)), strict=True):
        try:
            theirs = bytes.fromhex(str(status.get("cluster_id", "")))
            predecessors = predecessors_from_wire(status.get("recovered_from", []))
        except (ValueError, MalformedMessage):
            continue
        if theirs == cluster_id:
            has_leader = has_leader or bool(status.get("leader_id"))
        for number, predecessor in enumerate(predecessors):
            if predecessor.cluster_id == cluster_id and theirs != cluster_id:
                known = found.get(theirs)
                at = (*known.addresses, address) if known else (address,)
                found[theirs] = Successor(theirs, _least(predecessors[number:]), at)
    return list(found.values()), has_leader


def _least(predecessors: tuple[Predecessor, ...]) -> Predecessor:
    """What is there of the first of these: less, where a later recovery began with a folder that had not all of it."""
    first = predecessors[0]
    term, index = min((p.term, p.index) for p in predecessors)
    return Predecessor(first.cluster_id, term, index)


def why_not(successors: list[Successor], has_leader: bool, last: tuple[int, int]) -> str | None:
    """Why a node whose log ends at `last`, (term, index), does not go over by itself; None: it does."""
    if has_leader:
        return "another member of this cluster knows a leader: it lives, though a part of it was recovered elsewhere"
    if len(successors) > 1:
        ids = ", ".join(successor.cluster_id.hex() for successor in successors)
        return f"this cluster was recovered more than once ({ids}): nobody but you can know which one counts"
    taken = successors[0].took_over
    if last > (taken.term, taken.index):
        return (
            f"the log here ends at index {last[1]} of term {last[0]}, the recovered cluster took over only up to "
            f"{taken.index} of term {taken.term}: this folder may hold writes that it lacks"
        )
    return None


async def watch_successor(runtime: NodeRuntime, disk: Disk) -> None:
    """Runs with the node. Ends it (ClusterSuperseded) when its cluster was recovered without it."""
    strangers = Strangers(runtime.settings.tls)
    loop = asyncio.get_running_loop()
    led_at, told = loop.time(), ""
    try:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            if runtime.core.leader_id is not None:
                led_at = loop.time()
            if loop.time() - led_at < LEADERLESS_S:
                continue
            members = [m.address for m in runtime.core.configuration.members if m.id != runtime.node_id]
            addresses = [*members, *map(Address, runtime.settings.join)]
            successors, has_leader = await find_successors(strangers.status, addresses, runtime.cluster_id)
            if not successors or runtime.core.leader_id is not None:
                continue
            reason = why_not(successors, has_leader, (runtime.core.log.last_term, runtime.core.last_index))
            if reason is None:
                try:
                    await _go_over(runtime, disk, successors[0])
                except OSError as error:  # a full disk: later
                    reason = f"the note for its next start cannot be written: {error}"
                else:
                    return
            if reason != told:
                told = reason
                event(
                    log,
                    logging.ERROR,
                    "this node's cluster was recovered without it; it does not join that by itself",
                    reason=reason,
                    folder=runtime.settings.directory,
                    join=successors[0].addresses[0],
                )
    finally:
        await strangers.stop()


async def _go_over(runtime: NodeRuntime, disk: Disk, successor: Successor) -> None:
    folder = runtime.settings.directory
    rejoin = Rejoin(
        runtime.cluster_id, successor.cluster_id, free_name(disk, folder, ASIDE_PREFIX), successor.addresses
    )
    await runtime.on_worker(write_rejoin, disk, folder, rejoin)
    runtime.on_fatal(
        ClusterSuperseded(
            f"this node's cluster {successor.took_over.cluster_id.hex()} was recovered without it as "
            f"{successor.cluster_id.hex()}: at its next start it sets its files aside ({rejoin.aside}) and joins that"
        )
    )


def set_aside(disk: Disk, folder: str) -> Rejoin | None:
    """Before a start: do what a note in the folder asks for; the note, for as long as the join is not done.

    The identity is moved LAST: while it is the old one, files may still be to be moved. Idempotent.
    """
    rejoin = read_rejoin(disk, folder)
    if rejoin is None:
        return None
    identity = Identity.load(disk, folder)
    if identity is not None and not rejoin.waits(identity.cluster_id):
        remove(disk, folder, REJOIN)  # it has joined that, or what continues it, or was made another cluster
        return None
    if identity is not None and identity.cluster_id == rejoin.old:
        aside = os.path.join(folder, rejoin.aside)
        disk.mkdir(aside)
        disk.fsync_dir(folder)
        for name in ("journal", "hardstate", "state", "changes", "incoming", "outgoing", RECOVERED):
            move(disk, os.path.join(folder, name), os.path.join(aside, name))
        move(disk, os.path.join(folder, "identity"), os.path.join(aside, "identity"))
        event(
            log,
            logging.WARNING,
            "the files of the cluster before are set aside",
            cluster_id=rejoin.old.hex(),
            folder=aside,
        )
    return rejoin
