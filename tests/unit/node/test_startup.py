"""node.startup: creation survives a power loss at every write; a folder with a part missing does not start."""

from __future__ import annotations

import pytest

from dqlite_py.errors import CorruptJournal, CorruptState, WrongCluster
from dqlite_py.model import Address, HardState, NodeId, Role, Term
from dqlite_py.node.startup import (
    NO_CLUSTER,
    OpenFolder,
    create_folder,
    load_identity,
    open_folder,
    reconcile,
)
from dqlite_py.raft.journal import Identity, JournalBatch
from dqlite_py.storage.manifest import Manifest
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import entries

FOLDER = "/node"
CLUSTER = bytes(range(16))
ADDRESS = Address("127.0.0.1:9001")


def create(disk: FaultDisk, cluster: bytes = CLUSTER) -> OpenFolder:
    """What app.Node does with a folder: finish its creation or open it."""
    identity = load_identity(disk, FOLDER, 1)
    if identity.cluster_id == NO_CLUSTER:
        owner = Identity(cluster, identity.node_id, identity.created_us)
        return create_folder(disk, FOLDER, owner, bootstrap=ADDRESS)
    return open_folder(disk, FOLDER, identity)


def test_bootstrap_makes_one_voter_of_term_one() -> None:
    disk = FaultDisk(FOLDER)
    opened = create(disk)
    assert opened.journal.hard_state == HardState(Term(1), NodeId(0))
    (configuration,) = opened.log.configurations
    (member,) = configuration.members
    assert (member.address, member.role, configuration.index) == (ADDRESS, Role.VOTER, 1)
    opened.journal.close()


@pytest.mark.parametrize("loss", [Loss.DROP, Loss.KEEP, Loss.TEAR])
def test_creation_survives_power_loss_at_every_change(loss: Loss) -> None:
    whole = FaultDisk(FOLDER)
    create(whole).journal.close()
    for change in range(1, whole.change_count + 1):
        disk = FaultDisk(FOLDER)
        disk.power_fails_at = change
        with pytest.raises(PowerLoss):
            create(disk).journal.close()
        after = disk.after_power_loss(loss, seed=change)
        after.mkdir(FOLDER)
        opened = create(after)
        assert opened.journal.last_index == 1, f"power lost at change {change}"
        opened.journal.close()


def test_an_interrupted_join_keeps_its_node_id() -> None:
    disk = FaultDisk(FOLDER)
    first = load_identity(disk, FOLDER, 1)
    again = load_identity(disk.after_power_loss(Loss.DROP), FOLDER, 2)
    assert first.node_id == again.node_id
    assert again.cluster_id == NO_CLUSTER


def test_a_lost_identity_is_not_taken_for_a_new_folder() -> None:
    disk = FaultDisk(FOLDER)
    create(disk).journal.close()
    disk.unlink(f"{FOLDER}/identity")
    with pytest.raises(CorruptState, match="identity"):
        create(disk)


def test_a_lost_journal_is_refused() -> None:
    disk = FaultDisk(FOLDER)
    opened = create(disk)
    opened.journal.write([JournalBatch(hard_state=HardState(Term(2), NodeId(7)))])
    opened.journal.close()
    for name in disk.listdir(f"{FOLDER}/journal"):
        disk.unlink(f"{FOLDER}/journal/{name}")
    with pytest.raises(CorruptJournal, match="missing"):
        create(disk)


def test_a_lost_hard_state_is_refused() -> None:
    disk = FaultDisk(FOLDER)
    create(disk).journal.close()
    disk.unlink(f"{FOLDER}/hardstate")
    with pytest.raises(CorruptState, match="hard state"):
        create(disk)


def test_another_clusters_folder_is_refused() -> None:
    disk = FaultDisk(FOLDER)
    create(disk).journal.close()
    mine = Identity.load(disk, FOLDER)
    assert mine is not None
    with pytest.raises(WrongCluster):
        open_folder(disk, FOLDER, Identity(bytes(range(1, 17)), mine.node_id, 1))


@pytest.mark.parametrize(
    ("last", "term", "kept"),
    [
        pytest.param(20, 1, 20, id="log contains the snapshot: kept"),
        pytest.param(5, 1, 10, id="log ends before it: superseded"),
        pytest.param(20, 2, 10, id="log conflicts with it: superseded"),
    ],
)
def test_reconcile_finishes_an_interrupted_installation(last: int, term: int, kept: int) -> None:
    disk = FaultDisk(FOLDER)
    opened = create(disk)
    opened.journal.write([JournalBatch(entries=entries(2, last))])
    at = Manifest(CLUSTER, index=10, term=term, configuration=opened.log.configurations[0], databases=())
    opened.state.write_manifest(at)
    reconcile(opened.journal, opened.state)
    assert opened.journal.last_index == kept
    assert opened.journal.term_at(10) == term
    opened.journal.close()


def test_a_log_that_begins_after_the_state_is_refused() -> None:
    disk = FaultDisk(FOLDER)
    opened = create(disk)
    opened.journal.reset(50, 1)
    with pytest.raises(CorruptState, match="entries between are lost"):
        reconcile(opened.journal, opened.state)
    opened.journal.close()
