"""Roles at rest: final states that must pass, and every one that must not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jepsen.checkers.roles import WantedRoles, check_roles, unsettled
from jepsen.nemeses.roles import Roles
from jepsen.run import healing
from tests.jepsen.conftest import MakeCluster

NODES = ["n1", "n2", "n3", "n4", "n5"]
ROLES = ("voter", "voter", "voter", "standby", "standby")
DOMAINS = (1, 2, 3, 1, 2)
WANTED = WantedRoles(3, 2)
Look = dict[str, dict[str, Any]]


def look(roles: tuple[str, ...] = ROLES, domains: tuple[int, ...] = DOMAINS) -> Look:
    """What five nodes say; n1 leads."""
    members = [
        {"id": i, "address": f"n{i}:1", "role": role, "domain": domain, "connected": True, "reachable": True}
        for i, (role, domain) in enumerate(zip(roles, domains, strict=True), 1)
    ]
    return {
        name: {"is_leader": name == "n1", "leader_id": 1, "members": members if name == "n1" else []}
        for name in NODES
    }


def said(found: Look, wanted: WantedRoles = WANTED) -> str:
    return unsettled(found, NODES, wanted)


def test_roles_at_rest() -> None:
    assert said(look()) == ""
    assert said(look(domains=(1, 1, 2, 2, 3))) == "domain 1 has 2 voters, domain 3 has 0 and a member for one"
    assert said(look(domains=(1, 1, 2, 2, 1))) == "", "two and one is the best there is"
    assert said(look(domains=(0, 0, 0, 0, 0))) == ""
    assert said(look(("voter", "voter", "voter", "standby", "spare")), WantedRoles(3, 1)) == ""
    assert said(look(("voter", "voter", "voter", "voter", "voter")), WantedRoles(5, 2)) == ""
    assert said(look(), WantedRoles(7, 0)) == "3 voters where 5 are wanted"
    assert said(look(), WantedRoles(3, 9)) == ""


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("voter", "voter", "standby", "standby", "standby"), "2 voters where 3 are wanted"),
        (("voter", "voter", "voter", "voter", "standby"), "4 voters where 3 are wanted"),
        (("voter", "voter", "voter", "standby", "spare"), "1 stand-bys where 2 are wanted, 1 spares"),
        (("voter", "voter", "spare", "standby", "standby"), "2 voters where 3 are wanted"),
        (("standby", "voter", "voter", "voter", "standby"), "the leader has no vote"),
    ],
)
def test_numbers_that_are_not_as_wanted(roles: tuple[str, ...], message: str) -> None:
    assert said(look(roles)) == message


def _absent(found: Look) -> None:
    del found["n4"]


def _two_leaders(found: Look) -> None:
    found["n2"]["is_leader"] = True


def _no_leader(found: Look) -> None:
    found["n1"]["is_leader"] = False


def _apart(found: Look) -> None:
    found["n1"]["members"][3]["connected"] = False


def _unreachable(found: Look) -> None:
    found["n1"]["members"][3]["reachable"] = False


def _other_leader(found: Look) -> None:
    found["n5"]["leader_id"] = 2


def _lost_member(found: Look) -> None:
    found["n1"]["members"].pop()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_absent, "n4 does not answer"),
        (_two_leaders, "2 leaders"),
        (_no_leader, "0 leaders"),
        (_apart, "n4:1 is not online"),
        (_unreachable, "n4:1 is not online"),
        (_other_leader, "n5 does not follow the leader"),
        (_lost_member, "4 members where there are 5 nodes"),
    ],
)
def test_a_cluster_that_is_not_whole_is_not_at_rest(break_it: Callable[[Look], None], message: str) -> None:
    found = look()
    break_it(found)
    assert said(found) == message
    assert check_roles([look(), found], NODES, WANTED, 1.0).valid is False


def test_the_verdict_wants_rest() -> None:
    other = look(("voter", "voter", "standby", "standby", "voter"), (1, 2, 3, 1, 3))
    first = look(domains=(1, 2, 3, 1, 3))
    assert said(other) == said(first) == ""
    assert check_roles([first, first, first], NODES, WANTED, 1.0).valid is True
    verdict = check_roles([first, other], NODES, WANTED, 1.0)
    assert (verdict.valid, verdict.summary) == (
        False,
        "settled, and then changed again though nothing happened",
    )
    assert check_roles([], NODES, WANTED, 1.0).valid is None


def test_roles_that_never_settle_are_a_violation(make: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make(5)
    cluster.wanted_roles = WANTED
    monkeypatch.setattr(healing.time, "sleep", lambda _s: None)
    cluster.statuses = look
    assert healing.settle(cluster, 0.05).valid is True
    cluster.statuses = lambda: look(("voter", "voter", "standby", "standby", "standby"))
    cluster.unsettled = lambda: unsettled(cluster.statuses(), NODES, WANTED)
    verdict = healing.settle(cluster, 0.05)
    assert verdict.valid is False
    assert verdict.summary.endswith("2 voters where 3 are wanted")


# -- the nemesis ----------------------------------------------------------------------------------------------


def test_every_kind_of_change_comes_in_turn(make: MakeCluster) -> None:
    cluster, nemesis, rng = make(5), Roles(), random.Random(4)
    kinds = []
    for _ in range(4):
        started = nemesis.start(cluster, rng)
        kinds.append(started["kind"])
        assert "refused" not in started
        if started["kind"] == "kill":
            assert started["replaced"] is True
        nemesis.stop(cluster)
        assert cluster.is_automatic
    assert sorted(kinds) == ["assign", "drain", "kill", "weights"]
    assert cluster.wanted_roles == WANTED
    assert nemesis.violations == []


def test_a_dead_voter_that_keeps_its_vote_is_a_violation(
    make: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepsen.nemeses.roles.REPLACED_S", 0.0)
    cluster, nemesis = make(5), Roles()
    cluster.replaces_nobody = True
    assert nemesis.start(cluster, random.Random(1))["replaced"] is False
    assert "kept its vote" in nemesis.violations[0]


def test_an_assignment_that_is_not_refused_is_a_violation(make: MakeCluster) -> None:
    cluster, nemesis, rng = make(5), Roles(), random.Random(1)
    cluster.assigns_always = True
    for _ in range(4):
        nemesis.start(cluster, rng)
        nemesis.stop(cluster)
    assert ["was not refused" in violation for violation in nemesis.violations] == [True]
