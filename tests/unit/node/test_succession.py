"""What a node does that learns of a recovered cluster, and its notes on disk."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dqlite_py.errors import CorruptState, InterfaceError, MalformedMessage, OperationalError, WrongCluster
from dqlite_py.model import Address, NodeId
from dqlite_py.node import joining, opening, succession, superseded
from dqlite_py.node.joining import Joined
from dqlite_py.node.settings import NodeSettings
from dqlite_py.node.startup import load_identity
from dqlite_py.node.succession import Predecessor, Recovery, Rejoin
from dqlite_py.node.superseded import Successor, find_successors, set_aside, why_not
from dqlite_py.offline.rejoin import note_rejoin, plan_rejoin
from dqlite_py.ports import SystemDisk, disk_error
from dqlite_py.raft.journal import Identity
from tests.support.folders import fingerprint, flip

OLD, NEW, OTHER = bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16
A, B, C = Address("127.0.0.1:1"), Address("127.0.0.1:2"), Address("127.0.0.1:3")


def status(cluster: bytes, *predecessors: Predecessor, leader: int = 0) -> dict[str, Any]:
    recovered = [p.to_wire() for p in predecessors]
    return {"cluster_id": cluster.hex(), "leader_id": leader, "recovered_from": recovered}


def find(answers: dict[Address, dict[str, Any]]) -> tuple[list[Successor], bool]:
    async def ask(address: Address) -> dict[str, Any]:
        return answers[address]

    return asyncio.run(find_successors(ask, answers, OLD))


def test_successors_are_those_that_name_our_cluster() -> None:
    taken = Predecessor(OLD, 3, 40)
    found, has_leader = find({A: status(NEW, taken), B: status(NEW, taken), C: status(OLD)})
    assert (found, has_leader) == ([Successor(NEW, taken, (A, B))], False)
    assert find({A: status(NEW, Predecessor(OTHER, 3, 40)), B: {}}) == ([], False)
    assert find({A: status(OLD, taken, leader=7)}) == ([], True)  # ours is no successor of itself
    chain = find({A: status(NEW, Predecessor(OTHER, 1, 1), taken)})
    assert chain[0][0].took_over == taken


def test_a_second_recovery_may_have_begun_with_less() -> None:
    """Found by reading: a node that had just joined the first one, and had nothing yet, can be recovered, too."""
    all_of_it = status(OTHER, Predecessor(OLD, 3, 40), Predecessor(NEW, 4, 41))
    assert find({A: all_of_it})[0][0].took_over == Predecessor(OLD, 3, 40)
    a_part = status(OTHER, Predecessor(OLD, 3, 40), Predecessor(NEW, 2, 17))
    (successor,), _ = find({A: a_part})
    assert successor.took_over == Predecessor(OLD, 2, 17)
    assert "ends at index 40" in str(why_not([successor], False, (3, 40)))


@pytest.mark.parametrize("cluster", [NEW, OTHER])
async def test_the_cluster_to_join_may_have_been_recovered_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: bytes
) -> None:
    """Found by reading: the node's old files were set aside, and it could then join neither."""

    async def join(*_arguments: object) -> Joined:
        return Joined(
            cluster, (Predecessor(OLD, 3, 40), *([Predecessor(NEW, 4, 50)] if cluster != NEW else []))
        )

    monkeypatch.setattr(opening, "join_cluster", join)
    disk, folder = SystemDisk(), str(tmp_path)
    rejoin = Rejoin(OLD, NEW, "before-rejoin-1", (A,))
    succession.write_rejoin(disk, folder, rejoin)
    identity = load_identity(disk, folder, 0)
    transport = SimpleNamespace(advertised_address=lambda: B, identity_changed=lambda: None)
    inbound = SimpleNamespace(set_cluster=lambda _id: None)
    settings = NodeSettings(directory=folder, listen=B)
    opened = await opening._membership(disk, settings, 1.0, identity, transport, inbound, rejoin)  # type: ignore[arg-type]
    opened.journal.close()
    assert opened.identity.cluster_id == cluster
    assert succession.read_rejoin(disk, folder) is None


@pytest.mark.parametrize(
    "answer",
    [
        {"cluster_id": "zz"},
        {"cluster_id": NEW.hex(), "recovered_from": 7},
        {"cluster_id": NEW.hex(), "recovered_from": [[OLD, 1]]},
        {"cluster_id": NEW.hex(), "recovered_from": [[OLD, -1, 2]]},
        {"cluster_id": NEW.hex(), "recovered_from": [[OLD[:5], 1, 2]]},
        {"cluster_id": NEW.hex(), "recovered_from": [[OLD, 1, 2]] * 65},
    ],
)
def test_malformed_answers_are_none(answer: dict[str, Any]) -> None:
    assert find({A: answer}) == ([], False)


def test_it_goes_over_by_itself_only_when_nothing_is_lost() -> None:
    one = [Successor(NEW, Predecessor(OLD, 3, 40), (A,))]
    assert why_not(one, False, (3, 40)) is None
    assert why_not(one, False, (2, 99)) is None
    assert "ends at index 41" in str(why_not(one, False, (3, 41)))
    assert "index 1 of term 4" in str(why_not(one, False, (4, 1)))
    assert "it lives" in str(why_not(one, True, (1, 1)))
    two = [*one, Successor(OTHER, Predecessor(OLD, 3, 40), (B,))]
    assert "more than once" in str(why_not(two, False, (1, 1)))


def test_notes_on_disk(tmp_path: Path) -> None:
    disk, folder = SystemDisk(), str(tmp_path)
    assert succession.read_predecessors(disk, folder) == ()
    assert succession.read_rejoin(disk, folder) is None
    assert succession.read_recovery(disk, folder) is None
    several = tuple(Predecessor(bytes([n]) * 16, n, n) for n in range(70))
    succession.write_predecessors(disk, folder, several)
    assert succession.read_predecessors(disk, folder) == several[-succession.PREDECESSORS_MAX :]
    rejoin = Rejoin(OLD, NEW, "before-rejoin-1", (A, B))
    succession.write_rejoin(disk, folder, rejoin)
    assert succession.read_rejoin(disk, folder) == rejoin
    recovery = Recovery(OLD, NEW, "before-recovery-1", A)
    succession.write_recovery(disk, folder, recovery)
    assert succession.read_recovery(disk, folder) == recovery
    with pytest.raises(OperationalError, match="interrupted"):
        load_identity(disk, folder, 1)
    for name, read in (
        (succession.RECOVERED, succession.read_predecessors),
        (succession.REJOIN, succession.read_rejoin),
        (succession.RECOVERING, succession.read_recovery),
    ):
        flip(tmp_path / name, -1)
        with pytest.raises(CorruptState, match=name):
            read(disk, folder)


def test_a_note_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    disk, folder = SystemDisk(), str(tmp_path)
    for aside in ("..", "a/b", "", "."):
        succession.write_rejoin(disk, folder, Rejoin(OLD, NEW, aside, (A,)))
        with pytest.raises(CorruptState):
            succession.read_rejoin(disk, folder)
    with pytest.raises(MalformedMessage):
        succession.predecessors_from_wire([[OLD, True, 1]])


def old_folder(path: Path) -> None:
    path.mkdir()
    disk = SystemDisk()
    for name in ("journal", "state", "incoming"):
        (path / name).mkdir()
        (path / name / "file").write_text(name)
    (path / "hardstate").write_text("hardstate")
    (path / "LOCK").touch()
    Identity(OLD, NodeId(5), 1).save(disk, str(path))
    succession.write_rejoin(disk, str(path), Rejoin(OLD, NEW, "before-rejoin-1", (A,)))


class FailingDisk(SystemDisk):
    """Nothing is renamed, made or removed from the n-th time on."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise disk_error(5)

    def rename(self, old: str, new: str) -> None:
        self._count()
        super().rename(old, new)

    def mkdir(self, path: str) -> None:
        self._count()
        super().mkdir(path)

    def unlink(self, path: str) -> None:
        self._count()
        super().unlink(path)


def test_setting_aside_is_completed_wherever_it_was_interrupted(tmp_path: Path) -> None:
    step = 0
    while True:
        folder = tmp_path / str(step)
        old_folder(folder)
        try:
            set_aside(FailingDisk(step), str(folder))
        except OSError:
            assert (
                Identity.load(SystemDisk(), str(folder)) is not None
            )  # still the old one: more may be to be moved
            interrupted = True
        else:
            interrupted = False
        rejoin = set_aside(SystemDisk(), str(folder))
        assert rejoin is not None
        assert rejoin.new == NEW
        left = {path.name for path in folder.iterdir()}
        assert left == {"LOCK", succession.REJOIN, "before-rejoin-1"}
        moved = {path.name for path in (folder / "before-rejoin-1").iterdir()}
        assert moved == {"journal", "state", "incoming", "hardstate", "identity"}
        before = fingerprint(folder)
        assert set_aside(SystemDisk(), str(folder)) == rejoin  # again: nothing is left to do
        assert fingerprint(folder) == before
        if not interrupted:
            break
        step += 1
    assert step > 5


def test_a_note_is_done_when_the_folder_is_of_the_new_cluster(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    old_folder(folder)
    disk = SystemDisk()
    set_aside(disk, str(folder))
    Identity(NEW, NodeId(6), 1).save(disk, str(folder))
    assert set_aside(disk, str(folder)) is None
    assert not (folder / succession.REJOIN).exists()
    assert superseded.ASIDE_PREFIX in {path.name[:-2] for path in folder.iterdir()}


@pytest.mark.parametrize("moved", range(9))
def test_the_cluster_to_join_may_have_moved(tmp_path: Path, moved: int) -> None:
    """Found by reading: once its files were set aside, a node could be told no other address to join by, and half-way
    they went into two folders."""
    folder = tmp_path / "node"
    old_folder(folder)
    with contextlib.suppress(OSError):
        set_aside(FailingDisk(moved), str(folder))
    if Identity.load(SystemDisk(), str(folder)) is None:
        load_identity(SystemDisk(), str(folder), 1)
    plan = plan_rejoin(str(folder), C, status(OTHER, Predecessor(OLD, 3, 40), Predecessor(NEW, 4, 50)))
    assert plan == Rejoin(OLD, OTHER, "before-rejoin-1", (C,))
    note_rejoin(str(folder), plan)
    assert set_aside(SystemDisk(), str(folder)) == plan
    with pytest.raises(InterfaceError, match="not recovered from"):
        plan_rejoin(str(folder), C, status(OTHER, Predecessor(NEW, 4, 50)))


class Asked:
    """A transport whose members answer a join as told."""

    def __init__(self, answers: dict[Address, Any]) -> None:
        self.answers = answers
        self.asked: list[Address] = []

    def advertised_address(self) -> Address:
        return Address("127.0.0.1:9")

    def identity_changed(self) -> None:
        pass

    async def call(self, address: Address, method: str, body: dict[str, Any], _timeout_s: float) -> Any:
        assert (method, body["cluster_id"]) == ("join", NEW)
        self.asked.append(address)
        answer = self.answers[address]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_who_rejoins_asks_whom_the_operator_named_too(tmp_path: Path) -> None:
    """Found by reading: only the noted addresses were asked, though the cluster may have moved since; and a node of the
    old cluster among them ended it. What an interrupted join elsewhere had noted of its past stayed."""
    disk, folder = SystemDisk(), str(tmp_path)
    rejoin = Rejoin(OLD, NEW, "before-rejoin-1", (A,))
    succession.write_rejoin(disk, folder, rejoin)
    succession.write_predecessors(disk, folder, (Predecessor(OTHER, 1, 1),))
    identity = load_identity(disk, folder, 0)
    transport = Asked({A: WrongCluster("the old one"), B: {"cluster_id": NEW}})
    inbound = SimpleNamespace(set_cluster=lambda _id: None)
    settings = NodeSettings(directory=folder, listen=transport.advertised_address(), join=(A, B))
    opened = await opening._membership(disk, settings, 20.0, identity, transport, inbound, rejoin)  # type: ignore[arg-type]
    opened.journal.close()
    assert transport.asked == [A, B]
    assert opened.identity.cluster_id == NEW
    assert opened.predecessors == ()
    with pytest.raises(WrongCluster):
        await joining.join_cluster(Asked({A: WrongCluster("no")}), NodeId(1), (A,), 20.0, NEW)  # type: ignore[arg-type]


def test_a_note_that_cannot_be_done_any_more_goes(tmp_path: Path) -> None:
    """Found by reading: after a join of what continues the noted cluster, or a recovery of this folder, it stayed."""
    folder = tmp_path / "node"
    old_folder(folder)
    disk = SystemDisk()
    Identity(OTHER, NodeId(6), 1).save(disk, str(folder))
    assert set_aside(disk, str(folder)) is None
    assert not (folder / succession.REJOIN).exists()
    assert (folder / "journal").exists()
