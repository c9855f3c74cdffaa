"""RF-10: stock decides which chunk of a big entry is the last by the wrong length, so some sizes near a
multiple of 64 KiB raise on the follower. Ours frames carry the length and a CRC; every size comes out
as it went in."""

from __future__ import annotations

import pickle
import struct

import pytest

from tests.faults.stock import StockWorld

pytestmark = pytest.mark.rf("RF-10")

BOUNDARY = 2 * 64 * 1024
UNPICKLING = (EOFError, IndexError, ValueError, struct.error, pickle.UnpicklingError)  # of a cut entry


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    wedged = []
    for size in range(BOUNDARY - 80, BOUNDARY + 8, 4):
        stock_world.reset()
        a = stock_world.start("AB")[0]
        stock_world.elect("A")
        a._applyCommand(b"x" * size, None, 1)  # 1: a no-op, its content does not matter
        a.doTick(0)
        try:
            stock_world.pump()
        except UNPICKLING:
            wedged.append(size)
    assert wedged
    assert all(BOUNDARY - 60 < size < BOUNDARY for size in wedged)
