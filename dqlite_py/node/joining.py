"""How a new node asks a cluster to be added. Loop thread; before the node's runtime exists."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from dqlite_py.errors import Error, InterfaceError, MemberRefused, NotLeader, OperationalError, WrongCluster
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.node.formats import FORMATS
from dqlite_py.node.settings import check_address
from dqlite_py.node.startup import NO_CLUSTER
from dqlite_py.node.succession import Predecessor, predecessors_from_wire
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.membership")

JOIN_RETRY_S = 0.3


class Joined(NamedTuple):
    """The cluster's id, and the clusters that it was recovered from."""

    cluster_id: bytes
    predecessors: tuple[Predecessor, ...]


async def join_cluster(
    transport: PeerTransport,
    node_id: NodeId,
    members: Sequence[Address],
    timeout_s: float,
    expected: bytes | None = None,
) -> Joined:
    """Ask the members until the leader has added us; not if they are neither of cluster `expected` nor continue it.

    Raises MemberRefused at once, WrongCluster when one says so (of `expected`: when all do), OperationalError with the
    last reason when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    body: dict[str, Any] = {"id": node_id, "address": transport.advertised_address(), "formats": FORMATS}
    if expected is not None:
        body["cluster_id"] = expected
    asked = list(members)
    last: BaseException = OperationalError("nobody was asked")
    while time.monotonic() < deadline:
        others = 0
        for address in list(asked):
            if address == transport.advertised_address():
                raise InterfaceError(f"join address {address} is this node's own: name another member")
            try:
                answer = await transport.call(address, "join", body, REQUEST_TIMEOUT_MS / 1000)
            except NotLeader as error:
                last = error
                leader = str(error.details.get("leader_address", ""))
                if leader and leader not in asked:
                    check_address("leader's", leader)
                    asked.insert(0, Address(leader))
            except WrongCluster as error:
                last, others = error, others + 1
                if expected is None or others == len(asked):
                    raise
            except MemberRefused:
                raise
            except (Error, RpcError) as error:
                last = error
            else:
                cluster_id = answer.get("cluster_id") if isinstance(answer, dict) else None
                if isinstance(cluster_id, bytes) and len(cluster_id) == 16 and cluster_id != NO_CLUSTER:
                    event(log, logging.INFO, "joined a cluster", cluster_id=cluster_id.hex(), address=address)
                    return Joined(cluster_id, predecessors_from_wire(answer.get("recovered_from", [])))
                last = OperationalError(f"{address} gave a malformed answer to join")
        await asyncio.sleep(JOIN_RETRY_S)
    raise OperationalError(f"could not join through {', '.join(asked)} within {timeout_s:g} s: {last}")
