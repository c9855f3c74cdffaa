"""node.snapshot_install: a fetched state that the log has overtaken meanwhile is thrown away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from dqlite_py.node.snapshot_install import SnapshotInstall


async def test_a_snapshot_that_is_not_needed_any_more_changes_nothing() -> None:
    done: list[Any] = []

    async def on_worker(function: Any, *args: Any) -> None:
        function(*args)

    install: Any = object.__new__(SnapshotInstall)
    core = SimpleNamespace(
        wants_snapshot=lambda index: index > 10,
        snapshot_failed=lambda now_ms: done.append(("failed", now_ms)),
    )
    install._host = SimpleNamespace(core=core)
    install._compaction = SimpleNamespace(lock=asyncio.Lock())
    install._folder = SimpleNamespace(discard=lambda path: done.append(("discarded", path)))
    install._on_worker = on_worker
    install._now_ms = lambda: 7.0
    await install._install(SimpleNamespace(snapshot=SimpleNamespace(index=10), generation_path="g2"))
    assert done == [
        ("discarded", "g2"),
        ("failed", 7.0),
    ]  # databases and view were not touched: there are none here
