"""The embedded node: `with dqlite_py.Node(dir, listen="127.0.0.1:9001", join=[...]) as node:`.

Runs the node's loop on a thread of its own; every method may be called from any other thread. It starts and stops
the parts (node.runtime) and decides between a new cluster, a join and a restart; it has no logic of its own beyond.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from dqlite_py.command import check_database_name
from dqlite_py.config import TlsSettings
from dqlite_py.dbapi import Connection, connect
from dqlite_py.errors import (
    InterfaceError,
    NodeStopped,
    OperationalError,
    OutcomeUnknown,
)
from dqlite_py.gateway import AsyncGateway, Gateway
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.logs import event
from dqlite_py.model import NodeId
from dqlite_py.node.change_streams import AsyncChangeStream, ChangeStream
from dqlite_py.node.drain import before_stop
from dqlite_py.node.forks import RunningNode, forked
from dqlite_py.node.life_signs import life_sign
from dqlite_py.node.loops import loop_factory
from dqlite_py.node.opening import open_node
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.node.settings import node_settings
from dqlite_py.node.tickets import Deadline
from dqlite_py.ports import SystemDisk
from dqlite_py.raft.journal import lock_folder
from dqlite_py.server.dqlite.settings import ServerSettings
from dqlite_py.server.protocols import ClientProtocols
from dqlite_py.storage.changelog.cursor import Cursor

log = logging.getLogger("dqlite_py.node")

DEFAULT_TIMEOUT_S = REQUEST_TIMEOUT_MS / 1000


class Node:
    """One member of a cluster, in this process.

    directory: the data folder, created when missing; one process at a time.
    listen: host:port for peers and clients (port 0: any free one). advertise: what others dial (default: listen).
    join: addresses of members. A new folder with `join` joins their cluster; without, it starts a new cluster. For a
    folder that has run before, membership comes from its log; `join` only helps to find peers whose address changed.
    keep_changes: bytes of changes to keep of every database (default: of those followed here, see docs/changes.md).
    clients: limits for those that speak dqlite's protocol (default: docs/dqlite-protocol.md).
    tls: mutual TLS for all traffic. Without it only loopback addresses are allowed, unless `insecure=True`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        listen: str = "127.0.0.1:0",
        join: Sequence[str] = (),
        advertise: str | None = None,
        tls: TlsSettings | None = None,
        insecure: bool = False,
        start_timeout: float = 30.0,
        clients: ServerSettings | None = None,
        **settings: Any,
    ) -> None:
        self._settings = node_settings(
            directory=directory,
            listen=listen,
            join=join,
            advertise=advertise,
            tls=tls,
            insecure=insecure,
            **settings,
        )
        self._start_timeout = start_timeout
        self._clients = clients
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: NodeRuntime | None = None
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._start_error: BaseException | None = None
        self._stop_request: asyncio.Event | None = None
        self._hand_over = True
        self._grace_s = (0.0, 0.0)
        self._forked: NodeStopped | None = None

    # -- life cycle -------------------------------------------------------------------------------------------

    def start(self) -> Node:
        """Open the folder, listen, and become a member. Raises what stands in the way; nothing runs then.

        Returns when this node takes part; a leader may not be elected yet (`wait_ready`).
        """
        if self._thread is not None:
            raise InterfaceError("a node can be started once; make a new Node")
        self._thread = threading.Thread(target=self._main, name="dqlite-node", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error
        return self

    def stop(
        self, *, hand_over: bool = True, timeout: float = 30.0, drain_s: float = 0.0, leave_s: float = 0.0
    ) -> None:
        """Stop cleanly: leadership is handed over first, waiting calls are answered. Idempotent; nothing in a fork.

        drain_s: seconds that transactions which are open on this leader may take to end by themselves before that;
            leave_s: seconds that another member may take to take over this one's vote.
        """
        if self._thread is None or self._stopped.is_set():
            return
        self._hand_over = hand_over
        self._grace_s = (drain_s, leave_s)
        self._post(self._request_stop)
        if not self._stopped.wait(timeout + drain_s + leave_s):
            raise OperationalError(f"the node did not stop within {timeout:g} s")
        self._thread.join(timeout)

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def join_thread(self, timeout: float | None = None) -> bool:
        """Wait until the node has stopped, by request or failure; True when it has."""
        return self._stopped.wait(timeout)

    @property
    def failure(self) -> BaseException | None:
        """Why the node stopped by itself, if it did."""
        return self._runtime.failed if self._runtime is not None else self._start_error

    # -- use --------------------------------------------------------------------------------------------------

    def connect(self, database: str, *, factory: Any = Connection, **options: Any) -> Connection:
        """A PEP 249 connection to `database`, created cluster-wide when it does not exist. Works on every member.

        `options`: see dqlite_py.dbapi.baseconnection.BaseConnection.
        """
        runtime = self._running()
        connection: Connection = connect(runtime.gateway, database, factory=factory, **options)
        return connection

    @property
    def gateway(self) -> Gateway:
        """What API layers call (dqlite_py.gateway), on user threads."""
        return self._running().gateway

    @property
    def async_gateway(self) -> AsyncGateway:
        """The same for tasks of any event loop."""
        return self._running().async_gateway

    def changes(
        self, database: str, *, after: int | None = None, timeout: float | None = None
    ) -> ChangeStream:
        """Committed changes of rows behind log index `after` (default: from now on), on any member: docs/changes.md.

        timeout: seconds that the stream waits for a change before it raises TimeoutError. Iterating raises
        ChangesCompacted when this node does not keep changes back to `after`.
        """
        return ChangeStream(self._follow(database, after), timeout=timeout)

    def changes_async(
        self, database: str, *, after: int | None = None, timeout: float | None = None
    ) -> AsyncChangeStream:
        """`changes` for an event loop: `async with node.changes_async("app") as stream: async for change in stream`."""
        return AsyncChangeStream(partial(self._follow, database, after), timeout=timeout)

    def _follow(self, database: str, after: int | None) -> Cursor:
        check_database_name(database)
        if after is not None and (type(after) is not int or not 0 <= after < 2**63):
            raise InterfaceError(f"after is a log index, not {after!r:.40}")
        return self._running().followers.follow(database, after, DEFAULT_TIMEOUT_S)

    def databases(self) -> dict[str, int]:
        """Names of the databases on this member, in order, with the log index that each has applied."""
        found = self.status()["databases"]
        return {name: int(found[name]["applied_index"]) for name in sorted(found)}

    def wait_ready(self, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Return when a leader is known; raises OperationalError with the reason."""
        runtime = self._running()
        self._run(runtime.wait_ready(Deadline(timeout)), timeout + 1.0)

    def status(self) -> dict[str, Any]:
        """A snapshot of this node's view: identity, consensus, databases, health."""
        runtime = self._running()

        async def get() -> dict[str, Any]:
            return runtime.status()

        result: dict[str, Any] = self._run(get(), 10.0)
        return result

    def life_sign(self) -> Future[dict[str, Any]]:
        """The same later, when the node's loop and its journal thread have shown that they live: for a watchdog."""
        return life_sign(self._running())

    def members(self) -> list[dict[str, Any]]:
        """[{id, address, role}] of the configuration in force."""
        members: list[dict[str, Any]] = self.status()["members"]
        return members

    def remove_member(self, node_id: int, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Remove a member; raises MembershipRefused when that would lose the quorum."""
        runtime = self._running()
        deadline = Deadline(timeout)
        target = NodeId(node_id)
        self._run(
            runtime.writes.on_leader(
                "leader.remove", {"id": target}, deadline, lambda: runtime.membership.remove(target, deadline)
            ),
            timeout + 1.0,
        )

    def transfer_leadership(self, target: int | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Only on the leader: hand over to `target` (default: the most caught-up voter); returns the target's id."""
        runtime = self._running()
        chosen = self._run(
            runtime.transfer(None if target is None else NodeId(target), timeout), timeout + 1.0
        )
        if chosen is None:
            raise OperationalError("leadership was not taken over in time; this node still leads")
        return int(chosen)

    def drop_database(self, database: str, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Remove a database from every member, through the log. Where it is in use, its users hear so.

        Returns when it is gone here: what is opened here now under that name is new. Others may be a moment behind.
        """
        runtime = self._running()
        self._run(runtime.gateway.drop(check_database_name(database), Deadline(timeout)), timeout + 1.0)

    def compact(self, timeout: float = 60.0) -> int:
        """Checkpoint the databases and drop the log before that point now; returns the snapshot index."""
        return int(self._run(self._running().compaction.compact(), timeout))

    @property
    def address(self) -> str:
        """host:port that others dial."""
        return str(self._running().transport.advertised_address())

    @property
    def node_id(self) -> int:
        return int(self._running().node_id)

    @property
    def cluster_id(self) -> str:
        return self._running().cluster_id.hex()

    # -- between threads --------------------------------------------------------------------------------------

    def _running(self) -> NodeRuntime:
        runtime = self._runtime
        if runtime is None or self._stopped.is_set():
            raise self._forked or NodeStopped("the node is not running")
        return runtime

    def _leave_to_parent(self) -> None:
        """In a forked child."""
        self._forked = forked()  # the lock of the parent's event may be held for ever:
        self._stopped = threading.Event()
        self._stopped.set()

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function, *args)
            except RuntimeError:
                event(log, logging.DEBUG, "the node's loop is closed already")

    def _run(self, coroutine: Coroutine[Any, Any, Any], timeout: float) -> Any:
        loop = self._loop
        if loop is None or self._stopped.is_set():
            coroutine.close()
            raise NodeStopped("the node is not running")
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop was closed just now
            coroutine.close()
            raise NodeStopped("the node is not running") from None
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise OutcomeUnknown(f"no answer within {timeout:g} s") from None
        except CancelledError:
            raise OutcomeUnknown("the node stopped before it answered") from None

    def _request_stop(self) -> None:
        if self._stop_request is not None:
            self._stop_request.set()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - logged
            if not self._started.is_set():
                self._start_error = error
            else:
                event(log, logging.ERROR, "the node's thread ended", exc_info=True)
        finally:
            self._stopped.set()
            self._started.set()

    # -- on the loop ------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_request = asyncio.Event()
        disk = SystemDisk()
        settings = self._settings
        disk.mkdir(settings.directory)
        lock = lock_folder(disk, settings.directory)
        protocols = ClientProtocols()
        try:
            runtime = await open_node(
                disk, settings, self._start_timeout, lambda _error: self._request_stop(), protocols.serve
            )
        except BaseException:
            lock.close()
            raise
        protocols.started(runtime, self._clients)
        self._runtime = runtime
        with RunningNode(runtime, self._leave_to_parent):
            self._started.set()
            await self._stop_request.wait()
            try:
                await before_stop(runtime, *self._grace_s)
                await protocols.stop()
                await runtime.stop(hand_over=self._hand_over)
            finally:
                lock.close()
