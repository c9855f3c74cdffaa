"""RF-5: term and vote survive, or the node does not start."""

from __future__ import annotations

import struct

import pytest

from dqlite_py.errors import CorruptState, UnknownFormat, WrongCluster
from dqlite_py.nativelib import crc32c
from dqlite_py.raft.journal import HardStateFile
from dqlite_py.raft.journal.hardstate import MAGIC, SLOT_OFFSETS
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import CLUSTER, FOLDER, NODE, hard

pytestmark = pytest.mark.rf("RF-5")

PATH = FOLDER + "/hardstate"
SLOT_BYTES = 68


def opened(disk: FaultDisk, cluster_id: bytes = CLUSTER, node_id: int = NODE) -> HardStateFile:
    return HardStateFile.open(disk, PATH, cluster_id=cluster_id, node_id=node_id)


@pytest.fixture
def disk() -> FaultDisk:
    disk = FaultDisk(FOLDER)
    HardStateFile.create(disk, PATH, cluster_id=CLUSTER, node_id=NODE)
    return disk


def slot(disk: FaultDisk, which: int) -> bytes:
    return disk.contents(PATH)[SLOT_OFFSETS[which] :][:SLOT_BYTES]


def with_slots(first: bytes, second: bytes) -> FaultDisk:
    disk = FaultDisk(FOLDER)
    disk.put(PATH, first.ljust(SLOT_OFFSETS[1], b"\0") + second)
    return disk


def test_a_new_file_is_pristine_until_written(disk: FaultDisk) -> None:
    file = opened(disk)
    assert file.is_pristine
    assert file.value == hard(0)
    file.write(hard(4, 2**63 - 1))
    assert not file.is_pristine
    file.close()
    assert opened(disk).value == hard(4, 2**63 - 1)


def test_creation_is_durable(disk: FaultDisk) -> None:
    assert opened(disk.after_power_loss(Loss.DROP)).is_pristine


def test_both_slots_hold_the_value_when_write_returns(disk: FaultDisk) -> None:
    file = opened(disk)
    file.write(hard(1, 7))
    file.write(hard(2, 9))
    found = disk.after_power_loss(Loss.DROP)
    assert slot(found, 0) == slot(found, 1)
    for broken in (0, 1):
        slots = [slot(found, 0), slot(found, 1)]
        slots[broken] = bytes(SLOT_BYTES)
        mended = with_slots(*slots)
        assert opened(mended).value == hard(2, 9)
        assert slot(mended.after_power_loss(Loss.DROP), broken) == slot(found, broken)


def test_the_first_slot_is_durable_before_the_second_is_touched(disk: FaultDisk) -> None:
    file = opened(disk)
    file.write(hard(1, 7))
    old = slot(disk, 0)
    start = disk.change_count
    disk.power_fails_at = start + 3  # the write of the second slot
    with pytest.raises(PowerLoss):
        file.write(hard(2, 8))
    dropped, kept = disk.after_power_loss(Loss.DROP), disk.after_power_loss(Loss.KEEP)
    assert slot(dropped, 0) != old
    assert slot(dropped, 1) == old
    assert opened(dropped).value == opened(kept).value == hard(2, 8)


def test_slots_that_no_crash_explains_are_refused(disk: FaultDisk) -> None:
    file = opened(disk)
    file.write(hard(1, 7))
    older = slot(disk, 0)
    file.write(hard(2, 8))
    newer = slot(disk, 0)
    other = FaultDisk(FOLDER)
    HardStateFile.create(other, PATH, cluster_id=CLUSTER, node_id=NODE)
    rival = opened(other)
    rival.write(hard(1, 9))
    assert opened(with_slots(newer, older)).value == hard(2, 8)
    for first, second in ((older, newer), (older, slot(other, 1)), (b"", b""), (bytes(68), bytes(68))):
        with pytest.raises(CorruptState) as error:
            opened(with_slots(first, second))
        assert error.value.details["file"] == PATH
        assert "add it again" in str(error.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(CorruptState, match="missing"):
        opened(FaultDisk(FOLDER))


def test_anothers_file_is_refused(disk: FaultDisk) -> None:
    for cluster_id, node_id in ((bytes(16), NODE), (CLUSTER, NODE + 1)):
        before = disk.tree()
        with pytest.raises(WrongCluster, match="belongs to cluster"):
            opened(disk, cluster_id, node_id)
        assert disk.tree() == before
    assert disk.open_count == 0


def test_a_newer_format_is_named(disk: FaultDisk) -> None:
    start = struct.pack("<8sI", MAGIC, 2)
    newer = start + crc32c(start).to_bytes(4, "little") + bytes(500)
    for slots in ((newer, newer), (slot(disk, 0), newer)):
        with pytest.raises(UnknownFormat, match="hard state format 2") as error:
            opened(with_slots(*slots))
        assert error.value.details == {"file": PATH, "version": 2}
