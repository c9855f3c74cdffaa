"""What the rest of the suite knows of a cluster: Protocols and settings, no code that starts anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from jepsen.checkers.roles import WantedRoles
from jepsen.cluster.client import NodeClient


class Network(Protocol):
    """Faults between nodes; control connections are never touched. Node names are "n1", "n2", ..."""

    def cut(self, source: str, destination: str) -> None:
        """Let nothing pass from `source` to `destination`; the other direction is left as it is."""
        ...

    def heal(self) -> None:
        """Undo every cut. Delays stay."""
        ...

    def delay(self, ms: float | None) -> None:
        """Delay what passes between any two nodes by `ms` each way; None: no delay."""
        ...

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The (source, destination) pairs cut now, sorted."""
        ...


class ClusterNode(Protocol):
    """One node's process. Methods may be called from any thread; one thread at a time per node."""

    name: str
    folder: Path  # data folder
    log_path: Path  # stderr and stdout of all its lives
    address: str  # host:port by which peers know it
    faults: Any  # what `faults_factory` made, else None
    own_exits: list[int]  # codes of processes that ended though nobody ended them, as far as noted

    @property
    def pid(self) -> int | None: ...
    @property
    def is_running(self) -> bool:
        """There is a process (it may be paused)."""
        ...

    @property
    def is_paused(self) -> bool: ...
    @property
    def exit_code(self) -> int | None:
        """Of the last process: negative for a signal; None while one runs, or before the first."""
        ...

    def start(self) -> None:
        """Start a process; returns before it serves (`wait_serving`). Raises SetupError when one runs."""
        ...

    def wait_serving(self, timeout_s: float = 30.0) -> None:
        """Return when the control port answers; raises SetupError with the end of the log when it does not."""
        ...

    def note_exit(self) -> None:
        """Look whether the process has ended by itself, and note it in `own_exits`; start, kill and stop do so, too."""
        ...

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Nothing to do when none runs."""
        ...

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and wait; SIGKILL when it takes too long. Returns the exit code."""
        ...

    def wipe(self) -> None:
        """Delete the data folder; raises SetupError when the process runs."""
        ...

    def client(self, timeout_s: float = 5.0) -> NodeClient:
        """A new connection of its own, for one thread; raises Failed."""
        ...


@dataclass(frozen=True, slots=True)
class FinalState:
    """A node's state once all are idle. `content`: sha256 of schema and rows, read through SQL on that node."""

    applied_index: int
    state_hash: str
    content: str
    divergences: int


class Cluster(Protocol):
    """Context manager: entering starts the nodes and waits until all vote; leaving removes everything but `folder`."""

    kind: str  # "namespaces" or "loopback"
    folder: Path
    wanted_roles: WantedRoles | None  # None: every member votes

    @property
    def nodes(self) -> Sequence[ClusterNode]: ...
    @property
    def network(self) -> Network: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def node(self, name: str) -> ClusterNode: ...
    def leader(self) -> ClusterNode | None: ...
    def statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """Each answering node's status, by its name."""
        ...

    def roles(self) -> dict[str, str]:
        """Node name to role ("voter", "standby", "spare") as the leader has it; empty without one leader."""
        ...

    def unsettled(self) -> str:
        """Why roles are not as `wanted_roles` says; empty when they are, or nothing is wanted."""
        ...

    def wait_healthy(self, timeout_s: float = 60.0) -> None: ...
    def final_states(self, timeout_s: float = 60.0) -> dict[str, FinalState]: ...
    def remove_member(self, name: str, timeout_s: float = 30.0) -> None: ...
    def add_member(self, name: str, timeout_s: float = 60.0) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Sizes in bytes, small enough that a short run compacts its log and sends snapshots.

    leaving_s: how long a drained member is given no role.
    """

    compact_log_bytes: int = 4 * 1024 * 1024
    log_tail_bytes: int = 512 * 1024
    segment_bytes: int = 1024 * 1024
    disk_reserve_bytes: int = 16 * 1024 * 1024
    leaving_s: float = 4.0
    log_level: str = "info"


# From a node's name to what its process finds in its environment besides the suite's own.
ProcessEnvironment = Callable[[str], Mapping[str, str]]
FaultsFactory = Callable[[ClusterNode], Any]
