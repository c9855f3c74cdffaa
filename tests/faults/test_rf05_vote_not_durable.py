"""RF-5: stock forgets term and vote at a restart unless it has a journal file, and reads a damaged meta
file as "never voted" without a word. Ours writes term and vote to two checked slots and fdatasyncs them
BEFORE any message that reveals them leaves; damage of both slots stops the node with CorruptState."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.stock import StockNode, StockWorld

pytestmark = pytest.mark.rf("RF-5")


def leaders_after_a_restart_of_the_voter(
    world: StockWorld, damage: Path | None, **conf: Any
) -> list[StockNode]:
    """B votes for A in term 1, restarts, and is asked by C for its vote in term 1."""
    a, _b, c = world.start("ABC", **conf)
    world.disconnect("AC")
    a.campaign()
    world.deliver("A", "B")
    world.deliver("B", "A")
    assert a.state == "leader"
    world.disconnect("AB")
    world.crash("B")
    if damage is not None:
        assert damage.stat().st_size > 0
        damage.write_bytes(b"")  # what a power cut leaves of a file that was renamed without fsync
    world.start_one("B", "ABC", **conf)
    world.connect("BC")
    c.campaign()
    world.deliver("C", "B")
    world.deliver("B", "C")
    return [node for node in (a, c) if node.state == "leader" and node.term == 1]


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    assert len(leaders_after_a_restart_of_the_voter(stock_world, damage=None)) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damaged", [False, True])
def test_stock_swallows_damage_of_the_meta_file(
    stock_world: StockWorld, tmp_path: Path, damaged: bool
) -> None:
    leaders = leaders_after_a_restart_of_the_voter(
        stock_world,
        damage=tmp_path / "B.journal.meta" if damaged else None,
        journalFile=str(tmp_path / "%s.journal"),
    )
    assert len(leaders) == (2 if damaged else 1)
