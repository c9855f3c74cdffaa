"""Power loss and full disks at every step of `cluster recover` and of a rejoin: old or new, never a mixture."""

from __future__ import annotations

import errno

import pytest

from dqlite_py.errors import Error, OperationalError
from dqlite_py.model import (
    Address,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Member,
    NodeId,
    Role,
    RoleSettings,
    Term,
)
from dqlite_py.node import startup
from dqlite_py.node.startup import create_folder, load_identity, open_folder
from dqlite_py.node.succession import RECOVERING, REJOIN, Rejoin, read_predecessors, write_rejoin
from dqlite_py.node.superseded import set_aside
from dqlite_py.offline import recover as recovery
from dqlite_py.offline.recover import RecoveryPlan, recover
from dqlite_py.offline.report import FolderReport
from dqlite_py.raft.journal import Identity, JournalBatch
from dqlite_py.raft.journal.inspection import view_journal
from dqlite_py.raft.membership import decode_configuration, encode_configuration
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss

FOLDER = "/node"
OLD, NEW = bytes([1]) * 16, bytes([2]) * 16
ME, OTHER = NodeId(5), NodeId(6)
HERE, THERE = Address("127.0.0.1:1"), Address("127.0.0.1:2")
PAYLOADS = [b"entry %d" % number * 40 for number in range(12)]


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (startup, recovery):
        monkeypatch.setattr(module, "SEGMENT_BYTES", 16 * 1024)


def old_disk() -> FaultDisk:
    """A member of a cluster of two, at rest."""
    disk = FaultDisk(FOLDER)
    owner = Identity(OLD, ME, 1)
    opened = create_folder(disk, FOLDER, owner, bootstrap=HERE)
    members = (Member(ME, HERE, Role.STANDBY, weight=3, domain=7), Member(OTHER, THERE, Role.VOTER))
    both = Entry(
        LogIndex(2),
        Term(1),
        EntryKind.CONFIGURATION,
        encode_configuration(Configuration(members, settings=RoleSettings(voters=5))),
    )
    rows = [Entry(LogIndex(3 + n), Term(1), EntryKind.NOOP, payload) for n, payload in enumerate(PAYLOADS)]
    opened.journal.write([JournalBatch(hard_state=HardState(Term(4), OTHER), entries=[both, *rows])])
    opened.journal.close()
    disk.fsync_dir(FOLDER)
    disk.fsync_dir("/")
    return disk.after_power_loss(Loss.DROP)


def plan() -> RecoveryPlan:
    report = FolderReport(FOLDER, cluster_id=OLD.hex())
    return RecoveryPlan(FOLDER, report, THERE, "standby", 1, 14, 14, 0, 0, (), ())


def check_recovered(disk: FaultDisk, before: dict[str, bytes]) -> None:
    identity = load_identity(disk, FOLDER, 0)
    assert identity.cluster_id not in (OLD, bytes(16))
    assert identity.node_id == ME
    opened = open_folder(disk, FOLDER, identity)
    assert opened.state.manifest.cluster_id == identity.cluster_id
    assert [p.to_wire() for p in opened.predecessors] == [[OLD, 1, 14]]
    opened.journal.close()
    view = view_journal(disk, FOLDER, cluster_id=identity.cluster_id, node_id=ME)
    entries = list(view.entries(1))
    assert [entry.payload for entry in entries[2:-1]] == PAYLOADS
    assert [entry.index for entry in entries] == list(range(1, 16))
    assert (entries[-1].term, view.report.hard_state) == (5, HardState(Term(5), NodeId(0)))
    alone = decode_configuration(entries[-1])
    assert alone.members == (Member(ME, THERE, Role.VOTER, weight=3, domain=7),)
    assert alone.settings == RoleSettings(voters=5)
    view.close()
    tree = disk.tree()
    for name in ("identity", "hardstate"):
        assert tree[f"{FOLDER}/before-recovery-1/{name}"] == before[f"{FOLDER}/{name}"]
    segments = [path for path in before if path.endswith(".seg")]
    assert segments
    for path in segments:
        assert tree[path.replace("/journal/", "/before-recovery-1/journal/")] == before[path]


@pytest.mark.parametrize("loss", list(Loss))
def test_the_power_goes_at_any_step_of_a_recovery(loss: Loss) -> None:
    step = half_way = 0
    while True:
        step += 1
        disk = old_disk()
        before = disk.tree()
        disk.power_fails_at = disk.change_count + step
        try:
            recover(plan(), disk)
        except PowerLoss:
            is_done = False
        else:
            is_done = True
        found = disk.after_power_loss(loss, seed=step)
        if found.exists(f"{FOLDER}/{RECOVERING}"):
            half_way += 1
            with pytest.raises(OperationalError, match="interrupted"):
                load_identity(found, FOLDER, 0)
        if is_done:
            check_recovered(found, before)
            break
        identity = Identity.load(found, FOLDER)
        assert identity is not None
        if not found.exists(f"{FOLDER}/{RECOVERING}") and identity.cluster_id == OLD:  # it was not begun
            open_folder(found.after_power_loss(Loss.KEEP), FOLDER, identity).journal.close()
        if identity.cluster_id == OLD or found.exists(f"{FOLDER}/{RECOVERING}"):
            recover(plan(), found)
        check_recovered(found.after_power_loss(Loss.DROP), before)
    assert half_way > 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_call_fails_during_a_recovery(number: int) -> None:
    step = failed = 0
    while True:
        step += 1
        disk = old_disk()
        before = disk.tree()
        disk.fails_at, disk.fails_with = disk.call_count + step, number
        try:
            recover(plan(), disk)
        except (Error, OSError):
            failed += 1
            disk.after_kill()
            identity = Identity.load(disk, FOLDER)
            assert identity is not None
            if identity.cluster_id == OLD or disk.exists(f"{FOLDER}/{RECOVERING}"):
                recover(plan(), disk)
        else:
            break
        check_recovered(disk, before)
    assert failed > 50


@pytest.mark.parametrize("loss", list(Loss))
def test_the_power_goes_at_any_step_of_setting_aside(loss: Loss) -> None:
    step = 0
    while True:
        step += 1
        disk = old_disk()
        write_rejoin(disk, FOLDER, Rejoin(OLD, NEW, "before-rejoin-1", (THERE,)))
        before = {path: data for path, data in disk.tree().items() if not path.endswith(REJOIN)}
        disk.power_fails_at = disk.change_count + step
        try:
            set_aside(disk, FOLDER)
        except PowerLoss:
            is_done = False
        else:
            is_done = True
        found = disk.after_power_loss(loss, seed=step)
        rejoin = set_aside(found, FOLDER)
        assert rejoin is not None
        after = {
            path.replace("/before-rejoin-1", ""): data
            for path, data in found.after_power_loss(Loss.DROP).tree().items()
            if not path.endswith(REJOIN)
        }
        assert after == before
        identity = load_identity(found, FOLDER, 0)
        assert identity.cluster_id == bytes(16)
        if is_done:
            break
    assert step > 5
    assert read_predecessors(found, FOLDER) == ()


def test_a_note_to_rejoin_does_not_outlive_a_recovery() -> None:
    disk = old_disk()
    write_rejoin(disk, FOLDER, Rejoin(OLD, NEW, "before-rejoin-1", (THERE,)))
    recover(plan(), disk)
    assert not disk.exists(f"{FOLDER}/{REJOIN}")
