"""Lives on a simulated network, and a protocol that notes everything: what tests of the network are made of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

from tests.simulation.cluster.life import Kernel, Life
from tests.simulation.cluster.network import NetworkFaults, SimNetwork
from tests.simulation.cluster.simloop import SimLoop

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PORT = 7000


class Echo(asyncio.Protocol):
    """Notes everything; sends back what it gets when told to."""

    def __init__(self, world: World, name: str, echo: bool = False) -> None:
        self.world = world
        self.name = name
        self.echo = echo
        self.chunks: list[bytes] = []
        self.notes: list[str] = []
        self.lost: Exception | None = None
        self.is_lost = self.is_paused = self.keep_open = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def _note(self, what: str) -> None:
        self.notes.append(what)
        self.world.trace.append((round(self.world.kernel.scheduler.now, 9), self.name, what))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not self.is_lost
        self.transport = cast(asyncio.Transport, transport)
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.is_lost
        self.chunks.append(bytes(data))
        self._note(f"data {len(data)} {data[:4]!r}")
        if self.echo:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.is_paused = True
        self._note("pause")

    def resume_writing(self) -> None:
        self.is_paused = False
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.is_lost
        self.is_lost, self.lost = True, exc
        self._note(f"lost {exc!r}")

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


class World:
    """A kernel, a network, and lives by address."""

    def __init__(self, seed: int = 1, **faults: Any) -> None:
        self.kernel = Kernel(random.Random(seed))
        self.faults = NetworkFaults(**faults)
        self.network = SimNetwork(self.kernel.scheduler, random.Random(seed), self.faults)
        self.lives: list[Life] = []
        self.served: list[Echo] = []
        self.trace: list[tuple[float, str, str]] = []

    def live(self, ip: str) -> SimLoop:
        life = Life(self.kernel, ip)
        self.lives.append(life)
        loop = SimLoop(life, self.network.host(ip))
        self.network.host(ip).attach(loop)
        return loop

    def crash(self, loop: SimLoop, *, silent: bool) -> None:
        loop.life.end()
        loop.host.crash(silent=silent)

    def run(self, loop: SimLoop, coroutine: Any, seconds: float = 60.0) -> Any:
        """The coroutine's result, in simulated time."""
        task: asyncio.Task[Any] = loop.create_task(coroutine)
        self.kernel.scheduler.run_until(self.now + seconds, task.done)
        assert task.done(), "did not end in time"
        return task.result()

    def later(self, seconds: float) -> None:
        self.kernel.run_for(seconds)

    def end(self) -> None:
        """Unwind what still runs."""
        for life in self.lives:
            life.end()
        Kernel.current = None

    @property
    def now(self) -> float:
        return self.kernel.scheduler.now

    def serve(self, loop: SimLoop, *, echo: bool = False, **options: Any) -> Any:
        def made() -> Echo:
            self.served.append(Echo(self, f"served {len(self.served)}", echo))
            return self.served[-1]

        return self.run(loop, loop.create_server(made, loop.host.ip, PORT, **options))

    def dial(self, loop: SimLoop, ip: str = B, seconds: float = 60.0) -> Echo:
        made = Echo(self, "dialled")
        self.run(loop, loop.create_connection(lambda: made, ip, PORT), seconds)
        return made

    def pair(self, *, echo: bool = False) -> tuple[Echo, Echo, SimLoop, SimLoop]:
        """Dialler on A, acceptor on B, connected."""
        a, b = self.live(A), self.live(B)
        self.serve(b, echo=echo)
        dialled = self.dial(a)
        self.later(1)
        return dialled, self.served[-1], a, b


def worlds() -> Iterator[Callable[..., World]]:
    """A fixture's body: makes worlds (seed, faults by name) and ends them."""
    made: list[World] = []

    def make(*arguments: Any, **faults: Any) -> World:
        made.append(World(*arguments, **faults))
        return made[-1]

    yield make
    for each in made:
        each.end()
