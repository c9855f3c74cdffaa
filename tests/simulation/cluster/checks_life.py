"""One life of a node as the checks see it: what its log shows, and what must be remembered between two hooks."""

from __future__ import annotations

from typing import Any

from dqlite_py.model import LogIndex
from dqlite_py.node.runtime import NodeRuntime


class Life:
    """From NodeRuntime's construction to its end; the newest life of a node id replaces the one before."""

    __slots__ = (
        "commit",
        "core",
        "heard",
        "name",
        "node",
        "offered",
        "old_ticks",
        "refused",
        "steps",
        "term",
        "told_to_campaign",
    )

    def __init__(self, name: str, runtime: NodeRuntime) -> None:
        self.name = name
        self.node = int(runtime.node_id)
        self.core: Any = runtime.core
        self.term = int(self.core.term)
        self.commit = int(self.core.commit_index)
        self.heard: dict[int, None] = {}  # since its last candidacy
        self.told_to_campaign = False
        self.old_ticks = 0  # as a leader, since somebody leads a later term
        self.refused = (0, 0, 0)  # (leader, term, index) of the newest refusal
        self.steps = 0
        self.offered: dict[int, tuple[tuple[int, int], int]] = {}  # peer -> ((term, round), offers in it)

    def term_at(self, index: int) -> int | None:
        """The term in its log; 0 beyond the end, None when compacted."""
        log = self.core.log
        if log.holds(LogIndex(index)):
            return int(log.term_at(LogIndex(index)))
        return 0 if index > log.last_index else None

    def refuses(self, peer: int, term: int, prev: int) -> int:
        """It refuses to append behind `prev`; returns how many refusals in a row each stepped back by one entry."""
        before, self.refused = self.refused, (peer, term, prev)
        self.steps = self.steps + 1 if before == (peer, term, prev + 1) else 0
        return self.steps
