"""The dependency graph: what each transaction must come after, and the evidence for it.

Data dependencies as in "Elle" (VLDB 2020, section 4) and Adya's thesis (section 3.1). Transactions that failed, and
those of unknown outcome whose appends nobody read, are not in the graph: they may never have happened.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from jepsen.checkers.elle.graph import PROCESS, REALTIME, RW, WR, WW, Graph
from jepsen.checkers.elle.transactions import Element, Key, Transaction, Transactions
from jepsen.checkers.elle.versions import KeyVersions, Observation, Versions

# A read of the latest seen state did not see any append that nobody saw. With many such readers and appends the
# edges would be the product of both: each reader keeps those that completed first, which real time refutes first.
UNSEEN_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why an edge exists: `before`: the element that one side wrote or saw (None: the empty list), `after`: the
    element that the other side appended (None for a read). `witness`: a transaction whose read shows the order;
    `is_unseen`: no read shows `after`, not even those that show `before`."""

    key: Key
    before: Element | None
    after: Element | None
    witness: int | None = None
    is_unseen: bool = False


class Dependencies:
    """The graph of a history; `evidence[a, b, kind]` for data edges (the first one found)."""

    def __init__(self, transactions: Transactions, versions: Versions) -> None:
        self.transactions = transactions
        self.nodes = [t.number for t in transactions.all if t.is_committed or t.number in versions.seen]
        self.graph = Graph(len(transactions.all))
        self.evidence: dict[tuple[int, int, int], Evidence] = {}
        self._inside = set(self.nodes)
        unseen = self._unseen_appends(versions)
        for key, found in versions.keys.items():
            self._add_key(found, unseen.get(key, []))
        self._add_process_order()
        self._add_real_time()

    def precedes(self, a: int, b: int) -> bool:
        """Whether `a` completed before `b` was invoked."""
        completed = self.transactions.all[a].completed
        return completed is not None and completed < self.transactions.all[b].invoked

    def _completion_order(self, number: int) -> tuple[bool, int]:
        completed = self.transactions.all[number].completed
        return completed is None, completed or number

    def _unseen_appends(self, versions: Versions) -> dict[Key, list[tuple[Element, int]]]:
        """Appends that did happen, but are in no read: they come after the longest read. First completed first."""
        result: dict[Key, list[tuple[Element, int]]] = {}
        by_completion = sorted(self.nodes, key=self._completion_order)
        orders = {key: set(found.order) for key, found in versions.keys.items()}
        for number in by_completion:
            for micro in self.transactions.all[number].micros:
                if micro.is_append and micro.key in orders and micro.element not in orders[micro.key]:
                    result.setdefault(micro.key, []).append((micro.element, number))
        return result

    def _add(self, a: int, b: int, kind: int, evidence: Evidence) -> None:
        if a != b:
            self.graph.add(a, b, kind)
            self.evidence.setdefault((a, b, kind), evidence)

    def _add_key(self, found: KeyVersions, unseen: list[tuple[Element, int]]) -> None:
        places: list[int] = []  # positions in the version order whose writers are in the graph
        writers: list[int] = []
        for place, element in enumerate(found.order):
            writer = self.transactions.writers.get(found.key, {}).get(element)
            if writer is not None and writer in self._inside:
                places.append(place)
                writers.append(writer)
        for i in range(1, len(places)):
            if writers[i - 1] != writers[i]:
                before, after = found.order[places[i - 1]], found.order[places[i]]
                witness = found.witness(places[i] + 1)
                self._add(writers[i - 1], writers[i], WW, Evidence(found.key, before, after, witness))
        if places:
            before = found.order[places[-1]]
            for after, number in unseen:
                witness = found.witness(places[-1] + 1)
                self._add(
                    writers[-1], number, WW, Evidence(found.key, before, after, witness, is_unseen=True)
                )
        for observation in found.observations:
            self._add_read(found, observation, places, writers, unseen)

    def _add_read(
        self,
        found: KeyVersions,
        observation: Observation,
        places: list[int],
        writers: list[int],
        unseen: list[tuple[Element, int]],
    ) -> None:
        reader, length = observation.reader, observation.external
        seen = observation.elements[length - 1] if length else None
        if not observation.is_prefix:
            # It contradicts the order, so that nothing follows from its place in it; but it did read its last element.
            writer = self.transactions.writers.get(found.key, {}).get(seen) if length else None
            if writer is not None and writer in self._inside:
                self._add(writer, reader, WR, Evidence(found.key, seen, None))
            return
        following = bisect_left(places, length)
        if following:
            read = found.order[places[following - 1]]
            self._add(writers[following - 1], reader, WR, Evidence(found.key, read, None))
        if following < len(places):
            after = found.order[places[following]]
            self._add(reader, writers[following], RW, Evidence(found.key, seen, after))
            return
        for after, number in unseen[:UNSEEN_MAX]:
            self._add(reader, number, RW, Evidence(found.key, seen, after))

    def _add_process_order(self) -> None:
        last: dict[int | str, Transaction] = {}
        for transaction in self.transactions.all:
            if transaction.number not in self._inside:
                continue
            process = transaction.pair.invoke.process
            before = last.get(process)
            if before is not None and before.is_committed:
                self.graph.add(before.number, transaction.number, PROCESS)
            last[process] = transaction

    def _add_real_time(self) -> None:
        """Edges of the transitive reduction: at most the number of concurrent transactions into each.

        The frontier holds completed transactions that none other completed after: an antichain of intervals.
        """
        events: list[tuple[int, bool, int]] = []
        for number in self.nodes:
            transaction = self.transactions.all[number]
            events.append((transaction.invoked, False, number))
            if transaction.completed is not None:
                events.append((transaction.completed, True, number))
        events.sort()
        frontier: dict[int, None] = {}
        preceding: dict[int, list[int]] = {}
        for _index, is_completion, number in events:
            if not is_completion:
                preceding[number] = list(frontier)
                for before in frontier:
                    self.graph.add(before, number, REALTIME)
                continue
            for before in preceding.pop(number):
                frontier.pop(before, None)
            frontier[number] = None
