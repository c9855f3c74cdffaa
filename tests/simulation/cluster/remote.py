"""Programs outside the cluster: a machine of its own that asks nodes over the peer protocol, as commands do.

One unstarted PeerTransport per caller. What became of a request follows from what it raised: RpcNotSent certainly
failed, RpcLost may have happened, an errors.Error says it by its outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.errors import Error, NodeStopped, OutcomeUnknown
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.messages import Message
from dqlite_py.raft.rpc import RpcLost, RpcNotSent
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import LocalIdentity
from tests.simulation.cluster.life import Life
from tests.simulation.cluster.machine import Machine
from tests.simulation.cluster.simloop import SimLoop

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

NO_ADDRESS: Final = Address("127.0.0.1:1")  # it is never dialled
GRACE_S: Final = 0.5  # the node answers at the request's time; the answer travels


def _ignore(_sender: NodeId, _message: Message) -> None:
    """No sender is accepted, so nothing comes."""


class RemoteCaller:
    """One program. Its process lives as long as the world; `ip` is its machine's."""

    def __init__(self, world: World, index: int) -> None:
        self.ip = f"10.9.0.{index + 1}"
        self._rng = random.Random(f"remote {index} {world.seed}")
        self._host = world.network.host(self.ip)
        self._life = Life(world.kernel, f"r{index + 1}")
        loop = SimLoop.__new__(SimLoop)
        self._life.run(loop.__init__, self._life, self._host)  # type: ignore[misc]
        self._loop = loop
        self._host.attach(loop)
        self._transport: PeerTransport | None = None
        self._cluster_id = b""

    def ask(
        self,
        machine: Machine,
        method: str,
        body: Any,
        timeout_s: float,
        done: Callable[[Any, Error | None], None],
    ) -> None:
        """Call `method` of the node at the machine's address; `done` hears once."""
        runtime = machine.runtime
        if runtime is None:
            done(None, NodeStopped("nobody is there"))
            return
        self._know(runtime.cluster_id)
        self._life.run(
            lambda: self._loop.create_task(self._ask(Address(machine.address), method, body, timeout_s, done))
        )

    def _know(self, cluster_id: bytes) -> None:
        """What `status` would have told."""
        if self._transport is not None:
            return
        identity = LocalIdentity(cluster_id, NodeId(self._rng.randrange(1, 2**63)))

        def make() -> None:
            self._transport = PeerTransport(
                identity=lambda: identity,
                listen=NO_ADDRESS,
                advertise=NO_ADDRESS,
                on_message=_ignore,
                accept_sender=lambda _sender: False,
            )

        self._life.run(make)

    async def _ask(
        self,
        address: Address,
        method: str,
        body: Any,
        timeout_s: float,
        done: Callable[[Any, Error | None], None],
    ) -> None:
        transport = self._transport
        assert transport is not None
        try:
            answer = await _mapped(transport.call(address, method, body, timeout_s + GRACE_S))
        except Error as error:
            done(None, error)
        except asyncio.CancelledError:
            raise
        else:
            done(answer, None)

    def end(self) -> None:
        self._life.end()


async def _mapped(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except RpcNotSent as error:
        raise NodeStopped(f"not sent: {error}") from None
    except RpcLost as error:
        raise OutcomeUnknown(f"no answer: {error}") from None
