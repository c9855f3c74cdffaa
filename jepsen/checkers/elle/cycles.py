"""Search for the shortest cycle of each class in the dependency graph.

Classes as in "Elle" (VLDB 2020, section 5): G0 only ww; G1c ww and wr; G-single exactly one rw; G-nonadjacent several
rw, no two in a row; G2-item several rw. With process or real-time edges in the cycle: `-process`, `-realtime`.
Each search starts at the edges of the kind that makes its class, and stays inside a strongly connected component.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jepsen.checkers.elle.dependencies import Dependencies
from jepsen.checkers.elle.graph import (
    DATA,
    ORDER,
    PROCESS,
    REALTIME,
    RW,
    STRONGEST,
    WR,
    WW,
    components,
    cyclic_components,
)

STEPS_MAX: Final = 3_000_000  # edges that all searches of one history may look at: a few seconds
EXPLAINED_MAX: Final = (
    6  # edges of a cycle that is easily understood; for longer ones real time may give shorter
)
SHRINK_MAX: Final = 100  # edges of a cycle that is still tried to be made shorter


@dataclass(frozen=True, slots=True)
class Edge:
    a: int
    b: int
    kind: int


Cycle = tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    seed: int
    rest: int
    nonadjacent: bool = False


_CLASSES: Final = (
    _Class("G0", WW, WW),
    _Class("G1c", WR, WW | WR),
    _Class("G-single", RW, WW | WR),
    _Class("G-nonadjacent", RW, DATA, nonadjacent=True),
    _Class("G2-item", RW, DATA),
)


@dataclass(slots=True)
class Cycles:
    """`found`: by name. `is_complete`: False when the budget ran out, so that a class may be missing."""

    found: dict[str, list[Cycle]]
    is_complete: bool


def classify(cycle: Cycle) -> str:
    """The name of the anomaly that a cycle is."""
    kinds = [edge.kind for edge in cycle]
    anti = kinds.count(RW)
    if anti > 1:
        adjacent = any(kinds[i - 1] == RW == kinds[i] for i in range(len(kinds)))
        name = "G2-item" if adjacent else "G-nonadjacent"
    elif anti:
        name = "G-single"
    else:
        name = "G1c" if WR in kinds else "G0"
    if REALTIME in kinds:
        return f"{name}-realtime"
    return f"{name}-process" if PROCESS in kinds else name


def find_cycles(
    dependencies: Dependencies, *, allows_g2: bool, with_order: bool, steps_max: int = STEPS_MAX
) -> Cycles:
    """The shortest cycle of each class in each component.

    `allows_g2`: cycles with adjacent anti-dependencies are legal (snapshot isolation). `with_order`: process and real
    time count (strict serializability). A component in which data alone makes a short cycle is not searched with them.
    """
    search = _Search(dependencies, steps_max)
    result = Cycles({}, True)
    cyclic: set[int] = set()  # nodes of components with a cycle
    explained: set[int] = set()  # nodes of components with a short one
    graph = dependencies.graph
    tiers = (0, PROCESS, ORDER) if with_order else (0,)
    suspects = [n for c in cyclic_components(graph, dependencies.nodes, DATA | tiers[-1]) for n in c]
    for order in tiers:
        for component in cyclic_components(graph, suspects, DATA | order):
            if not explained.isdisjoint(component):
                continue
            cycles = search.component(component, order, allows_g2)
            short = [cycle for cycle in cycles if len(cycle) <= EXPLAINED_MAX]
            for cycle in cycles if cyclic.isdisjoint(component) else short:
                result.found.setdefault(classify(cycle), []).append(cycle)
            if cycles:
                cyclic.update(component)
            if short:
                explained.update(component)
    result.is_complete = search.steps > 0
    return result


class _Search:
    def __init__(self, dependencies: Dependencies, steps: int) -> None:
        self.dependencies = dependencies
        self.graph = dependencies.graph
        self.steps = steps

    def component(self, nodes: list[int], order: int, allows_g2: bool) -> list[Cycle]:
        """Cycles of distinct names; with process or real-time edges only the most severe one."""
        found: dict[str, Cycle] = {}
        for one in _CLASSES[:4] if allows_g2 else _CLASSES:
            best: Cycle | None = None
            for part in cyclic_components(self.graph, nodes, one.seed | one.rest | order):
                cycle = self._shortest(one, part, order, len(best) if best else len(part) + 1)
                best = cycle or best
            if best is not None:
                best = self._shrink(best)
                # The shortest walk through an anti-dependency may be of a more severe class than the one searched.
                found.setdefault(classify(best), best)
            if found and order:
                break
        if not found and not allows_g2:
            found["any"] = self._shrink(self._any(nodes, DATA | order))
        return list(found.values())

    def _shortest(self, one: _Class, part: list[int], order: int, below: int) -> Cycle | None:
        """The shortest cycle in `part` with fewer than `below` edges, by breadth-first search from each seed edge."""
        rest = one.rest | order
        place: dict[int, int] = {}  # topological place of a node when only `rest` edges count; sinks are 0
        for number, component in enumerate(components(self.graph, part, rest)):
            place.update(dict.fromkeys(component, number))
        best: Cycle | None = None
        for a in part:
            for b, kinds in self.graph.out[a].items():
                if kinds & one.seed and b in place and place[b] >= place[a]:
                    path = self._path(b, a, rest, place, below - 2, one.nonadjacent)
                    if path is not None:
                        best = (Edge(a, b, one.seed), *path)
                        below = len(best)
                        if below == 2:
                            return best
        return best

    def _path(
        self, start: int, goal: int, mask: int, place: dict[int, int], length_max: int, nonadjacent: bool
    ) -> list[Edge] | None:
        """The shortest path of at most `length_max` edges; `nonadjacent`: no anti-dependency follows another.

        A walk that repeats a node holds a shorter closed walk that is as good, so the shortest one is a cycle.
        """
        real_time = bool(mask & REALTIME)
        floor = place[goal]
        first = (start, nonadjacent)  # True: arrived by an anti-dependency, so that none may follow
        came: dict[tuple[int, bool], tuple[tuple[int, bool], int] | None] = {first: None}
        level = [first]
        for _ in range(length_max):
            following: list[tuple[int, bool]] = []
            for state in level:
                node, after_rw = state
                allowed = mask & ~RW if after_rw else mask
                if real_time and self.dependencies.precedes(node, goal):
                    return [*self._walk(came, state), Edge(node, goal, REALTIME)]
                edges = self.graph.out[node]
                self.steps -= len(edges) + 1
                for successor, kinds in edges.items():
                    usable = kinds & allowed
                    if not usable:
                        continue
                    kind = STRONGEST[usable]
                    if successor == goal:
                        if not (nonadjacent and kind == RW):  # the seed follows
                            return [*self._walk(came, state), Edge(node, goal, kind)]
                        continue
                    reached = (successor, nonadjacent and kind == RW)
                    if place.get(successor, -1) >= floor and reached not in came:
                        came[reached] = (state, kind)
                        following.append(reached)
            level = following
            if not level or self.steps <= 0:
                return None
        return None

    @staticmethod
    def _walk(
        came: dict[tuple[int, bool], tuple[tuple[int, bool], int] | None], state: tuple[int, bool]
    ) -> Sequence[Edge]:
        edges: deque[Edge] = deque()
        while (previous := came[state]) is not None:
            edges.appendleft(Edge(previous[0][0], state[0], previous[1]))
            state = previous[0]
        return edges

    def _any(self, nodes: list[int], mask: int) -> Cycle:
        """Some cycle of a component, for when the budget ran out."""
        place = dict.fromkeys(nodes, 0)
        start = nodes[0]
        for successor, kinds in self.graph.out[start].items():
            if kinds & mask and successor in place:
                budget, self.steps = self.steps, len(nodes) * len(nodes) + STEPS_MAX
                path = self._path(successor, start, mask, place, len(nodes), False)
                self.steps = min(budget, 0)
                if path is not None:
                    return (
                        Edge(start, successor, STRONGEST[kinds & mask]),
                        *path,
                    )
        raise AssertionError(f"no cycle through {start} in its strongly connected component {nodes[:10]}")

    def _shrink(self, cycle: Cycle) -> Cycle:
        """Replace stretches of process order or real time by single edges: the graph holds only their reduction."""
        name = classify(cycle)
        if not name.endswith(("-realtime", "-process")):
            return cycle
        start = next(i for i, edge in enumerate(cycle) if not edge.kind & ORDER)
        cycle = self._merge_order(cycle[start:] + cycle[:start])
        length = len(cycle) - 1
        while length > 1 and len(cycle) <= SHRINK_MAX:
            candidates = (self._shortcut(cycle[i:] + cycle[:i], length) for i in range(len(cycle)))
            better = next((c for c in candidates if c is not None and classify(c) == name), None)
            cycle, length = (cycle, length - 1) if better is None else (better, len(better) - 1)
        return cycle

    @staticmethod
    def _merge_order(cycle: Cycle) -> Cycle:
        merged: list[Edge] = []
        for edge in cycle:
            if merged and edge.kind & ORDER and merged[-1].kind & ORDER:
                last = merged.pop()
                edge = Edge(last.a, edge.b, PROCESS if edge.kind == last.kind == PROCESS else REALTIME)
            merged.append(edge)
        return tuple(merged)

    def _shortcut(self, cycle: Cycle, length: int) -> Cycle | None:
        """Real time alone instead of the first `length` edges, where that is true and loses no anti-dependency."""
        stretch = cycle[:length]
        a, b = stretch[0].a, stretch[-1].b
        if any(edge.kind == RW for edge in stretch) or not self.dependencies.precedes(a, b):
            return None
        return (Edge(a, b, REALTIME), *cycle[length:])
