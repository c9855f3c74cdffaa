"""What the checks of roles refuse, on proposals made up for it."""

from __future__ import annotations

from typing import NoReturn

import pytest

from dqlite_py.model import Address, Configuration, Member, NodeId, Role, RoleSettings
from tests.simulation.cluster.checks import SafetyViolation
from tests.simulation.cluster.checks_roles import RoleFacts

V, B, S = Role.VOTER, Role.STANDBY, Role.SPARE
KEPT = RoleSettings(True, 3, 1, 1_500)


def fail(message: str) -> NoReturn:
    raise SafetyViolation(message)


def configuration(*roles: Role, settings: RoleSettings | None = KEPT) -> Configuration:
    members = [Member(NodeId(i), Address(f"h{i}:1"), role) for i, role in enumerate(roles, 1)]
    return Configuration(tuple(members), settings=settings)


def propose(
    before: Configuration,
    now: Configuration,
    *,
    dead: tuple[int, ...] = (),
    asked: tuple[int, ...] = (),
    led_ms: float = 5_000.0,
    end: int = 90,
) -> None:
    facts = RoleFacts(fail)
    facts.down_s = lambda node: 3.0 if node in dead else 0.0
    for node in asked:
        facts.asked_away(node)
    facts.leads(1, 10_000.0)
    facts.proposed(1, 10_000.0 + led_ms, before, now, 100, 20, lambda _node: end)


def test_what_a_leader_may_propose() -> None:
    propose(configuration(V, V, V, B), configuration(V, V, V, V), dead=(3,))
    propose(configuration(V, V, V, V), configuration(V, V, S, V), dead=(3,))
    propose(configuration(V, V, V, V, V), configuration(V, V, V, V, B))
    propose(configuration(V, V, V, B), configuration(V, V, S, B), asked=(3,), led_ms=10.0)
    propose(configuration(V, V, V, settings=None), configuration(V, V, B, settings=None))
    by_hand = RoleSettings(False, 3, 1, 1_500)
    propose(configuration(V, V, V, settings=by_hand), configuration(V, V, S, settings=by_hand), led_ms=0.0)
    propose(configuration(V, V, V), configuration(V, V))  # a removal: its request is another check's


@pytest.mark.parametrize(
    ("before", "now", "more", "what"),
    [
        ((V, V, V), (V, V, B), {}, "nobody has replaced it"),
        ((V, V, V, B), (V, V, S, B), {"dead": (3,)}, "nobody has replaced it"),
        ((V, V, V, V, V), (V, V, V, V, B), {"dead": (3, 4)}, r"of which \[3, 4\] are dead"),
        ((V, V, V, B), (V, V, V, V), {"dead": (2, 3)}, "are dead"),
        ((V, V, V, V), (V, V, S, V), {"dead": (3,), "led_ms": 1_499.0}, "gives up 3 1499 ms after"),
        ((V, V, B), (V, V, V), {"end": 0}, "whose log ends at 0"),
        ((V, V, B), (V, V, V), {"end": 79}, "whose log ends at 79"),
    ],
)
def test_what_it_may_not(
    before: tuple[Role, ...], now: tuple[Role, ...], more: dict[str, object], what: str
) -> None:
    with pytest.raises(SafetyViolation, match=what):
        propose(configuration(*before), configuration(*now), **more)  # type: ignore[arg-type]
