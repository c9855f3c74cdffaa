"""Requests about members that are passed on to the leader: it ends first, and its answer arrives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dqlite_py.node.fields import TIMEOUT_S
from dqlite_py.node.member_services import MemberServices


class Parts:
    """`asked`: (method, timeout_s, answer_s) of what went to the leader; `ends`: the deadlines of what is done here."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, float]] = []
        self.ends: list[float] = []
        self.writes = self
        self.membership = SimpleNamespace(view=list, remove=self._remove)

    async def on_leader(
        self, method: str, body: Any, deadline: Any, _here: Any, *, answer_s: float = 0.0
    ) -> None:
        request = body() if callable(body) else body
        assert request["timeout_s"] <= deadline.timeout_s
        self.asked.append((method, request["timeout_s"], answer_s))

    async def _remove(self, _node_id: int, deadline: Any) -> None:
        self.ends.append(deadline.timeout_s)


async def test_a_leader_refuses_a_removal_before_the_node_that_asked_gives_up() -> None:
    """Found by reading: both waited for as long, so that the reason came too late and the outcome was unknown."""
    parts: Any = Parts()
    services = MemberServices(parts)
    await services.remove(None, {"id": 5})
    ((method, timeout_s, answer_s),) = parts.asked
    assert method == "leader.remove"
    assert 0 < timeout_s <= TIMEOUT_S
    assert answer_s > 0
    await services.leader_remove(None, {"id": 5, "timeout_s": 3.0})
    await services.leader_remove(None, {"id": 5})  # of an earlier release
    assert parts.ends == [3.0, TIMEOUT_S]
