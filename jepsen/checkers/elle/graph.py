"""A directed graph whose edges carry kinds, its strongly connected components and shortest paths in it.

Kinds are bits, so that a search names the kinds it may use as one mask. Knows nothing of transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WW: Final = 1  # overwrote
WR: Final = 2  # read what the other wrote
RW: Final = 4  # did not see what the other wrote (anti-dependency)
PROCESS: Final = 8  # the same process ran it before
REALTIME: Final = 16  # completed before the other began
DATA: Final = WW | WR | RW
ORDER: Final = PROCESS | REALTIME
_STRONGEST_FIRST: Final = (WW, WR, PROCESS, REALTIME, RW)  # RW last, as it weakens a cycle's class
# Mask -> the kind of it to use.
STRONGEST: Final = (0, *(next(kind for kind in _STRONGEST_FIRST if kind & mask) for mask in range(1, 32)))


class Graph:
    """Nodes 0 … n-1. `out[node][successor]`: the kinds of the edge, as a mask."""

    __slots__ = ("out",)

    def __init__(self, n: int) -> None:
        self.out: list[dict[int, int]] = [{} for _ in range(n)]

    def add(self, a: int, b: int, kind: int) -> None:
        """Add an edge; an edge to itself says nothing and is dropped."""
        if a != b:
            self.out[a][b] = self.out[a].get(b, 0) | kind


def components(graph: Graph, nodes: Iterable[int], mask: int) -> list[list[int]]:
    """Strongly connected components of the subgraph of `nodes` and edges in `mask`, each before its predecessors.

    Tarjan's algorithm ("Depth-first search and linear graph algorithms", 1972) without recursion.
    """
    inside = dict.fromkeys(nodes)
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    result: list[list[int]] = []
    for root in inside:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(graph.out[root].items()))]
        while work:
            node, edges = work[-1]
            for successor, kinds in edges:
                if not kinds & mask or successor not in inside:
                    continue
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(graph.out[successor].items())))
                    break
                if successor in on_stack and index[successor] < low[node]:
                    low[node] = index[successor]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    result.append(component)
    return result


def cyclic_components(graph: Graph, nodes: Iterable[int], mask: int) -> list[list[int]]:
    """The components that hold a cycle, smallest first."""
    return sorted((c for c in components(graph, nodes, mask) if len(c) > 1), key=lambda c: (len(c), min(c)))
