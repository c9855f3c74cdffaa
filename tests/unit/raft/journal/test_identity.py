"""Whose folder it is: written whole or not at all."""

from __future__ import annotations

import struct

import pytest

from dqlite_py.errors import CorruptState, UnknownFormat
from dqlite_py.nativelib import crc32c
from dqlite_py.raft.journal import Identity
from dqlite_py.raft.journal.format import pack_envelope
from dqlite_py.raft.journal.identity import MAGIC
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import CLUSTER, FOLDER, NODE

MINE = Identity(CLUSTER, NODE, 1_700_000_000_000_000)
PATH = FOLDER + "/identity"


def test_it_survives_power_loss() -> None:
    disk = FaultDisk(FOLDER)
    assert Identity.load(disk, FOLDER) is None
    MINE.save(disk, FOLDER)
    assert Identity.load(disk.after_power_loss(Loss.DROP), FOLDER) == MINE
    assert disk.open_count == 0


def test_a_crash_leaves_the_old_or_the_new_one() -> None:
    old = Identity(bytes(16), NODE, 1)
    for change in range(1, 20):
        disk = FaultDisk(FOLDER)
        old.save(disk, FOLDER)
        disk.power_fails_at = disk.change_count + change
        try:
            MINE.save(disk, FOLDER)
        except PowerLoss:
            for loss in Loss:
                for seed in range(5):
                    assert Identity.load(disk.after_power_loss(loss, seed), FOLDER) in (old, MINE)
        else:
            break
    assert change > 4


@pytest.mark.parametrize("size", [0, 1, 16, 67, 69])
def test_another_length_is_damage(size: int) -> None:
    disk = FaultDisk(FOLDER)
    MINE.save(disk, FOLDER)
    disk.put(PATH, (disk.contents(PATH) + b"x")[:size])
    with pytest.raises(CorruptState, match="identity damaged"):
        Identity.load(disk, FOLDER)


def test_a_newer_format_is_named() -> None:
    start = struct.pack("<8sI", MAGIC, 7)
    disk = FaultDisk(FOLDER)
    disk.put(PATH, start + crc32c(start).to_bytes(4, "little") + b"whatever")
    with pytest.raises(UnknownFormat, match="identity format 7"):
        Identity.load(disk, FOLDER)


@pytest.mark.parametrize("node_id", [0, 2**63])
def test_impossible_node_ids_are_refused(node_id: int) -> None:
    body = struct.pack("<16s16sQQ16x", pack_envelope(MAGIC), CLUSTER, node_id, 0)
    disk = FaultDisk(FOLDER)
    disk.put(PATH, body + crc32c(body).to_bytes(4, "little"))
    with pytest.raises(CorruptState, match="node id"):
        Identity.load(disk, FOLDER)
