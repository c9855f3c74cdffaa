"""The demo's questions to a node."""

from __future__ import annotations

from typing import Any

from dqlite_py.cli.demo.client import DATABASE, DemoClient


class MovingNode:
    """Applies one more entry between the first read and the question for its state."""

    def __init__(self) -> None:
        self.applied, self.asked = 7, []

    async def call(self, _target: str, method: str, body: Any, _timeout_s: float) -> Any:
        self.asked.append(method)
        if method == "state.hash":
            answer = {
                "applied_index": self.applied,
                "databases": {DATABASE: [self.applied, f"h{self.applied}"]},
            }
        else:
            answer = [["writer", "number"], [["w", n] for n in range(self.applied)]]
            self.applied = 8
        return answer


async def test_rows_and_state_belong_together() -> None:
    node = MovingNode()
    content = await DemoClient(node).content("somewhere")
    assert (content.applied_index, content.state_hash, len(content.rows)) == (8, "h8", 8)
    assert node.asked == ["state.hash", "sql.read", "state.hash", "sql.read", "state.hash"]
