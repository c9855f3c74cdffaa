"""Runs in which something went wrong that no client saw: none of them may pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepsen.cluster.client import Failed
from jepsen.errors import JepsenError
from jepsen.history.history import History
from jepsen.history.op import NEMESIS, Op, OpType
from jepsen.run.judging import judge, leaves_majority
from jepsen.run.options import Options, Result, combine
from jepsen.verdict import Verdict
from jepsen.workloads.set import Set
from tests.jepsen.fakecluster import FakeClient, FakeNode
from tests.jepsen.fakeruns import OPTIONS, Case, FakeKill, shorten_faults, verdict_of

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _short_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_faults(monkeypatch)


def run_set(out: Path, nemesis: FakeKill | None = None, options: Options = OPTIONS) -> Result:
    [result] = Case(out, nemesis=nemesis).run("set", options=options)
    return result


# -- checkers


def test_a_workload_without_a_checker_is_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Set, "check", lambda _self, _history: [])
    result = run_set(tmp_path)
    assert "no checker" in verdict_of(result, "checker").summary
    assert result.valid is None


def test_a_checker_that_raises_is_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Set, "check", lambda _self, _history: [] + 1)
    result = run_set(tmp_path)
    assert "the checker itself failed: TypeError" in verdict_of(result, "checker").summary
    assert result.valid is None


def test_one_workload_s_violation_is_the_whole_s(tmp_path: Path) -> None:
    results = Case(tmp_path, "double-ids").run("set", "sequence")
    assert results[1].valid is False
    assert combine([result.valid for result in results]) is False


# -- operations


def events(*moments: tuple[float, OpType, int | str, str]) -> History:
    return History(
        Op(index, kind, process, f, 1, int(at * SECOND))
        for index, (at, kind, process, f) in enumerate(moments)
    )


def good(_history: History) -> list[Verdict]:
    return [Verdict("good", True, "")]


def test_few_successes_prove_nothing() -> None:
    one = events((0, OpType.INVOKE, 0, "add"), (1, OpType.OK, 0, "add"))
    assert combine([v.valid for v in judge(good, one, planned=20)]) is True
    verdicts = judge(good, one, planned=1000)
    assert [v.summary for v in verdicts if v.valid is None] == [
        "only 1 operations succeeded where 1000 were planned: too few to prove anything"
    ]


@pytest.mark.parametrize("kind", [OpType.FAIL, OpType.INFO])
def test_a_history_of_nothing_but_failures_proves_nothing(kind: OpType) -> None:
    moments = [
        event for n in range(20) for event in ((n, OpType.INVOKE, n, "add"), (n + 0.5, kind, n, "add"))
    ]
    assert combine([v.valid for v in judge(good, events(*moments))]) is None
    assert combine([v.valid for v in judge(good, History())]) is None


def under_fault(kind: OpType, seconds: int) -> History:
    """Served before and after a fault, and during it with the outcome `kind` once a second."""
    moments: list[tuple[float, OpType, int | str, str]] = []
    for n in range(seconds + 10):
        outcome = kind if 5 <= n < seconds + 5 else OpType.OK
        moments += [(n + 0.1, OpType.INVOKE, n, "add"), (n + 0.2, outcome, n, "add")]
        if n in (4, seconds + 4):
            moments.append((n + 0.5, OpType.INFO, NEMESIS, "start-kill-one" if n == 4 else "stop-kill-one"))
    return events(*moments)


def test_a_majority_that_serves_nobody_is_a_violation() -> None:
    assert combine([v.valid for v in judge(good, under_fault(OpType.OK, 20), must_serve=True)]) is True
    assert combine([v.valid for v in judge(good, under_fault(OpType.FAIL, 20), must_serve=False)]) is True
    verdicts = judge(good, under_fault(OpType.FAIL, 20), must_serve=True)
    assert [v.checker for v in verdicts if v.valid is False] == ["service"]
    short = judge(good, under_fault(OpType.FAIL, 8), must_serve=True)
    assert combine([v.valid for v in short]) is True, "an election takes its time"
    assert [n for n in range(1, 8) if leaves_majority(n)] == [3, 5, 7]


def test_a_cluster_that_stays_silent_after_the_last_fault_is_not_passed(tmp_path: Path) -> None:
    class Silencer(FakeKill):
        def final(self, cluster: Any) -> Any:
            cluster.store.fault = "dead"
            return super().final(cluster)

    result = run_set(tmp_path, Silencer())
    assert verdict_of(result, "availability").valid is not True
    assert result.valid is False


def test_final_reads_that_fail_are_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nemesis = FakeKill()
    query = FakeClient.query

    def refuse_at_the_end(self: FakeClient, *arguments: Any, **more: Any) -> Any:
        if nemesis.finals:
            raise Failed("OperationalError", "not today")
        return query(self, *arguments, **more)

    monkeypatch.setattr(FakeClient, "query", refuse_at_the_end)
    result = run_set(tmp_path, nemesis)
    assert "3 of 3 failed on the healed cluster" in verdict_of(result, "final-operations").summary
    assert result.valid is None


# -- clients, nodes


def test_a_client_that_died_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here of a value that no history can hold."""
    apply = Set.apply
    monkeypatch.setattr(
        Set, "apply", lambda *arguments: b"raw" if arguments[2].value == 20 else apply(*arguments)
    )
    result = run_set(tmp_path)
    assert "1 of 3 ended before their time" in verdict_of(result, "clients").summary
    assert result.valid is None


def test_nodes_that_nobody_asks_are_told_of(tmp_path: Path) -> None:
    result = run_set(tmp_path, options=replace(OPTIONS, clients=1))
    assert "nobody asked n2, n3: give --clients 3" in verdict_of(result, "nodes").summary
    assert result.valid is None


def test_a_node_that_never_answers_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeNode.client
    nemesis = FakeKill()

    def deaf(self: FakeNode, timeout_s: float = 5.0) -> Any:
        if self.name == "n3" and not nemesis.finals:
            raise Failed("Connection", "it does not listen")
        return client(self, timeout_s)

    monkeypatch.setattr(FakeNode, "client", deaf)
    options = replace(OPTIONS, time_s=2.0)  # a client waits after each refusal
    result = run_set(tmp_path, nemesis, options)
    assert "no operation ever succeeded on n3" in verdict_of(result, "nodes").summary
    assert result.valid is None


def prepare_nodes(case: Case, change: Callable[[list[FakeNode]], None]) -> Case:
    make = case._cluster

    def cluster(*arguments: Any) -> Any:
        made = make(*arguments)
        enter = made.__enter__

        class Prepared:
            def __enter__(self) -> Any:
                entered = enter()
                change(entered.nodes)
                return entered

            def __exit__(self, *exc: object) -> None:
                made.__exit__(*exc)

        return Prepared()

    case._cluster = cluster  # type: ignore[method-assign]
    return case


def test_a_node_that_is_down_after_the_last_fault_was_undone_is_a_violation(tmp_path: Path) -> None:
    class KillFirst(FakeKill):
        def stop(self, cluster: Any) -> Any:
            cluster.nodes[0].start()

        def start(self, cluster: Any, rng: Any) -> Any:
            cluster.nodes[0].kill()

    case = prepare_nodes(Case(tmp_path, nemesis=KillFirst()), lambda nodes: nodes[2].kill())
    [result] = case.run("set")
    assert "n3 did not run though the last fault was undone" in verdict_of(result, "nodes").summary
    assert verdict_of(result, "recovery").valid is True, "the healing started it"
    assert result.valid is False


@pytest.mark.parametrize(("allowed", "valid"), [((), False), ((3,), False), ((3, -11), True)])
def test_a_node_that_ended_by_itself_is_a_violation(
    allowed: tuple[int, ...], valid: bool, tmp_path: Path
) -> None:
    nemesis = FakeKill()
    nemesis.own_exits = frozenset(allowed)  # type: ignore[attr-defined]
    case = prepare_nodes(Case(tmp_path, nemesis=nemesis), lambda nodes: nodes[1].own_exits.append(-11))
    [result] = case.run("set")
    assert verdict_of(result, "nodes").valid is valid
    assert result.valid is valid
    assert valid or "n2 with -11" in verdict_of(result, "nodes").summary


# -- faults


def test_a_nemesis_that_died_is_told_of(tmp_path: Path) -> None:
    class Strange(FakeKill):
        def stop(self, cluster: Any) -> Any:
            super().stop(cluster)
            return object()  # no history can hold it

        def final(self, cluster: Any) -> Any:
            super().stop(cluster)

    result = run_set(tmp_path, Strange())
    assert "the nemesis ended before its time: HistoryError" in verdict_of(result, "faults").summary
    assert result.valid is None


def test_faults_without_an_effect_are_no_faults(tmp_path: Path) -> None:
    class Weak(FakeKill):
        def start(self, cluster: Any, rng: Any) -> Any:
            return "nothing"

        def stop(self, cluster: Any) -> Any:
            return {"no-effect": "every call succeeded"}

    result = run_set(tmp_path, Weak())
    assert verdict_of(result, "faults").summary == "no fault ever happened: fake-kill: every call succeeded"
    assert result.valid is None


def test_a_final_healing_that_fails_is_in_the_history(tmp_path: Path) -> None:
    class Stubborn(FakeKill):
        def final(self, cluster: Any) -> Any:
            super().final(cluster)
            raise JepsenError("one clock is still wrong")

    result = run_set(tmp_path, Stubborn())
    assert "one clock is still wrong" in (result.folder / "history.edn").read_text()
