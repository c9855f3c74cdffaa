"""Every nemesis on a cluster in memory: what it does and says, that it leaves nothing behind, what it never exceeds."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from jepsen.errors import SetupError
from jepsen.nemeses import NEMESES, Nemesis, NemesisError
from tests.jepsen.conftest import MakeCluster
from tests.jepsen.fake_nodes import FakeCluster, is_whole

SEEDS = range(12)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("name", NEMESES)
def test_every_nemesis_says_what_it_does_and_undoes_it(make: MakeCluster, name: str, count: int) -> None:
    cluster = make(count)
    nemesis = NEMESES[name]()
    assert isinstance(nemesis, Nemesis)
    assert nemesis.name == name
    assert type(nemesis).__doc__
    assert nemesis.missing(cluster) is None
    rng = random.Random(name)
    for _ in range(4):
        started = nemesis.start(cluster, rng)
        stopped = nemesis.stop(cluster)
        assert json.loads(json.dumps([started, stopped])) == [started, stopped], "plain data"
        assert "failed" not in json.dumps(started).replace('"failed": 0', "")
        assert is_whole(cluster), (started, stopped)
    assert nemesis.violations == []


@pytest.mark.parametrize("name", NEMESES)
def test_final_undoes_a_fault_that_was_never_stopped(make: MakeCluster, name: str) -> None:
    cluster = make(5)
    for seed in SEEDS:
        nemesis = NEMESES[name]()
        nemesis.start(cluster, random.Random(seed))
        nemesis.final(cluster)
        assert is_whole(cluster), seed


def test_one_seed_makes_one_choice(make: MakeCluster) -> None:
    values: list[list[Any]] = []
    for _ in range(2):
        values.append([])
        for kind in NEMESES.values():
            cluster, nemesis = make(5), kind()
            values[-1] += [nemesis.start(cluster, random.Random(3)), nemesis.stop(cluster)]
    assert values[0] == values[1]


def test_a_nemesis_that_cannot_work_here_says_why(make: MakeCluster) -> None:
    three, bare, single = make(3), make(3, has_faults=False), make(1)
    needs_faults = {name for name, kind in NEMESES.items() if kind().missing(bare)}
    assert needs_faults == {"clock-jump", "clock-drift", "disk-full", "disk-errors", "power-loss"}
    assert "FaultKit" in str(NEMESES["power-loss"]().missing(bare))
    works_alone = {name for name, kind in NEMESES.items() if not kind().missing(single)}
    assert works_alone == {
        *("kill-one", "kill-all", "pause-one", "clock-jump", "clock-drift", "disk-full", "power-loss"),
    }
    assert "at least 3 nodes" in str(NEMESES["partition-ring"]().missing(single))
    assert all(kind().missing(three) is None for kind in NEMESES.values())
    assert NEMESES["mixed"]().start(bare, random.Random(1)) is not None, "it leaves out what it cannot do"


# -- processes


def test_kills_and_pauses_hit_whom_they_say(make: MakeCluster) -> None:
    cluster = make(5)
    victims = set()
    for seed in SEEDS:
        for name, most in (("kill-one", 1), ("kill-some", 2), ("pause-one", 1), ("pause-some", 2)):
            nemesis = NEMESES[name]()
            (chosen,) = nemesis.start(cluster, random.Random(seed)).values()
            down = [node.name for node in cluster.nodes if not node.is_running or node.is_paused]
            assert down == chosen
            assert 1 <= len(chosen) <= most
            victims.add(tuple(chosen))
            nemesis.stop(cluster)
    assert len(victims) >= 8, "different ones"
    nemesis = NEMESES["kill-all"]()
    assert sorted(nemesis.start(cluster, random.Random(1))["killed"]) == ["n1", "n2", "n3", "n4", "n5"]
    assert not any(node.is_running for node in cluster.nodes)


def test_a_node_that_does_not_start_is_named_and_the_others_start(make: MakeCluster) -> None:
    cluster = make(3)
    nemesis = NEMESES["kill-all"]()
    nemesis.start(cluster, random.Random(1))
    broken = cluster.node("n2")
    good_start = broken.start

    def no_start() -> None:
        raise SetupError("no more processes")

    broken.start = no_start
    with pytest.raises(NemesisError, match="n2: no more processes"):
        nemesis.stop(cluster)
    assert [node.is_running for node in cluster.nodes] == [True, False, True]
    broken.start = good_start
    nemesis.final(cluster)
    assert is_whole(cluster)


# -- networks


def heard_by(cluster: FakeCluster, name: str) -> set[str]:
    return {node.name for node in cluster.nodes if (node.name, name) not in cluster.network.cuts}


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_in_the_ring_everybody_hears_a_different_majority(make: MakeCluster, count: int) -> None:
    cluster = make(count)
    for seed in SEEDS:
        nemesis = NEMESES["partition-ring"]()
        value = nemesis.start(cluster, random.Random(seed))
        heard = {node.name: heard_by(cluster, node.name) for node in cluster.nodes}
        assert {name: set(others) for name, others in value["hears"].items()} == heard
        assert all(len(others) == count // 2 + 1 and name in others for name, others in heard.items())
        assert len({frozenset(others) for others in heard.values()}) == count
        nemesis.stop(cluster)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_partitions_cut_between_their_sides_only(make: MakeCluster, count: int) -> None:
    cluster = make(count)
    for seed in SEEDS:
        for name in ("partition-one", "partition-halves", "partition-leader"):
            nemesis = NEMESES[name]()
            value = nemesis.start(cluster, random.Random(seed))
            small, large = value["sides"]
            assert len(small) <= count // 2
            assert sorted(small + large) == [node.name for node in cluster.nodes]
            assert set(cluster.network.cuts) == {
                pair for a in small for b in large for pair in ((a, b), (b, a))
            }
            if name == "partition-leader":
                assert value["leader"] == small[0] == "n1"
            nemesis.stop(cluster)
        nemesis = NEMESES["partition-one-way"]()
        value = nemesis.start(cluster, random.Random(seed))
        assert set(cluster.network.cuts) == {(a, b) for a in value["from"] for b in value["to"]}
        nemesis.stop(cluster)


def test_without_a_leader_somebody_else_is_taken_and_it_says_so(make: MakeCluster) -> None:
    cluster = make(3)
    cluster.leader_name = None
    value = NEMESES["partition-leader"]().start(cluster, random.Random(1))
    assert value["leader"] is None
    assert len(value["sides"][0]) == 1
    assert NEMESES["transfer"]().start(cluster, random.Random(1))["refused"] == "there is no leader"


def test_leadership_is_handed_over(make: MakeCluster) -> None:
    cluster = make(3)
    nemesis = NEMESES["transfer"]()
    value = nemesis.start(cluster, random.Random(1))
    assert value["from"] == "n1"
    assert cluster.leader_name == value["to"] != "n1"
    assert nemesis.stop(cluster)["from"] == value["to"]


# -- clocks and disks


def test_clocks_jump_and_drift_within_bounds(make: MakeCluster) -> None:
    cluster = make(3)
    offsets, rates = [], []
    for seed in range(40):
        jump, drift = NEMESES["clock-jump"](), NEMESES["clock-drift"]()
        for name, offset_s in jump.start(cluster, random.Random(seed))["offset-s"].items():
            assert cluster.node(name).faults.clock.offset_s == offset_s
            offsets.append(abs(offset_s))
        jump.stop(cluster)
        for name, rate in drift.start(cluster, random.Random(seed))["rate"].items():
            assert cluster.node(name).faults.clock.rate == rate
            rates.append(abs(rate - 1))
        drift.stop(cluster)
    assert min(offsets) < 0.1 < 1000 < max(offsets) <= 4 * 3600
    assert min(rates) < 0.005 < 0.1 < max(rates) <= 0.31


def test_disk_faults_hit_whom_they_say(make: MakeCluster) -> None:
    cluster = make(5)
    for seed in SEEDS:
        full, errors = NEMESES["disk-full"](), NEMESES["disk-errors"]()
        value = full.start(cluster, random.Random(seed))
        for node in cluster.nodes:
            assert node.faults._get("has_quota") == (node.name in value["nodes"])
            assert not node.faults._get("has_quota") or node.faults._get("free_bytes") == value["free-bytes"]
        full.stop(cluster)
        value = errors.start(cluster, random.Random(seed))
        assert len(value["nodes"]) <= 2, "never more than a minority"
        failing = [
            node.name
            for node in cluster.nodes
            if any(node.faults._get(f"{value['call']}_{what}") for what in ("failures", "chance"))
        ]
        assert failing == value["nodes"]
        errors.stop(cluster)


def test_power_fails_for_one_some_or_all_at_once(make: MakeCluster) -> None:
    cluster = make(5)
    counts = set()
    for seed in range(20):
        nemesis = NEMESES["power-loss"]()
        cluster.events.clear()
        value = nemesis.start(cluster, random.Random(seed))
        victims = list(value["lost"])
        counts.add(len(victims))
        assert cluster.events == [f"pause {name}" for name in victims] + [f"kill {name}" for name in victims]
        assert nemesis.stop(cluster) == {"started": victims}
    assert counts == {1, 2, 5}
