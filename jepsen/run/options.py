"""What a run is asked to do, and what came out. Plain records; no logic beyond validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jepsen.errors import SetupError
from jepsen.verdict import Verdict

KINDS: Final = ("auto", "namespaces", "loopback")
NODES_MAX: Final = 9
_FLAGS: Final = {"time_s": "--time", "rate": "--rate"}


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. Times are seconds, `rate` is operations per second of each workload.

    `kind`: "namespaces", "loopback", or "auto" (namespaces where the rights allow it).
    `clients`: threads per workload, spread over the nodes in turn. Raises SetupError for an impossible value.
    """

    time_s: float = 30.0
    seed: int = 1
    kind: str = "auto"
    nodes: int = 5
    clients: int = 10
    rate: float = 100.0
    request_timeout_s: float = 2.5
    heal_timeout_s: float = 60.0
    pictures: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SetupError(f"--kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if not 1 <= self.nodes <= NODES_MAX:
            raise SetupError(f"--nodes is {self.nodes}; a cluster of the suite has 1 to {NODES_MAX}")
        for name in ("time_s", "rate", "request_timeout_s", "heal_timeout_s"):
            if not 0 < getattr(self, name) < 1e6:
                flag = _FLAGS.get(name, name)
                raise SetupError(f"{flag} is {getattr(self, name)}; give a positive number")
        if self.clients < 1:
            raise SetupError(f"--clients is {self.clients}; at least one is needed")


@dataclass(slots=True)
class Result:
    """One run of one workload under one nemesis, with its folder. `started`: ISO time, local."""

    workload: str
    nemesis: str
    folder: Path
    started: str
    verdicts: list[Verdict] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # f -> {ok, fail, info}
    test: dict[str, Any] = field(default_factory=dict)  # what test.json holds

    @property
    def valid(self) -> bool | None:
        """False if any checker says so, else None if any does not know, else True."""
        return combine([verdict.valid for verdict in self.verdicts])


def combine(valids: list[bool | None]) -> bool | None:
    """The verdict of several: one False decides, then one None; nothing at all is unknown, not passed."""
    if any(valid is False for valid in valids):
        return False
    if not valids or any(valid is None for valid in valids):
        return None
    return True
