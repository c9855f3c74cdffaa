"""From a locked data folder to a running node: a known folder is opened, else a new cluster or a join. Loop thread.

The address is listened on BEFORE the folder is opened: a port that is taken fails at once, and peers that dial
meanwhile are told that this node belongs to no cluster yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dqlite_py.errors import InterfaceError, WrongCluster
from dqlite_py.logs import event
from dqlite_py.model import Address
from dqlite_py.node.inbound import Inbound
from dqlite_py.node.joining import join_cluster
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.settings import NodeSettings
from dqlite_py.node.startup import (
    NO_CLUSTER,
    OpenFolder,
    create_folder,
    load_identity,
    new_cluster_id,
    open_folder,
)
from dqlite_py.node.succession import (
    RECOVERED,
    REJOIN,
    Predecessor,
    Rejoin,
    check_not_recovering,
    remove,
    write_predecessors,
)
from dqlite_py.node.superseded import set_aside, watch_successor
from dqlite_py.ports import Disk, SystemClock
from dqlite_py.raft.journal import Identity
from dqlite_py.raft.transport import PeerTransport

log = logging.getLogger("dqlite_py.node")


async def open_node(
    disk: Disk,
    settings: NodeSettings,
    join_timeout_s: float,
    on_fatal: Callable[[BaseException], None],
    serve: Callable[[PeerTransport, Inbound], None] = lambda _transport, _inbound: None,
) -> NodeRuntime:
    """The started runtime of the folder in `settings`, whose lock the caller holds. Nothing runs when it raises.

    `serve` registers the protocols of programs, before anybody can connect.
    """
    clock = SystemClock()
    check_not_recovering(disk, settings.directory)
    rejoin = set_aside(disk, settings.directory)
    identity = load_identity(disk, settings.directory, clock.wall_us())
    inbound = Inbound(identity.cluster_id, identity.node_id)
    transport = PeerTransport(
        identity=inbound.identity,
        listen=settings.listen,
        advertise=settings.advertise,
        tls=settings.tls,
        on_message=inbound.on_message,
        on_all_received=inbound.on_all_received,
        on_connected=inbound.on_connected,
        on_disconnected=inbound.on_disconnected,
        on_learned=inbound.on_learned,
        accept_sender=inbound.accept_sender,
    )
    serve(transport, inbound)
    await transport.start()
    try:
        opened = await _membership(disk, settings, join_timeout_s, identity, transport, inbound, rejoin)
        try:
            runtime = NodeRuntime(
                loop=asyncio.get_running_loop(),
                settings=settings,
                opened=opened,
                transport=transport,
                inbound=inbound,
                disk=disk,
                clock=clock,
                on_fatal=on_fatal,
            )
            await runtime.start()
            runtime.spawn(watch_successor(runtime, disk))
        except BaseException:
            opened.journal.close()
            raise
    except BaseException:
        await transport.stop()
        raise
    if settings.join:
        transport.dial_unknown([Address(a) for a in settings.join if a != transport.advertised_address()])
    return runtime


async def _membership(
    disk: Disk,
    settings: NodeSettings,
    join_timeout_s: float,
    identity: Identity,
    transport: PeerTransport,
    inbound: Inbound,
    rejoin: Rejoin | None,
) -> OpenFolder:
    """Open a known folder, start a new cluster, or join one."""
    loop, folder = asyncio.get_running_loop(), settings.directory
    if identity.cluster_id != NO_CLUSTER:
        return await loop.run_in_executor(None, open_folder, disk, folder, identity)
    bootstrap: Address | None = None
    predecessors: tuple[Predecessor, ...] = ()
    own = transport.advertised_address()
    members = settings.join
    if rejoin is not None:  # never a cluster of its own, and no other one
        members = tuple(dict.fromkeys(a for a in (*rejoin.addresses, *settings.join) if a != own))
        if not members:
            raise InterfaceError(
                "this node is to join a recovered cluster, and knows only its own address: say --join"
            )
    if members:
        cluster_id, predecessors = await join_cluster(
            transport, identity.node_id, members, join_timeout_s, None if rejoin is None else rejoin.new
        )
        continues = {cluster_id, *(predecessor.cluster_id for predecessor in predecessors)}
        if (
            rejoin is not None and rejoin.new not in continues
        ):  # an earlier release does not look at what we expect
            raise WrongCluster(
                f"the members asked belong to cluster {cluster_id.hex()}, but this node is to join {rejoin.new.hex()}"
            )
    else:
        cluster_id = new_cluster_id()
        bootstrap = transport.advertised_address()
        event(log, logging.INFO, "new cluster", cluster_id=cluster_id.hex())
    owner = Identity(cluster_id, identity.node_id, identity.created_us)

    def create() -> OpenFolder:
        remove(disk, folder, RECOVERED)  # of a join elsewhere that was interrupted
        if predecessors:
            write_predecessors(disk, folder, predecessors)
        made = create_folder(disk, folder, owner, bootstrap=bootstrap)
        remove(disk, folder, REJOIN)
        return made

    opened = await loop.run_in_executor(None, create)
    inbound.set_cluster(cluster_id)
    transport.identity_changed()
    return opened
