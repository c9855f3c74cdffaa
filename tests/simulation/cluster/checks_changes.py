"""What a change of members is told to have become, against the log: done means committed, not done means not there.

Wraps one life's changes (dqlite_py.node.configuration_change); its changes come one at a time.
"""

from __future__ import annotations

from typing import Any

from dqlite_py.errors import Error, Outcome
from dqlite_py.model import LogIndex, Term
from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.checks_consensus import ConsensusFacts, Fail


class ChangeWatch:
    def __init__(self, consensus: ConsensusFacts, fail: Fail) -> None:
        self._consensus = consensus
        self._fail = fail

    def watch(self, name: str, runtime: NodeRuntime) -> None:
        """A life begins."""
        core: Any = runtime.core
        changes: Any = runtime.membership.changes
        propose, change = core.propose_configuration, changes.carry_out
        made: list[tuple[Term, LogIndex]] = []

        def noted_propose(*args: Any) -> tuple[Term, LogIndex]:
            place: tuple[Term, LogIndex] = propose(*args)
            made.append(place)
            return place

        async def checked_change(*args: Any) -> None:
            made.clear()
            try:
                await change(*args)
            except Error as error:
                if error.outcome is Outcome.NOT_APPLIED and made:
                    self.refused(name, made[-1], error)
                raise
            self.done(name, made[-1])

        core.propose_configuration, changes.carry_out = noted_propose, checked_change

    def refused(self, name: str, place: tuple[int, int], error: Error) -> None:
        """Its caller hears that nothing happened."""
        self._fail(
            f"true outcomes: {name} proposed a change of members as entry {place[1]} of term {place[0]}, its caller "
            f"is told that it certainly failed: {error!r}"
        )

    def done(self, name: str, place: tuple[int, int]) -> None:
        """Its caller hears that it is committed."""
        term, index = place
        if self._consensus.committed_terms.get(index) != term:
            self._fail(
                f"true outcomes: {name} says that entry {index} of term {term}, a change of members, is committed; "
                f"there is {self._consensus.committed_terms.get(index) or 'nothing'}"
            )
