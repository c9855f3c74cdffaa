"""Where members are: addresses set by an operator, machines that were swapped, names that point elsewhere later."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dqlite_py
from dqlite_py.cli.demo.processes import free_addresses
from dqlite_py.cli.main import main
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as started:
        leader_of(started).connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
        yield started


def addresses(node: dqlite_py.Node) -> dict[int, str]:
    return {member["id"]: member["address"] for member in node.members()}


def write(node: dqlite_py.Node, value: int) -> None:
    node.connect("app", isolation_level=None).execute("INSERT INTO t VALUES (?)", (value,))


def set_address(asked: dqlite_py.Node, member: int, address: str) -> Any:
    words = ["cluster", "set-address", "--json", "-s", asked.address, str(member), address]
    return CliRunner().invoke(main, words)


def by_name(address: str) -> str:
    return address.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_an_operator_sets_an_address_that_stays(nodes: list[dqlite_py.Node], who: str) -> None:
    leader = leader_of(nodes)
    target = leader if who == "leader" else next(node for node in nodes if node is not leader)
    asked = next(node for node in nodes if node not in (leader, target))
    for node in nodes:  # else it tells its own once more
        wait_until(lambda node=node: node._running().presence._is_address_told, "it knows that it is known")
    result = set_address(asked, target.node_id, by_name(target.address))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "id": target.node_id,
        "address": by_name(target.address),
        "advertised": target.address,
    }
    for node in nodes:
        wait_until(
            lambda node=node: addresses(node)[target.node_id] == by_name(target.address), "all know it"
        )
    write(target, 1)
    check_same_state(nodes)


def test_a_typo_loses_no_member(nodes: list[dqlite_py.Node], tmp_path: Path) -> None:
    leader = leader_of(nodes)
    target, other = (node for node in nodes if node is not leader)
    before = addresses(leader)
    (nobody,) = free_addresses(1)
    with dqlite_py.Node(tmp_path / "foreign") as foreign:
        foreign.wait_ready()
        refused = {
            nobody: "does not answer",
            by_name(other.address): f"node {other.node_id}",
            foreign.address: "cluster",
            "no.such.host.invalid:9001": "does not answer",
        }
        for address, why in refused.items():
            result = set_address(other, target.node_id, address)
            assert result.exit_code == 1, result.output
            assert why in result.output, result.output
    result = set_address(other, 4711, target.address)
    assert (result.exit_code, "no member has the id 4711" in result.output) == (1, True)
    assert addresses(leader) == before


@pytest.mark.parametrize("count", [2, 3])
def test_machines_swap_their_addresses(nodes: list[dqlite_py.Node], tmp_path: Path, count: int) -> None:
    """Every new address is another member's old one."""
    where = [node.address for node in nodes]
    ids = [node.node_id for node in nodes]
    for node in nodes[:count]:
        node.stop(hand_over=False)
    moved = where[1:count] + where[:1] + where[count:]
    for position in range(count):
        others = [address for address in moved if address != moved[position]]
        node = dqlite_py.Node(tmp_path / f"n{position}", listen=moved[position], join=others)
        nodes[position] = node.start()
    expected = dict(zip(ids, moved, strict=True))
    for node in nodes:
        wait_until(lambda node=node: addresses(node) == expected, f"the addresses are {expected}")
    for number, node in enumerate(nodes):
        write(node, number)
    check_same_state(nodes)


class Names:
    """A name service whose answers change: name -> the loopback address of now."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.asked: list[str] = []

    async def look_up(self, _loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        self.asked.append(host)
        if host not in self.now:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.now[host], port))]


def test_names_point_to_other_machines_while_the_cluster_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each member moves to another address behind its name, one by one: no change of the configuration is needed."""
    names = Names()
    monkeypatch.setattr("dqlite_py.raft.dialer._look_up", names.look_up)
    ports = [address.rpartition(":")[2] for address in free_addresses(3)]
    hosts = [f"n{number}.example" for number in range(3)]
    nodes: list[dqlite_py.Node] = []

    def start(number: int, ip: str) -> dqlite_py.Node:
        names.now[hosts[number]] = ip
        return dqlite_py.Node(
            tmp_path / f"n{number}",
            listen=f"{ip}:{ports[number]}",
            advertise=f"{hosts[number]}:{ports[number]}",
            join=[] if number == 0 else [f"{hosts[0]}:{ports[0]}"],
            insecure=True,
        ).start()

    try:
        for number in range(3):
            nodes.append(start(number, "127.0.0.1"))
            nodes[-1].wait_ready()
        for node in nodes:
            wait_until(lambda node=node: sum(m["role"] == "voter" for m in node.members()) == 3, "all vote")
        leader_of(nodes).connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
        before = addresses(nodes[0])
        for number in range(3):
            nodes[number].stop()
            names.now.pop(hosts[number])  # for a while the name is not known at all
            nodes[number] = start(number, "127.0.0.2")
            wait_until(
                lambda: all(member["connected"] for member in leader_of(nodes).members()), "all are back"
            )
            write(nodes[(number + 1) % 3], number)
            check_same_state(nodes)
        assert addresses(nodes[0]) == before
        assert set(names.asked) == set(hosts)
    finally:
        for node in nodes:
            node.stop(hand_over=False)
