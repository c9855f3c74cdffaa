"""node.divergence: the majority decides who is wrong; without one nobody is believed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dqlite_py.command import StateHash
from dqlite_py.errors import DivergenceDetected, Error
from dqlite_py.model import Address, Configuration, Member, NodeId, Role
from dqlite_py.node import divergence as module
from dqlite_py.node.divergence import Divergence
from dqlite_py.raft.rpc import RpcNotSent

OURS, THEIRS = 0xAAAA, 0xBBBB
INDEX = 40


class View:
    """Stands in for ClusterView: who is blocked, and why."""

    def __init__(self) -> None:
        self.blocked: dict[str, Error] = {}

    def block(self, reason: str, error: Any) -> None:
        self.blocked[reason] = error()

    def unblock(self, reason: str) -> None:
        self.blocked.pop(reason, None)

    is_compared = True

    def changed(self) -> None:
        """Nobody waits here."""


class Scene:
    """Node 1 of `size` voters; `answers`: what the others say, None: not reachable."""

    def __init__(self, answers: dict[int, int | None]) -> None:
        self.answers = answers
        self.view = View()
        self.repairs = 0
        self.states: dict[str, StateHash | None] = {"app": StateHash(INDEX, OURS)}
        self.known_from = 0  # older states are forgotten by the others
        self.told: list[tuple[NodeId, Any]] = []
        members = tuple(
            Member(NodeId(i), Address(f"127.0.0.1:{9000 + i}"), Role.VOTER) for i in (1, *sorted(answers))
        )
        self.subject = Divergence(
            loop=asyncio.get_running_loop(),
            node_id=NodeId(1),
            view=self.view,  # type: ignore[arg-type]
            configuration=lambda: Configuration(members),
            local_hash=lambda _database, _index: OURS,
            states=lambda: self.states,
            call=self.call,
            repair=self.repair,
        )

    def repair(self, healthy: list[NodeId]) -> None:
        assert 1 not in healthy
        self.repairs += 1

    async def call(self, target: NodeId, method: str, body: Any, _timeout_s: float) -> Any:
        if method == "state.suspect":
            self.told.append((target, body["hash"]))
            return None
        answer = self.answers[target]
        if body["index"] < self.known_from:
            return None
        if answer is None:
            raise RpcNotSent("not reachable")
        return answer

    async def settle(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0.001)
            if self.subject.quarantined or not (self.view.blocked or not self.view.is_compared):
                return


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.001)
    monkeypatch.setattr(module, "COMPARE_AGAIN_S", 0.001)


async def test_a_question_about_a_forgotten_state_moves_to_a_newer_one() -> None:
    """Found by simulation: the others restarted, and nobody could ever answer for the claim's index."""
    scene = Scene({2: THEIRS, 3: THEIRS})
    scene.known_from = INDEX + 10
    scene.subject.suspect("app", StateHash(INDEX, THEIRS), OURS)
    await scene.settle()
    assert scene.subject.quarantined is None
    scene.states["app"] = StateHash(INDEX + 10, OURS)
    await scene.settle()
    assert scene.subject.quarantined is not None
    assert scene.repairs == 1
    await scene.subject.stop()


async def test_a_started_node_serves_when_a_majority_holds_its_states() -> None:
    scene = Scene({2: OURS, 3: None})
    scene.subject.compare_first()
    assert not scene.view.is_compared
    await scene.settle()
    assert scene.view.is_compared
    assert not scene.view.blocked
    await scene.subject.stop()


async def test_a_started_node_does_not_serve_what_nobody_can_confirm() -> None:
    scene = Scene({2: None, 3: None})
    scene.subject.compare_first()
    await scene.settle()
    assert not scene.view.is_compared
    await scene.subject.stop()


async def test_a_started_node_with_a_changed_file_is_quarantined() -> None:
    scene = Scene({2: THEIRS, 3: THEIRS})
    scene.subject.compare_first()
    await scene.settle()
    assert scene.subject.quarantined is not None
    assert not scene.view.is_compared
    scene.subject.repaired()
    assert scene.view.is_compared
    await scene.subject.stop()


async def test_a_lone_voter_and_a_node_without_databases_serve_at_once() -> None:
    lone = Scene({})
    lone.subject.compare_first()
    empty = Scene({2: None, 3: None})
    empty.states.clear()
    empty.subject.compare_first()
    assert lone.view.is_compared
    assert empty.view.is_compared


async def test_a_database_dropped_during_the_comparison_is_not_waited_for() -> None:
    scene = Scene({2: None, 3: None})
    scene.subject.compare_first()
    scene.states.clear()
    await scene.settle()
    assert scene.view.is_compared
    await scene.subject.stop()


async def test_a_majority_against_us_quarantines_and_repairs() -> None:
    scene = Scene({2: THEIRS, 3: THEIRS})
    scene.subject.suspect("app", StateHash(INDEX, THEIRS), OURS)
    assert isinstance(scene.view.blocked["divergence"], DivergenceDetected)
    await scene.settle()
    assert scene.repairs == 1
    assert scene.subject.quarantined is not None
    assert scene.subject.quarantined.details["index"] == INDEX
    scene.subject.repaired()
    assert not scene.view.blocked
    await scene.subject.stop()


async def test_a_majority_with_us_tells_the_odd_one() -> None:
    scene = Scene({2: THEIRS, 3: OURS})
    scene.subject.suspect("app", StateHash(INDEX, THEIRS), OURS)
    await scene.settle()
    assert scene.repairs == 0
    assert not scene.view.blocked
    assert scene.told == [(2, OURS)]
    await scene.subject.stop()


async def test_without_a_majority_nothing_is_served_and_nothing_rebuilt() -> None:
    scene = Scene({2: THEIRS, 3: None})
    scene.subject.suspect("app", StateHash(INDEX, THEIRS), OURS)
    await scene.settle()
    assert scene.view.blocked
    assert scene.repairs == 0
    scene.answers[3] = THEIRS
    await scene.settle()
    assert scene.repairs == 1
    await scene.subject.stop()


@pytest.mark.parametrize("now", [{}, {"app": StateHash(0, 1)}], ids=["dropped", "made anew"])
async def test_a_database_dropped_before_anybody_decided_blocks_nothing(
    now: dict[str, StateHash | None],
) -> None:
    scene = Scene({2: THEIRS, 3: None})
    scene.subject.suspect("app", StateHash(INDEX, THEIRS), OURS)
    await scene.settle()
    assert scene.view.blocked
    scene.states = now
    await asyncio.sleep(module.ASK_AGAIN_S)
    await scene.settle()
    assert not scene.view.blocked
    assert scene.repairs == 0
    await scene.subject.stop()


async def test_being_told_only_starts_our_own_inquiry() -> None:
    scene = Scene({2: OURS, 3: OURS})
    scene.subject.told("app", INDEX, THEIRS)
    await scene.settle()
    assert scene.repairs == 0
    assert not scene.view.blocked
    await scene.subject.stop()
