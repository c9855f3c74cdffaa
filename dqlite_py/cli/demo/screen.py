"""The demo's display: one live screen on a terminal, plain lines elsewhere. Draws only; loop thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dqlite_py.cli.demo.client import NodeStatus
from dqlite_py.cli.demo.ledger import Ledger

EVENTS_SHOWN = 9
PLAIN_EVERY_S = 1.0


@dataclass(slots=True)
class NodeView:
    """What the screen knows of one node; `status` is None while it does not answer."""

    name: str
    address: str
    is_running: bool = False
    status: NodeStatus | None = None


@dataclass(slots=True)
class DemoState:
    nodes: list[NodeView]
    ledger: Ledger
    started_s: float
    phase: str = "starting"
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def leader(self) -> NodeView | None:
        """The running leader of the highest term."""
        leaders = [
            n for n in self.nodes if n.is_running and n.status is not None and n.status.state == "leader"
        ]
        return max(leaders, key=lambda n: n.status.term if n.status else 0, default=None)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _latency(ledger: Ledger, node: str | None = None) -> str:
    return f"{_ms(ledger.latency_ms(0.5, node))} / {_ms(ledger.latency_ms(0.99, node))}"


class Screen(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def refresh(self, state: DemoState) -> None: ...
    def event(self, state: DemoState, text: str) -> None: ...
    def say(self, lines: Sequence[str], style: str) -> None: ...


class LiveScreen:
    """Redrawn in place; events scroll in a panel below the table."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def refresh(self, state: DemoState) -> None:
        self._live.update(Group(self._nodes(state), self._totals(state), self._events(state)), refresh=True)

    def event(self, state: DemoState, text: str) -> None:
        state.events.append((state.elapsed_s, text))
        self.refresh(state)

    def say(self, lines: Sequence[str], style: str) -> None:
        for line in lines:
            self._console.print(line, style=style, highlight=False)

    def _nodes(self, state: DemoState) -> Table:
        table = Table(title=f"dqlite-py demo   {state.elapsed_s:4.1f} s   {state.phase}", expand=True)
        table.add_column("node")
        table.add_column("address")
        table.add_column("state")
        for column in ("term", "last", "commit", "applied", "rows acked", "p50 / p99 ms"):
            table.add_column(column, justify="right")
        leader = state.leader()
        for node in state.nodes:
            acked = f"{state.ledger.by_node[node.name]:,}"
            if not node.is_running:
                table.add_row(node.name, node.address, "killed", "", "", "", "", acked, "", style="red")
                continue
            status = node.status
            if status is None:
                table.add_row(node.name, node.address, "starting", "", "", "", "", acked, "", style="yellow")
                continue
            shown = status.state if status.role in ("voter", "-") else f"{status.state} ({status.role})"
            table.add_row(
                node.name,
                node.address,
                shown.upper() if node is leader else shown,
                str(status.term),
                f"{status.last_index:,}",
                f"{status.commit_index:,}",
                f"{status.applied_index:,}",
                acked,
                _latency(state.ledger, node.name),
                style="bold green" if node is leader else "",
            )
        return table

    def _totals(self, state: DemoState) -> Text:
        now_s, ledger = time.monotonic(), state.ledger
        text = Text(no_wrap=True, overflow="crop")
        text.append(f" {len(ledger.acknowledged):,} rows acknowledged", style="bold")
        text.append(f"   {ledger.rate(now_s):,.0f}/s   unknown {len(ledger.unknown)}   ")
        text.append(ledger.sparkline(now_s), style="cyan")
        return text

    def _events(self, state: DemoState) -> Panel:
        lines = [f"{at:5.1f} s  {text}" for at, text in state.events]
        return Panel(
            "\n".join(lines + [""] * (EVENTS_SHOWN - len(lines))), title="what happened", title_align="left"
        )


class PlainScreen:
    """A line per second and a line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def refresh(self, state: DemoState) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + PLAIN_EVERY_S
        ledger = state.ledger
        nodes = "  ".join(f"{node.name} {self._node(node)}" for node in state.nodes)
        self._line(
            state,
            f"{len(ledger.acknowledged):,} rows acknowledged, {ledger.rate(time.monotonic()):,.0f}/s, "
            f"p50 / p99 {_latency(ledger)} ms | {nodes}",
        )

    def event(self, state: DemoState, text: str) -> None:
        self._line(state, f"** {text}")

    def say(self, lines: Sequence[str], style: str) -> None:
        for line in lines:
            self._console.print(line, style=style, highlight=False, soft_wrap=True)

    def _line(self, state: DemoState, text: str) -> None:
        self._console.print(
            f"{state.elapsed_s:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )

    @staticmethod
    def _node(node: NodeView) -> str:
        if not node.is_running:
            return "killed"
        if node.status is None:
            return "starting"
        status = node.status
        return f"{status.state} {status.last_index}/{status.commit_index}/{status.applied_index}"


def make_screen(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)
