"""Each single rule of Raft, on the product."""

from __future__ import annotations

import pytest

from dqlite_py.raft.core import RaftCore
from tests.unit.raft.rules import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    rule(RaftCore)
