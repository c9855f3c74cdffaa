"""Everything through which the product touches the outside world, and what stands there in a simulation.

The replacements are module attributes, set for the time of one simulation (`installed`). tests/simulation/cluster/
test_seams.py holds that no module of the product uses time, threads or randomness without being listed here.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from dqlite_py.node import gates
from tests.simulation.cluster import threads
from tests.simulation.cluster.life import current_life, kernel

THREADING = (
    "dqlite_py.app",
    "dqlite_py.gateway",
    "dqlite_py.gateway",
    "dqlite_py.node.change_followers",
    "dqlite_py.node.change_hub",
    "dqlite_py.node.change_services",
    "dqlite_py.node.change_streams",
    "dqlite_py.node.database_worker",
    "dqlite_py.node.gates",
    "dqlite_py.node.snapshot_incoming",
    "dqlite_py.node.snapshot_pace",
    "dqlite_py.node.transaction",
    "dqlite_py.raft.journal.table",
    "dqlite_py.raft.journal.thread",
    "dqlite_py.storage.changelog.log",
    "dqlite_py.storage.checkpoint",
    "dqlite_py.storage.engine",
    "dqlite_py.storage.held",
    "dqlite_py.storage.reader_connections",
    "dqlite_py.storage.readers",
    "dqlite_py.storage.state_folder",
)
QUEUE = ("dqlite_py.node.database_worker", "dqlite_py.raft.journal.thread")
FUTURE = ("dqlite_py.node.database_worker",)
EXECUTOR = (
    "dqlite_py.node.change_services",
    "dqlite_py.node.read_services",
    "dqlite_py.node.runtime",
    "dqlite_py.node.write_path",
    "dqlite_py.storage.readers",
)
TIME = (
    "dqlite_py.node.change_followers",
    "dqlite_py.node.change_streams",
    "dqlite_py.node.gates",
    "dqlite_py.node.joining",
    "dqlite_py.node.tickets",
    "dqlite_py.node.transaction",
    "dqlite_py.raft.journal.thread",
    "dqlite_py.storage.held",
    "dqlite_py.storage.reader",
    "dqlite_py.storage.reader_connections",
    "dqlite_py.storage.readers",
)
RANDOM_MODULE = (
    "dqlite_py.node.runtime",
    "dqlite_py.raft.rpc",
    "dqlite_py.raft.transport",
    "dqlite_py.storage.changelog.log",
)
RANDOM_CLASS = ("dqlite_py.node.proposals", "dqlite_py.node.transactions")
SECRETS = (
    "dqlite_py.client_sessions",
    "dqlite_py.node.startup",
    "dqlite_py.node.snapshot_source",
    "dqlite_py.node.transaction_calls",
    "dqlite_py.raft.journal.journal",
    "dqlite_py.server.dqlite.dump",
    "dqlite_py.storage.founding",
)
# Modules that import one of these names for something that needs no replacement.
HARMLESS = {
    "dqlite_py.cli": "commands; no part of a node",
    "dqlite_py.client": "programs outside the nodes; the simulation has its own (remote.py)",
    "dqlite_py.offline": "commands that read and fill files of no running node",
    "dqlite_py.ports": "the real clock and disk, which are replaced as a whole",
    "dqlite_py.dbapi.adapting": "conversion of UUIDs",
    "dqlite_py.dbapi.guard": "who calls, and turns of threads that share a connection, which no client does",
    "dqlite_py.dbapi.types": "conversion of time stamps",
    "dqlite_py.raft.core": "the type of an argument",
    "dqlite_py.raft.state": "the type of an argument",
    "dqlite_py.raft.dialer": "the type of an argument",
    "dqlite_py.raft.links": "the type of an argument",
    "dqlite_py.raft.host": "queue.Empty; the type Executor",
    "dqlite_py.node.snapshot_fetch": "the type Executor",
    "dqlite_py.node.snapshot_source": "the type Executor; its secrets are replaced",
    "dqlite_py.node.life_signs": "the type Future, for who supervises a process",
    "dqlite_py.node.pinning": "the type Future",
    "dqlite_py.raft.quietlog": "how often a line is logged",
    "dqlite_py.storage.live": "the type Lock",
    "dqlite_py.storage.native_engine": "a lock for binding the extension once",
    "dqlite_py.storage.python_engine.binding": "a lock for binding to SQLite once",
    "dqlite_py.storage.python_engine.live": "a flag, and a statement's time limit, which is real time in C, too",
    "dqlite_py.storage.python_engine.vfs": "the clock that an entry fixes is a thread's own",
    "dqlite_py.wire.frames": "a counter's start, replaced itself",
}
_CLASS_ATTRIBUTES = ("Thread", "Lock", "Condition", "Event")


def _time() -> SimpleNamespace:
    return SimpleNamespace(
        monotonic=lambda: current_life().monotonic(),
        time=lambda: current_life().wall_us() / 1e6,
        time_ns=lambda: current_life().wall_us() * 1000,
    )


def _generator(seed: Any = None) -> random.Random:
    """random.Random() without a seed takes one from the simulation."""
    return random.Random(kernel().rng.getrandbits(64) if seed is None else seed)


def _random() -> SimpleNamespace:
    return SimpleNamespace(Random=_generator, getrandbits=lambda bits: kernel().rng.getrandbits(bits))


def _secrets() -> SimpleNamespace:
    return SimpleNamespace(
        randbelow=lambda limit: kernel().rng.randrange(limit),
        randbits=lambda bits: kernel().rng.getrandbits(bits),
        token_bytes=lambda size: kernel().rng.randbytes(size),
        token_hex=lambda size: kernel().rng.randbytes(size).hex(),
    )


def table() -> list[tuple[str, str, Any]]:
    """(module, attribute, replacement)."""
    rows: list[tuple[str, str, Any]] = []
    for names, attribute, value in (
        (THREADING, "threading", threads.threading),
        (QUEUE, "queue", threads.queue),
        (FUTURE, "Future", threads.Future),
        (EXECUTOR, "ThreadPoolExecutor", threads.ThreadPoolExecutor),
        (TIME, "time", _time()),
        (RANDOM_MODULE, "random", _random()),
        (RANDOM_CLASS, "Random", _generator),
        (SECRETS, "secrets", _secrets()),
    ):
        rows.extend((name, attribute, value) for name in names)
    rows.append(("dqlite_py.node.gates", "Gate", gates.LockGate))  # the other waits in C
    rows.append(("dqlite_py.wire.frames", "_message_ids", itertools.count(1)))
    return rows


@contextmanager
def installed(extra: list[tuple[str, str, Any]]) -> Iterator[None]:
    """Put the replacements in place; `extra`: further ones of this simulation (disk, limits, a canary's fault)."""
    undo: list[Callable[[], None]] = []
    try:
        for module_name, attribute, value in [*table(), *extra]:
            module = importlib.import_module(module_name)
            before = getattr(module, attribute)

            undo.append(functools.partial(setattr, module, attribute, before))
            setattr(module, attribute, value)
        yield
    finally:
        for put_back in reversed(undo):
            put_back()
