"""A simulated machine: a disk, a network address, and one life of `dqlite_py.Node` after another.

The node's code is the product's own, from app.Node._serve downwards. What is different in a simulation is set here:
smaller limits (so that rare paths come often), the simulated disk and clock, messages that get lost or late behind the
real transport, statements that take time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw

import dqlite_py.app as product
from dqlite_py.errors import CorruptJournal, CorruptState, Error, UnknownFormat, WrongCluster
from dqlite_py.node.runtime import NodeRuntime
from dqlite_py.raft.journal import Journal
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.storage.changelog.capture import Capture
from dqlite_py.storage.engine import DatabaseEngine
from dqlite_py.storage.engine_api import ApplyEngine
from dqlite_py.storage.implementation import start_engine
from dqlite_py.wire.handshake import PROTOCOL_VERSION, Hello, Refused, Welcome, encode_handshake
from tests.simulation.cluster import threads
from tests.simulation.cluster.checks_freshness import STOPPED_S
from tests.simulation.cluster.disk import Crashed, DiskFaults, SimDisk
from tests.simulation.cluster.life import Kernel, Life, LifeEnded, current_life
from tests.simulation.cluster.network import SimHost
from tests.simulation.cluster.scale import Scale
from tests.simulation.cluster.simloop import SimLoop

log = logging.getLogger("simulation")
PORT = 9001
KIB = 1024
DISK_TIMES: dict[str, Any] = {"sync_s": (0.0002, 0.002), "write_s": (2e-6, 20e-6)}
NEEDS_OPERATOR = (CorruptJournal, CorruptState, WrongCluster, UnknownFormat)


@dataclass
class MessageFaults:
    """Of raft messages, behind the transport: probabilities per message."""

    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    late_s: float = 0.4


@dataclass
class ApplyFaults:
    """How long entries take to apply, simulated seconds."""

    apply_s: tuple[float, float] = (20e-6, 200e-6)
    slow: float = 0.0
    slow_s: float = 0.3


@dataclass
class Environment:
    """What all machines of a world share."""

    kernel: Kernel
    folder: Path
    rng: random.Random
    messages: MessageFaults = field(default_factory=MessageFaults)
    applying: ApplyFaults = field(default_factory=ApplyFaults)
    disk_faults: DiskFaults = field(default_factory=lambda: DiskFaults(**DISK_TIMES))
    on_runtime: list[Callable[[str, NodeRuntime], None]] = field(default_factory=list)
    on_exit: Callable[[Machine, BaseException | None], None] = lambda _machine, _error: None
    scale: Scale = field(default_factory=Scale)


class LifeClock:
    """ports.Clock of one life."""

    def __init__(self) -> None:
        self._life = current_life()

    def monotonic_ms(self) -> float:
        return self._life.monotonic() * 1000.0

    def wall_us(self) -> int:
        return self._life.wall_us()


class NodeLife(Life):
    """The process of a node on its machine."""

    def __init__(self, machine: Machine, **clock: Any) -> None:
        super().__init__(machine.environment.kernel, machine.name, **clock)
        self.machine = machine
        self.node: product.Node | None = None
        self.runtime: NodeRuntime | None = None
        self.natives: list[ApplyEngine] = []
        self.disk = machine.disk.mount(self._crashed_at_an_operation)

    def _crashed_at_an_operation(self) -> None:
        self.machine.crash(lose_unsynced=self.machine.lose_at_operation, disk_is_down=True)


def _start_engine(*args: Any, **kwargs: Any) -> ApplyEngine:
    """Known to its life: SQLite cannot close a connection whose statements are held."""
    native = start_engine(*args, **kwargs)
    life = current_life()
    if isinstance(life, NodeLife):
        life.natives.append(native)
    return native


class _Engine(DatabaseEngine):
    """Applying takes time."""

    def apply(self, index: int, payload: bytes, *, want_results: bool) -> Any:
        life = current_life()
        if isinstance(life, NodeLife):
            environment = life.machine.environment
            faults, rng = environment.applying, environment.rng
            low, high = faults.apply_s
            slow = faults.slow and rng.random() < faults.slow
            threads.sleep(rng.random() * faults.slow_s if slow else low + (high - low) * rng.random())
        return super().apply(index, payload, want_results=want_results)


class _Capture(Capture):
    """SQLite calls it: what ends a process cannot pass through there."""

    def _describe(self) -> None:
        with suppress(Crashed, LifeEnded):
            super()._describe()


class _Journal(Journal):
    """Preallocates in small steps."""

    @classmethod
    def open(cls, disk: Any, path: str, **options: Any) -> Journal:
        life = current_life()
        if isinstance(life, NodeLife):
            options.setdefault("step_bytes", life.machine.environment.scale.step_bytes)
        return super().open(disk, path, **options)


class _Runtime(NodeRuntime):
    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        life = current_life()
        if isinstance(life, NodeLife):
            life.runtime = self
            for hook in life.machine.environment.on_runtime:
                hook(life.name, self)


class _Transport(PeerTransport):
    """Loses, repeats and delays what the real transport has received."""

    def raft_received(self, connection: Any, body: bytes | bytearray) -> None:
        life = current_life()
        if not isinstance(life, NodeLife):
            super().raft_received(connection, body)
            return
        faults, rng = life.machine.environment.messages, life.machine.environment.rng
        if faults.loss and rng.random() < faults.loss:
            return
        if faults.duplicate and rng.random() < faults.duplicate:
            self._again(life, connection, bytes(body), faults.late_s)
        if faults.late and rng.random() < faults.late:
            self._again(life, connection, bytes(body), faults.late_s)
            return
        super().raft_received(connection, body)

    def _again(self, life: NodeLife, connection: Any, body: bytes, within_s: float) -> None:
        def receive() -> None:
            super(_Transport, self).raft_received(connection, body)
            connection._loop.call_soon(self.all_received)

        life.call_later(life.machine.environment.rng.random() * within_s, receive)


def _disk() -> Any:
    life = current_life()
    assert isinstance(life, NodeLife)
    return life.disk


def _encode_handshake(message: Hello | Welcome | Refused) -> bytes:
    """A node of another release speaks another protocol version."""
    life = current_life()
    if isinstance(life, NodeLife) and isinstance(message, Hello | Welcome):
        message = replace(message, version=life.machine.release)
    return encode_handshake(message)


def _sync_directory(path: str) -> None:
    _disk().fsync_dir(str(Path(path).parent))


def seams() -> list[tuple[str, str, Any]]:
    """Further rows for seams.installed."""
    return [
        ("dqlite_py.app", "SystemDisk", _disk),
        ("dqlite_py.node.opening", "SystemClock", LifeClock),
        ("dqlite_py.node.opening", "NodeRuntime", _Runtime),
        ("dqlite_py.node.opening", "PeerTransport", _Transport),
        ("dqlite_py.raft.connection", "encode_handshake", _encode_handshake),
        ("dqlite_py.storage.engine", "start_engine", _start_engine),
        ("dqlite_py.storage.engine", "_sync_directory", _sync_directory),
        ("dqlite_py.node.database_worker", "DatabaseEngine", _Engine),
        ("dqlite_py.node.startup", "Journal", _Journal),
        ("dqlite_py.storage.changelog.keeper", "Capture", _Capture),
    ]


class Machine:
    """One machine. `life` is None while nothing runs there."""

    def __init__(self, environment: Environment, name: str, ip: str, host: SimHost) -> None:
        self.environment = environment
        self.name = name
        self.ip = ip
        self.host = host
        self.address = f"{ip}:{PORT}"
        self.life: NodeLife | None = None
        self.lose_at_operation = True
        self.clock_rate = 1.0
        self.wall_offset_us = 0
        self.release = PROTOCOL_VERSION
        self.life_count = 0
        self.went_on = float("-inf")  # after its newest long pause, simulated s
        self.died_at = 0.0  # of its newest process, simulated s
        self.last_exit: BaseException | None = None
        folder = environment.folder / name
        folder.mkdir(parents=True)
        self.folder = str(folder)
        self.disk = SimDisk(
            self.folder,
            random.Random(environment.rng.getrandbits(64)),
            sleep=threads.sleep,
            faults=environment.disk_faults,
        )

    @property
    def data_folder(self) -> str:
        return self.folder + "/data"

    @property
    def runtime(self) -> NodeRuntime | None:
        """Of the life that serves now."""
        life = self.life
        return life.runtime if life is not None and life.alive else None

    @property
    def is_up(self) -> bool:
        return self.life is not None and self.life.alive

    @property
    def serves(self) -> bool:
        return (
            self.is_up
            and self.life is not None
            and self.life.node is not None
            and self.life.node._runtime is not None
        )

    def move(self, ip: str, port: int, host: SimHost) -> None:
        """It comes back at another address; nothing runs there now."""
        assert not self.is_up
        self.ip, self.host, self.address = ip, host, f"{ip}:{port}"

    # -- life cycle ---------------------------------------------------------------------------------------------

    def start(self, join: list[str]) -> None:
        """Start the process."""
        assert not self.is_up
        self.life_count += 1
        life = NodeLife(self, clock_rate=self.clock_rate, wall_offset_us=self.wall_offset_us)
        self.life = life
        loop = SimLoop.__new__(SimLoop)
        life.run(loop.__init__, life, self.host)  # type: ignore[misc]
        self.host.attach(loop)
        life.on_end.append(lambda: _close_databases(life))
        life.on_end.append(self.disk.close_life)
        life.run(self._begin, life, loop, join)

    def _begin(self, life: NodeLife, loop: SimLoop, join: list[str]) -> None:
        node = product.Node(
            self.data_folder,
            listen=self.address,
            join=join,
            insecure=True,
            **self.environment.scale.settings(),
        )
        life.node = node
        task = loop.create_task(node._serve(), name=f"node {self.name}")
        task.add_done_callback(lambda done: self._exited(life, done))

    def _exited(self, life: NodeLife, task: asyncio.Task[None]) -> None:
        """The process ends by itself."""
        if not life.alive:
            return
        error = None if task.cancelled() else task.exception()
        if error is None and life.runtime is not None:
            error = life.runtime.failed
        if isinstance(error, Crashed | LifeEnded):
            return
        if error is not None and not isinstance(error, Error | OSError):
            self.environment.kernel.fail(AssertionError(f"{self.name} ended with {error!r}"))
        self.last_exit = error
        log.info("%s exits: %r", self.name, error)
        self.crash(lose_unsynced=False)
        self.environment.on_exit(self, error)

    def crash(self, *, lose_unsynced: bool, disk_is_down: bool = False) -> None:
        """End the process now: killed, or (lose_unsynced) by a loss of power."""
        life = self.life
        if life is None or not life.alive:
            return
        log.info("%s crashes, unsynced data %s", self.name, "lost" if lose_unsynced else "kept")
        self.life = None
        self.died_at = self.environment.kernel.scheduler.now
        if not disk_is_down:
            self.disk.cut_power()
        self.host.crash(silent=lose_unsynced)
        life.on_end.append(lambda: self.disk.settle(lose_unsynced=lose_unsynced))
        life.end()

    def crash_within(self, operations: int, *, lose_unsynced: bool) -> None:
        """End the process at the disk operation with that number from now."""
        if self.is_up:
            self.lose_at_operation = lose_unsynced
            self.disk.crash_after(operations)

    def pause(self, seconds: float) -> None:
        if self.life is not None:
            until = self.environment.kernel.scheduler.now + seconds
            self.life.paused_until = max(self.life.paused_until, until)
            if seconds > STOPPED_S:
                self.went_on = self.life.paused_until


def _close_databases(life: NodeLife) -> None:
    """The kernel closes a dead process' files; here its connections are closed where nothing has an effect."""
    for native in life.natives:
        with suppress(Exception):
            native.close()
    life.natives.clear()
    prefix = life.machine.folder + "/"
    for connection in apsw.connections():
        if str(connection.filename).startswith(prefix):
            with suppress(Exception):
                connection.close(True)
