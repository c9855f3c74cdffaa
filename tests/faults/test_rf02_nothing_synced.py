"""RF-2: stock acknowledges entries that no fsync, fdatasync or msync has made durable. Ours acknowledges
only what a majority has fdatasynced: the core counts a node only when told that its journal batch is
durable, and after a power cut the journal holds every entry it was told so about."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pysyncobj.journal as stock_journal
import pytest

from tests.faults.stock import Outcomes, StockWorld

pytestmark = pytest.mark.rf("RF-2")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_has_the_fault(
    stock_world: StockWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: Counter[str] = Counter()

    class CountingMap(mmap.mmap):
        def flush(self, *args: Any) -> None:
            syncs["msync"] += 1
            super().flush(*args)

    def counting(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            syncs[name] += 1
            return real(*args)

        return call

    monkeypatch.setattr(stock_journal, "mmap", SimpleNamespace(mmap=CountingMap))
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, counting(name))
    a, b, c = stock_world.start("ABC", journalFile=str(tmp_path / "%s.journal"))
    stock_world.elect("A")
    outcomes = Outcomes()
    for value in range(50):
        a.op(value, callback=outcomes.callback(value))
    stock_world.settle()
    assert len(outcomes.succeeded()) == 50
    assert a.data == b.data == c.data
    assert not syncs  # acknowledged by all three, and nobody has asked the disk for anything
    folder = os.open(tmp_path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert syncs == {"fsync": 1}  # the counter counts
