"""Reads that wait for an entry when the databases are closed: each hears (node.applier)."""

from __future__ import annotations

import asyncio
from typing import Any

from dqlite_py.node.applier import Applier


def applier() -> Applier:
    """Of a node without databases, at index 0."""

    def nothing(*_: Any) -> Any:
        return None

    return Applier(
        loop=asyncio.get_running_loop(),
        folder=nothing,  # type: ignore[arg-type]
        on_worker=nothing,
        wants_results=nothing,
        on_applied=nothing,
        on_divergence=nothing,
        on_opened=nothing,
        on_fatal=nothing,
    )


async def test_who_waits_hears_that_the_databases_are_closed() -> None:
    here = applier()
    waiting = here.when_applied("main", 5)
    await here.close()
    assert waiting is not None
    assert waiting.cancelled()


async def test_who_begins_to_wait_after_that_hears_it_too() -> None:
    """While a snapshot is put in place the closed databases are still the node's."""
    here = applier()
    await here.close()
    waiting = here.when_applied("main", 5)
    assert waiting is not None
    assert waiting.cancelled()
