"""Roles that the leader keeps, while voters go, members are drained, and operators change what is wanted."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from jepsen.checkers.roles import STANDBY, VOTER, WantedRoles
from jepsen.cluster.api import Cluster, ClusterNode
from jepsen.cluster.client import ClientError
from jepsen.nemeses.base import NO_EFFECT, WHOLE_S, Base, NemesisError, Value, ensure_running, pick

VOTERS: Final = 3
GONE_AFTER_MS: Final = 1_500
REPLACED_S: Final = 30.0  # a voter that is gone, with a stand-by at hand
CHANGE_S: Final = 6.0
TRIES_S: Final = 20.0
DOMAINS: Final = (1, 1, 2, 2, 3)
WEIGHT_MAX: Final = 3
REFUSED: Final = "MembershipRefused"
_POLL_S: Final = 0.1
_KINDS: Final = ("kill", "drain", "assign", "weights")


class Roles(Base):
    """Three voters and stand-bys kept by the leader, over failure domains: a voter is killed for longer than it takes
    to replace it, roles are assigned by hand, a member is drained, weights and domains change."""

    name = "roles"
    nodes_min = 3
    spares_majority = True

    def __init__(self) -> None:
        super().__init__()
        self._deck: list[str] = []
        self._killed: list[ClusterNode] = []
        self._is_kept = False  # the numbers are in the configuration
        self._by_hand = False

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._killed = []
        if not self._is_kept:
            self._describe(cluster, rng)
            self._keep(cluster)
        self._wait_settled(cluster)
        if not self._deck:
            rest = list(_KINDS[2:])
            rng.shuffle(rest)
            self._deck = [*_KINDS[:2], *rest]  # a short run sees at least those
        kind = self._deck.pop(0)
        value: dict[str, Any] = {"kind": kind}
        try:
            value |= getattr(self, f"_{kind}")(cluster, rng)
        except ClientError as error:  # the leader may just have lost its office
            value["refused"] = str(error)
        return value

    def _stop(self, cluster: Cluster) -> Value:
        started = ensure_running(self._killed)
        if self._by_hand:
            self._keep(cluster)
        return {"started": started}

    def final(self, cluster: Cluster) -> Value:
        value = super().final(cluster)
        if self._by_hand:
            self._keep(cluster)
        return value

    # -- the faults -------------------------------------------------------------------------------------------

    def _kill(self, cluster: Cluster, rng: random.Random) -> dict[str, Any]:
        """Down until its vote is another's; where there is no stand-by it just is down."""
        roles = cluster.roles()
        victim = self._of(cluster, rng, roles, VOTER)
        if victim is None:
            return {NO_EFFECT: "no leader told who votes"}
        self._killed = [victim]
        victim.kill()
        if STANDBY not in roles.values():
            return {"killed": victim.name}
        begin = time.monotonic()
        while cluster.roles().get(victim.name, VOTER) == VOTER:
            if time.monotonic() - begin > REPLACED_S:
                self.violations.append(
                    f"{victim.name} kept its vote for {REPLACED_S:g} s, dead, beside a stand-by"
                )
                return {"killed": victim.name, "replaced": False}
            time.sleep(_POLL_S)
        return {"killed": victim.name, "replaced": True}

    def _assign(self, cluster: Cluster, rng: random.Random) -> dict[str, Any]:
        """Refused while the leader keeps the roles; by hand, a stand-by and a voter change places."""
        roles = cluster.roles()
        voter = self._of(cluster, rng, roles, VOTER)
        standby = self._of(cluster, rng, roles, STANDBY)
        if voter is None or standby is None:
            return {NO_EFFECT: "there is no stand-by"} if voter else {NO_EFFECT: "no leader told who votes"}
        asked = pick(cluster, rng)[0]
        try:
            self._change(asked, "assign", {"id": self._id(asked, voter), "role": "spare"})
        except ClientError as error:
            if error.name != REFUSED:
                raise
        else:
            self.violations.append(f"assign to {voter.name} was not refused while roles are automatic")
        self._keep(cluster, automatic=False)
        self._change(asked, "assign", {"id": self._id(asked, standby), "role": VOTER})
        self._change(asked, "assign", {"id": self._id(asked, voter), "role": STANDBY})
        return {"promoted": standby.name, "demoted": voter.name}

    def _drain(self, cluster: Cluster, rng: random.Random) -> dict[str, Any]:
        voter = self._of(cluster, rng, cluster.roles(), VOTER)
        if voter is None:
            return {NO_EFFECT: "no leader told who votes"}
        asked = pick(cluster, rng)[0]
        self._change(asked, "leave", {"id": self._id(asked, voter)})
        return {"drained": voter.name}

    def _weights(self, cluster: Cluster, rng: random.Random) -> dict[str, Any]:
        return {"described": self._describe(cluster, rng)}

    # -- requests ---------------------------------------------------------------------------------------------

    def _describe(self, cluster: Cluster, rng: random.Random) -> dict[str, list[int]]:
        """New weights and domains for everybody."""
        domains = [DOMAINS[position % len(DOMAINS)] for position in range(len(cluster.nodes))]
        rng.shuffle(domains)
        drawn = {
            node.name: [rng.randint(0, WEIGHT_MAX), domain]
            for node, domain in zip(cluster.nodes, domains, strict=True)
        }
        for node in cluster.nodes:
            weight, domain = drawn[node.name]
            self._insist(cluster, "describe", {"weight": weight, "domain": domain}, node)
        return drawn

    def _keep(self, cluster: Cluster, *, automatic: bool = True) -> None:
        standbys = max(0, len(cluster.nodes) - VOTERS)
        self._by_hand = self._by_hand or not automatic
        settings = [automatic, VOTERS, standbys, GONE_AFTER_MS]
        self._insist(cluster, "roles", {"settings": settings})
        cluster.wanted_roles = WantedRoles(VOTERS, standbys)
        self._is_kept = True
        self._by_hand = not automatic

    def _insist(
        self, cluster: Cluster, method: str, body: dict[str, Any], member: ClusterNode | None = None
    ) -> None:
        """Ask one node after the other until it is done; these requests may be repeated. Raises NemesisError."""
        deadline = time.monotonic() + TRIES_S
        while True:
            for node in cluster.nodes:
                if not node.is_running:
                    continue
                try:
                    self._change(
                        node, method, body if member is None else {**body, "id": self._id(node, member)}
                    )
                except ClientError as error:
                    trouble = str(error)
                else:
                    return
            if time.monotonic() > deadline:
                raise NemesisError(f"{method} was not done within {TRIES_S:g} s: {trouble}")
            time.sleep(_POLL_S)

    @staticmethod
    def _change(node: ClusterNode, method: str, body: dict[str, Any]) -> None:
        with node.client(CHANGE_S) as client:
            client.change(method, body)

    @staticmethod
    def _id(asked: ClusterNode, member: ClusterNode) -> int:
        """Raises NemesisError: nobody leaves the cluster under this nemesis."""
        with asked.client(CHANGE_S) as client:
            for known in client.members():
                if known["address"] == member.address:
                    return int(known["id"])
        raise NemesisError(f"{asked.name} knows no member {member.name}")

    @staticmethod
    def _of(cluster: Cluster, rng: random.Random, roles: dict[str, str], role: str) -> ClusterNode | None:
        order = list(cluster.nodes)
        rng.shuffle(order)  # drawn in any case: later choices do not hang on timing
        return next((node for node in order if roles.get(node.name) == role), None)

    @staticmethod
    def _wait_settled(cluster: Cluster) -> None:
        """Before a voter goes: the others are there, and somebody can take its place. Raises NemesisError."""
        deadline = time.monotonic() + WHOLE_S
        while trouble := cluster.unsettled():
            if time.monotonic() > deadline:
                raise NemesisError(f"roles have not settled within {WHOLE_S:g} s: {trouble}")
            time.sleep(_POLL_S)
