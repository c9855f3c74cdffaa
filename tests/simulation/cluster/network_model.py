"""What the simulated network is told: its faults, and the parts of scheduler and loop it uses. No behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Event(Protocol):
    """Something planned."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """The scheduler as the network sees it; times in simulated seconds."""

    @property
    def now(self) -> float: ...
    def call_at(self, when: float, fn: Callable[..., Any], *args: Any) -> Event: ...
    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Event: ...


class Life(Protocol):
    """One life of a node: its event loop, which ignores what it is asked for after its death."""

    @property
    def is_alive(self) -> bool: ...
    def call_soon(self, callback: Callable[..., Any], *args: Any) -> object: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def call_exception_handler(self, context: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class NetworkFaults:
    """May be changed at any time. Times in seconds, `(least, most)`; probabilities per segment unless said."""

    delay_s: tuple[float, float] = (0.0002, 0.001)
    bytes_per_s: float = 125e6
    late: float = 0.0
    """A segment that is lost once and comes `late_s` later; everything behind it waits."""
    late_s: tuple[float, float] = (0.2, 1.0)
    split: float = 0.05
    """A segment arrives in two parts."""
    reset: float = 0.0
    """The connection is reset instead."""
    refuse: float = 0.0
    """Of a connection attempt: refused although somebody listens."""
    retransmit_s: tuple[float, float] = (0.2, 1.0)
    """After a path is whole again, until what was held back is sent again."""
    syn_retry_s: float = 1.0
    """Until a lost connection request is repeated; doubles."""
    timeout_s: float = 15.0
    """A connection with bytes not acknowledged for so long is given up, and so is an attempt to connect."""
    window_bytes: int = 256 * 1024
    """Written, but not yet read by the other process: one direction of a connection holds no more."""


@dataclass(slots=True)
class NetworkCounts:
    """What happened so far, for reports on coverage."""

    segments: int = 0
    late: int = 0
    splits: int = 0
    resets: int = 0
    refused: int = 0
    connected: int = 0
    syns_lost: int = 0
    held: int = 0
    recovered: int = 0
    timeouts: int = 0
    resets_for_strangers: int = 0
