"""RF-9: stock lets any number of configuration changes be under way, uses each at once, and takes the
start arguments after a restart. Ours takes the latest configuration in log or snapshot, allows one
change of one voter at a time and only after an entry of the current term is committed, and rolls back
what is truncated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dqlite_py import Node as DatabaseNode
from dqlite_py.errors import MembershipRefused
from dqlite_py.model import Role
from tests.faults.ours import CoreWorld, Node, member, node_id
from tests.faults.stock import Outcomes, SimNode, StockWorld

pytestmark = pytest.mark.rf("RF-9")


def test_stock_has_the_fault(stock_world: StockWorld) -> None:
    """An isolated leader removes both others and commits alone; so do the others without it."""
    a, b, c = stock_world.start("ABC", dynamicMembershipChange=True)
    stock_world.elect("A")
    stock_world.isolate("A")
    outcomes = Outcomes()
    for peer in "BC":
        a.removeNodeFromCluster(SimNode(peer), callback=outcomes.callback(f"remove {peer}"))
    a.op("only on A", callback=outcomes.callback("only on A"))
    for _ in range(3):
        a.doTick(0)
    stock_world.elect("B", among="BC")
    b.op("only on B", callback=outcomes.callback("only on B"))
    stock_world.settle("BC")
    assert sorted(outcomes.succeeded()) == ["only on A", "only on B", "remove B", "remove C"]
    assert a.data == ["only on A"]
    assert b.data == c.data == ["only on B"]


def test_stock_starts_from_its_arguments(stock_world: StockWorld) -> None:
    """Three nodes grew to five; two restart with the old list and elect a leader beside the other three."""
    a = stock_world.start("ABC", dynamicMembershipChange=True)[0]
    stock_world.elect("A")
    for name in "DE":
        stock_world.start_one(name, "ABCDE" if name == "E" else "ABCD", dynamicMembershipChange=True)
        a.addNodeToCluster(SimNode(name))
        a.doTick(0)
        stock_world.pump()
        stock_world.connect_all()
        stock_world.settle(rounds=12)
    assert {len(node.otherNodes) for node in stock_world.nodes.values()} == {4}
    for name in "AB":
        stock_world.crash(name)
        stock_world.start_one(name, "ABC", dynamicMembershipChange=True)
    stock_world.connect("AB")
    stock_world.elect("A", among="AB")
    stock_world.elect("C", among="CDE")
    leaders = [name for name, node in stock_world.nodes.items() if node.state == "leader"]
    assert sorted(leaders) == ["A", "C"]  # A with two of five


def change(node: Node, name: str, role: Role | None) -> None:
    """Propose that member `name` has `role` (None: is no member)."""
    current = node.core.configuration
    new = current.without(node_id(name)) if role is None else current.with_member(member(name, role))
    node.core.propose_configuration(new, node.world.now)
    node.settle_effects()


def test_ours_is_closed() -> None:
    """The isolated leader may begin one removal, cannot commit it alone, and rolls it back afterwards."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    change(a, "B", None)
    assert a.core.configuration.voters == {node_id("A"), node_id("C")}
    with pytest.raises(MembershipRefused):
        change(a, "C", None)
    a.propose(b"only on A")
    b = world.elect("B", among="BC")
    b.propose(b"only on B")
    world.pump("BC")
    world.heartbeat("B", among="BC")
    assert b.acknowledged == [b"only on B"]
    world.connect("AB", "AC")
    world.run(2_000)
    assert a.acknowledged == []
    assert a.applied == b.applied == world["C"].applied == [b"only on B"]
    assert a.core.configuration.voters == b.core.configuration.voters == {1, 2, 3}


def test_ours_waits_for_an_entry_of_its_own_term() -> None:
    """The single-server bug of 2015: a change before the new term's first commit breaks majorities apart."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("A")
    b = world["B"]
    world.now += 10_000
    b.campaign()
    for _ in range(3):
        world.deliver("B", "C")
        if not b.is_leader:
            world.deliver("C", "B")
    assert b.is_leader
    with pytest.raises(MembershipRefused):
        change(b, "A", None)
    world.pump("BC")
    world.heartbeat("B", among="BC")
    change(b, "A", None)
    assert a.core.configuration.voters == {1, 2, 3}


def test_ours_starts_from_its_log() -> None:
    """Three nodes grew to five; two of them restart after a power cut and cannot elect anybody."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    for name in "DE":
        world.start(name)
        world.connect_all()
        for role in (Role.STANDBY, Role.VOTER):
            change(a, name, role)
            world.pump()
            world.heartbeat("A")
    assert len(a.core.committed_configuration.voters) == 5
    for name in "AB":
        assert len(world.restart(name).core.configuration.voters) == 5
    world.connect("AB")
    world.run(10_000, among="AB")
    assert not {"A", "B"} & set(world.leaders())
    c = world.elect("C", among="CDE")
    c.propose(b"value")
    world.pump("CDE")
    assert c.acknowledged == [b"value"]


def test_ours_never_campaigns_before_it_is_added() -> None:
    world = CoreWorld()
    node = world.start("D")
    world.run(10_000)
    assert node.state == "follower"
    assert node.term == 0


def test_ours_follows_a_leader_that_its_old_configuration_does_not_hold() -> None:
    """C was down while D joined and took over: requests are taken without asking one's own configuration."""
    world = CoreWorld("ABC")
    a = world.elect("A")
    world.isolate("C")
    world.start("D")
    world.connect("AD", "BD")
    for role in (Role.STANDBY, Role.VOTER):
        change(a, "D", role)
        world.pump("ABD")
        world.heartbeat("A", among="ABD")
    d = world.elect("D", among="ABD")
    d.propose(b"value")
    world.pump("ABD")
    world.heartbeat("D", among="ABD")
    c = world["C"]
    assert node_id("D") not in c.core.configuration.voters
    world.connect("CD")
    world.run(2_000)
    assert c.applied == [b"value"]
    assert node_id("D") in c.core.configuration.voters
    assert d.is_leader


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.02)


def voters(node: DatabaseNode) -> int:
    return sum(member["role"] == "voter" for member in node.members())


def test_ours_follows_it_with_whole_nodes(tmp_path: Path) -> None:
    """The same with sockets, disks and databases: the returning node hears, answers and dials its unknown leader."""
    with ExitStack() as running:

        def start(name: str, *join: str, listen: str = "127.0.0.1:0") -> DatabaseNode:
            node = DatabaseNode(tmp_path / name, listen=listen, join=join)
            running.callback(node.stop, hand_over=False)
            return node.start()

        a = start("a")
        a.wait_ready()
        start("b", a.address)
        c = start("c", a.address)
        wait_for(lambda: voters(a) == 3, "three voters")
        wait_for(lambda: len(c.members()) == 3, "C knows that it is one")
        address = c.address
        c.stop()
        d = start("d", a.address)
        wait_for(lambda: voters(a) == 4, "four voters")
        a.transfer_leadership(d.node_id)
        wait_for(lambda: d.status()["state"] == "leader", "D leads")
        c = start("c", listen=address)
        wait_for(lambda: len(c.members()) == 4, "C learns of D")
        assert c.status()["leader_id"] == d.node_id
