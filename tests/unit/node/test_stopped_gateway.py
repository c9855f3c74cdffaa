"""What a stopped node says: of a new write that it does not happen, of an earlier one that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.command import encode_statements
from dqlite_py.errors import NodeStopped, Outcome, OutcomeUnknown


@pytest.fixture(scope="module", autouse=True)
def first_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first node of a process opens what stays open."""
    with dqlite_py.Node(tmp_path_factory.mktemp("first")):
        pass


def test_a_write_is_refused_and_a_question_is_not_answered(tmp_path: Path) -> None:
    body = encode_statements([("CREATE TABLE t(x)", ())])
    with dqlite_py.Node(tmp_path / "n") as node:
        gateway = node.gateway
        gateway.open_database("app", 30.0)
        key = gateway.new_key("app")
        gateway.execute_unit("app", body, 30.0, once=key)
    with pytest.raises(NodeStopped) as refused:
        gateway.execute_unit("app", body, 1.0)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(OutcomeUnknown) as unanswered:
        gateway.resolve("app", key, 1.0)
    assert unanswered.value.details["sequence"] == key.sequence
