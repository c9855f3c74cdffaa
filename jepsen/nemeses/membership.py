"""Changes that operators make: members that leave and join, leaders that hand over."""

from __future__ import annotations

import random
from typing import Final

from jepsen.cluster.api import Cluster
from jepsen.cluster.client import ClientError
from jepsen.nemeses.base import (
    FAILED,
    NO_EFFECT,
    REFUSED,
    STOPPED,
    Base,
    Value,
    forget_notes,
    leader_or_any,
    pick,
    wait_whole,
)

_TRANSFER_S: Final = 5.0


class MemberChange(Base):
    """A member, often the leader, is removed and wiped; later it joins again as a new one."""

    name = "member"
    nodes_min = 3
    own_exits = frozenset((STOPPED, REFUSED, FAILED))
    spares_majority = True

    def __init__(self) -> None:
        super().__init__()
        self._removed: str | None = None

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._removed = None
        wait_whole(cluster)
        leader, is_leader = leader_or_any(cluster, rng)
        node = leader if rng.random() < 0.3 else pick(cluster, rng)[0]
        self._removed = node.name
        cluster.remove_member(node.name)
        forget_notes(node)
        return {"removed": node.name, "was-leader": is_leader and node is leader}

    def _stop(self, cluster: Cluster) -> Value:
        if self._removed is None:
            return None
        cluster.add_member(self._removed)
        return {"joined": self._removed}


class Transfer(Base):
    """The leader hands over to another node, twice per fault."""

    name = "transfer"
    nodes_min = 2
    spares_majority = True

    def __init__(self) -> None:
        super().__init__()
        self._rng = random.Random(0)
        self._refusals: list[str] = []

    def _start(self, cluster: Cluster, rng: random.Random) -> Value:
        self._rng = random.Random(rng.random())
        self._refusals = []
        return self._transfer(cluster)

    def _stop(self, cluster: Cluster) -> Value:
        value = self._transfer(cluster)
        if len(self._refusals) == 2:
            value[NO_EFFECT] = f"both transfers were refused: {'; '.join(self._refusals)}"
        return value

    def _transfer(self, cluster: Cluster) -> dict[str, str]:
        value = _transfer(cluster, self._rng)
        self._refusals += [value["refused"]] if "refused" in value else []
        return value


def _transfer(cluster: Cluster, rng: random.Random) -> dict[str, str]:
    """A refusal is a result as well: the leader may just have lost its office."""
    leader, is_leader = leader_or_any(cluster, rng)
    target = rng.choice([node for node in cluster.nodes if node is not leader])
    value = {"from": leader.name, "to": target.name}
    if not is_leader:
        return {**value, "refused": "there is no leader"}
    try:
        with leader.client(_TRANSFER_S) as client:
            ids = {member["address"]: member["id"] for member in client.members()}
            if target.address not in ids:
                return {**value, "refused": f"{target.name} is no member"}
            client.transfer(ids[target.address])
    except ClientError as error:
        return {**value, "refused": str(error)}
    return value
