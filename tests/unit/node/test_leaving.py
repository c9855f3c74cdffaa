"""A node that leaves asks until its vote is another's, and stops with it when nobody takes it in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dqlite_py.errors import MembershipRefused, NodeStopped, NoLeader, OutcomeUnknown
from dqlite_py.node import leaving
from dqlite_py.node.drain import before_stop
from dqlite_py.node.leaving import leave


class Leaving:
    """A node of a cluster of `members`; the leader answers each request with the next of `answers`, then always."""

    def __init__(self, *answers: BaseException | None, members: int = 3) -> None:
        self.node_id = 7
        self.core = SimpleNamespace(configuration=SimpleNamespace(members=[None] * members))
        self.membership = SimpleNamespace()
        self.transactions = SimpleNamespace(running=set)
        self.failed: BaseException | None = None
        self.writes = self
        self.asked: list[Any] = []
        self._answers = list(answers)

    async def on_leader(self, method: str, body: Any, _deadline: Any, _here: Any) -> None:
        self.asked.append((method, body()["id"]))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_PAUSE_S", 0.0)


async def test_the_next_leader_is_asked_again() -> None:
    node: Any = Leaving(
        OutcomeUnknown("the leader died"), NoLeader("none yet"), MembershipRefused("not yet"), None
    )
    assert await leave(node, 60.0)
    assert node.asked == [("leader.leave", 7)] * 4


async def test_it_stops_with_its_vote_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    node: Any = Leaving(MembershipRefused("no other member could take it over"))
    assert not await leave(node, 0.001)
    assert "stopping with the vote" in caplog.text
    assert "no other member" in caplog.text


async def test_alone_or_not_told_to_it_asks_nobody() -> None:
    alone: Any = Leaving(None, members=1)
    assert not await leave(alone, 60.0)
    told_nothing: Any = Leaving(None)
    await before_stop(told_nothing, 0.0, 0.0)
    failed: Any = Leaving(None)
    failed.failed = NodeStopped("the disk")
    await before_stop(failed, 0.0, 60.0)
    assert alone.asked == told_nothing.asked == failed.asked == []
    well: Any = Leaving(None)
    await before_stop(well, 0.0, 60.0)
    assert len(well.asked) == 1
