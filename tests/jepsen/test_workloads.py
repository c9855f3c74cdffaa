"""Workloads against one SQLite that keeps its promises, and against such that break one: the checkers find it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from jepsen.history.history import History
from jepsen.history.op import OpType
from jepsen.history.recorder import Recorder
from jepsen.run.clients import Source, perform
from jepsen.run.judging import judge
from jepsen.run.options import combine
from jepsen.run.session import NodeSession
from jepsen.verdict import Verdict
from jepsen.workloads import WORKLOADS
from tests.jepsen.fakecluster import FakeNode, Store

CLIENTS = 4
OPERATIONS = 600


def _run(
    name: str, folder: Path, fault: str | None = None, operations: int = OPERATIONS
) -> tuple[History, list[Verdict]]:
    """One thread plays the clients in turn: the same history every time."""
    store = Store(fault)
    workload = WORKLOADS[name](random.Random(f"1/{name}"))
    try:
        with Recorder(folder / "history.edn") as recorder:
            source = Source(workload, recorder, CLIENTS)
            sessions = [NodeSession(FakeNode(f"n{n}", folder, store), 1.0) for n in range(CLIENTS)]
            workload.setup(sessions[0])
            processes = list(range(CLIENTS))
            for number in range(operations):
                client = number % CLIENTS
                kind = perform(source, sessions[client], processes[client], source.next(), f"n{client}")
                if kind is OpType.INFO:
                    processes[client] = source.new_process()
            for request in workload.final():
                perform(source, sessions[0], source.new_process(), request, "n0")
            history = recorder.history()
    finally:
        store.close()
    return history, judge(workload.check, history)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_store_that_keeps_its_promises_is_valid(name: str, tmp_path: Path) -> None:
    _history, verdicts = _run(name, tmp_path)
    assert combine([verdict.valid for verdict in verdicts]) is True, verdicts


@pytest.mark.parametrize("name", WORKLOADS)
def test_answers_that_are_lost_are_no_violation(name: str, tmp_path: Path) -> None:
    history, verdicts = _run(name, tmp_path, "unknown-writes")
    assert combine([verdict.valid for verdict in verdicts]) is True, verdicts
    is_repeated = name == "exactly-once"  # until the answer comes
    assert any(op.type is OpType.INFO for op in history) is not is_repeated
    ended = [op.process for op in history if op.type is OpType.INFO]
    assert max(Counter(ended).values(), default=1) == 1, "a process went on after an unknown outcome"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("register", "lost-writes"),
        ("register", "stale-reads"),
        ("append", "lost-writes"),
        ("append", "torn-units"),
        ("bank", "torn-units"),
        ("set", "lost-writes"),
        ("set", "stale-reads"),
        ("append-txn", "lost-writes"),
        ("append-txn", "torn-units"),
        ("exactly-once", "lost-writes"),
        ("exactly-once", "forgotten-keys"),
        ("levels", "stale-reads"),
        ("levels", "lost-writes"),
        ("unique-ids", "double-ids"),
        ("sequence", "lost-writes"),
        ("sequence", "double-ids"),
        ("long-fork", "forked-reads"),
    ],
)
def test_a_broken_promise_is_found(name: str, fault: str, tmp_path: Path) -> None:
    _history, verdicts = _run(name, tmp_path, fault)
    bad = [verdict for verdict in verdicts if verdict.valid is False]
    assert bad, verdicts
    assert bad[0].counterexample, bad


@pytest.mark.parametrize("name", WORKLOADS)
def test_operations_are_fixed_by_the_seed(name: str) -> None:
    first, second, other = (WORKLOADS[name](random.Random(seed)) for seed in (5, 5, 6))
    operations = [first.next() for _ in range(200)]
    assert operations == [second.next() for _ in range(200)]
    if name not in ("unique-ids", "sequence"):  # they have one kind of operation
        assert operations != [other.next() for _ in range(200)]


def test_a_dead_cluster_is_not_a_pass(tmp_path: Path) -> None:
    store = Store("dead")
    workload = WORKLOADS["set"](random.Random(1))
    try:
        with Recorder(tmp_path / "history.edn") as recorder:
            source = Source(workload, recorder, 1)
            session = NodeSession(FakeNode("n1", tmp_path, store), 1.0)
            for _ in range(20):
                assert perform(source, session, 0, source.next(), "n1") is OpType.FAIL
            verdicts = judge(workload.check, recorder.history())
    finally:
        store.close()
    assert combine([verdict.valid for verdict in verdicts]) is None
    assert any("no operation succeeded" in verdict.summary for verdict in verdicts)


def test_an_error_that_clients_do_not_know_is_a_violation(tmp_path: Path) -> None:
    store = Store()
    workload = WORKLOADS["sequence"](random.Random(1))
    try:
        with Recorder(tmp_path / "history.edn") as recorder:
            source = Source(workload, recorder, 1)
            session = NodeSession(FakeNode("n1", tmp_path, store), 1.0)
            workload.setup(session)
            session.execute("DELETE FROM sequence")  # the counter's row is gone: an answer without a row
            assert perform(source, session, 0, source.next(), "n1") is OpType.INFO
            verdicts = judge(workload.check, recorder.history())
    finally:
        store.close()
    [strange] = [verdict for verdict in verdicts if verdict.checker == "client-errors"]
    assert strange.valid is False
    assert "IndexError" in strange.summary


def test_a_compare_and_set_that_compares_unequal_certainly_failed(tmp_path: Path) -> None:
    history, _verdicts = _run("register", tmp_path)
    outcomes = Counter(pair.type for pair in history.pairs() if pair.invoke.f == "cas")
    assert outcomes[OpType.OK] > 20
    assert outcomes[OpType.FAIL] > 20


def test_transfers_are_refused_rather_than_leave_a_negative_balance(tmp_path: Path) -> None:
    history, _verdicts = _run("bank", tmp_path)
    failed = [op for op in history if op.f == "transfer" and op.type is OpType.FAIL]
    assert failed
    assert all("CHECK constraint" in (op.error or "") for op in failed)
