"""`dqlite-py status --watch`: ask all members again and again, and show it. Main thread, a loop of its own.

A live screen at a terminal; elsewhere a line per look, or with --json an object per line. Members that join while it
runs are asked, too. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dqlite_py.cli.cluster_view import Table, database_table, member_addresses, plain_lines, summary
from dqlite_py.cli.printing import framed, framed_width, plain_value
from dqlite_py.cli.remote import ask_statuses
from dqlite_py.cli.watch_view import Look, as_object, best_view, fitted, line, roles_line, watch_table
from dqlite_py.client.caller import Status, open_caller
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error
from dqlite_py.model import Address


class Screen(Protocol):
    """Where looks are shown."""

    def show(self, before: Look | None, now: Look) -> None: ...
    def close(self) -> None: ...


class Lines:
    def show(self, before: Look | None, now: Look) -> None:
        click.echo(f"{_time_text()} {line(before, now)}")

    def close(self) -> None:
        """Nothing is held."""


class Objects:
    def show(self, before: Look | None, now: Look) -> None:
        click.echo(json.dumps(as_object(before, now, _time_text()), default=plain_value))

    def close(self) -> None:
        """Nothing is held."""


class LiveScreen:
    def __init__(self) -> None:
        self._live = Live(console=Console(highlight=False), auto_refresh=False, screen=True)
        self._live.start()

    def show(self, before: Look | None, now: Look) -> None:
        said = [*summary(now.view), *filter(None, [roles_line(now.view)])]
        parts: list[RenderableType] = [Text(text) for text in said]
        parts.append(self._shown(watch_table(before, now)))
        databases = database_table(now.answers)
        if databases.rows:
            parts.append(self._shown(databases))
        parts.append(Text(f"{_time_text()}  Ctrl-C ends", style="dim"))
        self._live.update(Group(*parts), refresh=True)

    def _shown(self, table: Table) -> RenderableType:
        """Without frames, and without what matters least, where they do not fit; then it is cut at the right."""
        width = self._live.console.width
        if framed_width(table) <= width:
            return framed(table)
        return Text("\n".join(plain_lines(fitted(table, width))), no_wrap=True, overflow="crop")

    def close(self) -> None:
        self._live.stop()


def watch(
    servers: Sequence[Address],
    tls: TlsSettings | None,
    *,
    timeout_s: float,
    interval_s: float,
    count: int | None,
    as_json: bool,
) -> bool:
    """Look `count` times, or until Ctrl-C; returns whether the last look found a leader (before any: True)."""
    found = _Found()
    screen: Screen = Objects() if as_json else LiveScreen() if sys.stdout.isatty() else Lines()
    try:
        asyncio.run(_watch(servers, tls, screen, found, timeout_s, interval_s, count))
    except KeyboardInterrupt:
        pass
    finally:
        screen.close()
    return found.has_leader


@dataclass(slots=True)
class _Found:
    """By the last look that was shown."""

    has_leader: bool = True


async def _watch(
    servers: Sequence[Address], tls: TlsSettings | None, screen: Screen, last: _Found,
    timeout_s: float, interval_s: float, count: int | None,
) -> None:  # fmt: skip
    before: Look | None = None
    asked = list(servers)
    done = 0
    async with open_caller(tls) as caller:
        while True:
            found = await ask_statuses(caller, asked, timeout_s)
            answers: dict[str, Status | Error] = {str(address): answer for address, answer in found.items()}
            view = best_view(answers)
            now = Look(time.monotonic(), view if view is not None else _nobody(asked), answers)
            screen.show(before, now)
            last.has_leader = bool(now.view.get("leader_address"))
            done += 1
            if count is not None and done >= count:
                return
            if view is not None:
                before = now
                known = [Address(address) for address in member_addresses(view)]
                # A server by another name than its member's is asked while it is the only one that answers.
                asked = known if any(isinstance(answers.get(a), dict) for a in known) else [*known, *servers]
                asked = list(dict.fromkeys(asked))
            await asyncio.sleep(interval_s)


def _nobody(asked: Sequence[Address]) -> dict[str, Any]:
    return {"members": [{"address": address} for address in asked]}


def _time_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
