"""Elle against brute force: no false anomaly, and none missed where every list is read to its end."""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.elle import check_append
from jepsen.checkers.elle.cycles import Edge, classify, find_cycles
from jepsen.checkers.elle.graph import PROCESS, RW, WR, WW, Graph, components
from jepsen.history.history import History
from jepsen.history.op import OpType
from tests.jepsen.bruteforce import is_serializable
from tests.jepsen.listappend import Builder, Database, Micro, asked

KEYS = (1, 2)
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
Model = Literal["strict-serializable", "serializable"]


@st.composite
def transactions(draw: st.DrawFn, count: int) -> list[list[Micro]]:
    """Appends of distinct values and reads without results."""
    values = dict.fromkeys(KEYS, 0)
    result: list[list[Micro]] = []
    for _ in range(count):
        micros: list[Micro] = []
        for _ in range(draw(st.integers(1, 3))):
            key = draw(st.sampled_from(KEYS))
            if draw(st.booleans()):
                values[key] += 1
                micros.append(["append", key, values[key]])
            else:
                micros.append(["r", key, None])
        result.append(micros)
    return result


@st.composite
def histories(draw: st.DrawFn, *, sound: bool, complete: bool) -> History:
    """Up to four clients. `sound`: executed atomically between begin and end; else micro-operations interleave, and
    reads may see any earlier state of their key. `complete`: all commit, and a last transaction reads every key; else
    some fail (with or without effect) and some have an unknown outcome (and take effect before, after or never)."""
    builder, database = Builder(), Database()
    todo = draw(transactions(draw(st.integers(2, 4))))
    last: list[list[Micro]] = [[["r", key, None] for key in KEYS]] if complete else []
    states: dict[int, list[list[int]]] = {key: [[]] for key in KEYS}
    running: dict[int, tuple[list[Micro], list[Micro]]] = {}  # process -> what it asked, what is done
    free = 0

    def step(process: int) -> None:
        asks, done = running[process]
        if len(done) == len(asks):
            running.pop(process)
            kind = (
                OpType.OK if complete else draw(st.sampled_from([OpType.OK] * 4 + [OpType.INFO, OpType.FAIL]))
            )
            builder.add(kind, process, done if kind is OpType.OK else asks)
            return
        for micro in asks[len(done) :] if sound else asks[len(done) : len(done) + 1]:
            done.append(database.micro(*micro))
            key = micro[1]
            if micro[0] == "append":
                states[key].append(list(database.lists[key]))
            elif not sound and draw(st.integers(0, 2)) == 0:
                done[-1] = ["r", key, draw(st.sampled_from(states[key]))]

    late: list[list[Micro]] = []  # given up, and perhaps executed later
    while todo or running:
        now = draw(st.booleans()) if late else False
        if now:
            for micro in late.pop():
                database.micro(*micro)
        begin = bool(todo) and (not running or draw(st.booleans()))
        if begin:
            asks = todo.pop(0)
            builder.add(OpType.INVOKE, free, asked(asks))
            if not complete and draw(st.integers(0, 4)) == 0:
                kind = draw(st.sampled_from([OpType.INFO, OpType.FAIL]))
                builder.add(kind, free, asks)
                late += [asks] * (kind is OpType.INFO)
            else:
                running[free] = (asks, [])
            free += 1
        else:
            step(draw(st.sampled_from(sorted(running))))
    for asks in last:
        builder.add(OpType.INVOKE, free, asks)
        builder.add(OpType.OK, free, database.run(asks))
    return builder.history()


@SETTINGS
@given(histories(sound=True, complete=True))
def test_no_anomaly_in_what_a_sound_database_does(history: History) -> None:
    assert is_serializable(history, real_time=True)
    verdict = check_append(history)
    assert verdict.valid is True, verdict


@SETTINGS
@given(histories(sound=True, complete=False))
def test_no_anomaly_whatever_becomes_of_unknown_outcomes(history: History) -> None:
    failed = {pair.invoke.index for pair in history.pairs() if pair.type is OpType.FAIL}
    verdict = check_append(history)
    if is_serializable(history, real_time=True):
        assert verdict.valid is not False, verdict
    else:
        assert failed  # only an effect of what failed is wrong here


@SETTINGS
@given(histories(sound=False, complete=False), st.sampled_from(["strict-serializable", "serializable"]))
def test_no_false_anomaly_whatever_happened(history: History, model: Model) -> None:
    verdict = check_append(history, model=model)
    if is_serializable(history, real_time=model == "strict-serializable"):
        assert verdict.valid is not False, verdict
    elif verdict.valid is False:
        assert not is_serializable(History(verdict.counterexample), real_time=model == "strict-serializable")


@SETTINGS
@given(histories(sound=False, complete=True), st.sampled_from(["strict-serializable", "serializable"]))
def test_same_verdict_where_all_commit_and_all_lists_are_read(history: History, model: Model) -> None:
    expected = is_serializable(history, real_time=model == "strict-serializable")
    verdict = check_append(history, model=model)
    assert verdict.valid is expected, verdict


class Drawn:
    """A graph that follows from no history, with what the search asks of one."""

    def __init__(self, size: int, edges: list[tuple[int, int, int]]) -> None:
        self.nodes = list(range(size))
        self.graph = Graph(size)
        for a, b, kind in edges:
            self.graph.add(a % size, b % size, kind)

    def precedes(self, _a: int, _b: int) -> bool:
        return False


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    node, kind = st.integers(0, 5), st.sampled_from([WW, WR, RW, RW, PROCESS])
    return Drawn(
        draw(st.integers(3, 6)), draw(st.lists(st.tuples(node, node, kind), min_size=3, max_size=12))
    )


def _cycles(drawn: Drawn) -> list[list[int]]:
    """The kinds along every simple cycle, each edge taken as each of its kinds."""
    found: list[list[int]] = []

    def walk(start: int, path: list[int], kinds: list[int]) -> None:
        for successor, mask in drawn.graph.out[path[-1]].items():
            for kind in (WW, WR, RW, PROCESS):
                if not mask & kind:
                    continue
                if successor == start:
                    found.append([*kinds, kind])
                elif successor > start and successor not in path:
                    walk(start, [*path, successor], [*kinds, kind])

    for start in drawn.nodes:
        walk(start, [start], [])
    return [kinds for kinds in found if set(kinds) != {PROCESS}]  # a process never comes before itself


def _name(kinds: list[int]) -> str:
    return classify(tuple(Edge(i, i + 1, kind) for i, kind in enumerate(kinds)))


@settings(SETTINGS, max_examples=600)
@given(graphs())
def test_cycles_are_those_of_trying_all_paths(drawn: Drawn) -> None:
    dependencies: Any = drawn
    all_cycles = [kinds for kinds in _cycles(drawn) if PROCESS not in kinds]
    names = {_name(kinds) for kinds in all_cycles}
    found = find_cycles(dependencies, allows_g2=False, with_order=False)
    assert found.is_complete
    assert set(found.found) <= names
    assert bool(found.found) == bool(names)
    for name in names & {"G0", "G1c", "G-single"}:
        # The shortest one that a class can offer may be of a more severe class.
        assert any(_rank(other) <= _rank(name) for other in found.found)
    loose = find_cycles(dependencies, allows_g2=True, with_order=False)
    assert bool(loose.found) == bool(names - {"G2-item"})
    assert "G2-item" not in loose.found


@settings(SETTINGS, max_examples=300)
@given(graphs())
def test_process_order_makes_cycles_where_data_alone_does_not(drawn: Drawn) -> None:
    dependencies: Any = drawn
    cycles = _cycles(drawn)
    pure = components(drawn.graph, drawn.nodes, PROCESS)
    if any(len(component) > 1 for component in pure):
        return  # no history has such a process order
    names = {_name(kinds) for kinds in cycles}
    found = find_cycles(dependencies, allows_g2=False, with_order=True)
    assert set(found.found) <= names
    assert bool(found.found) == bool(names)


def _rank(name: str) -> int:
    return ["G0", "G1c", "G-single", "G-nonadjacent", "G2-item"].index(name)
