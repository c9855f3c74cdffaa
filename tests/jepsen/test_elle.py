"""Elle on list-append histories: planted anomalies in long ones, models, explanations, unknown outcomes, bad input."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from jepsen.checkers.elle import check_append
from jepsen.checkers.elle.cycles import find_cycles
from jepsen.checkers.elle.dependencies import Dependencies
from jepsen.checkers.elle.graph import RW, WR, WW, Graph, components
from jepsen.checkers.elle.transactions import read_transactions
from jepsen.checkers.elle.versions import infer_versions
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import Op, OpType
from tests.jepsen.listappend import Builder, Load, concurrent, micros, one_after_another
from tests.jepsen.plants import PLANTS, g0, g1c, stale_read, very_stale_read

Plant = Callable[[Load], None]
# What a planted anomaly brings along, beside what it is called.
IMPLIED = {
    "G1a": {"dirty-update"},
    "G1b": {"G-single"},
    "lost-update": {"G-single", "G2-item"},
    "G-single": {"G-single-realtime", "G-nonadjacent", "G2-item"},
    "incompatible-order": {"G0-realtime", "G-single-realtime"},
    "duplicate-elements": set(),
    "internal": set(),
}


# -- long histories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_long_history_of_a_sound_database_is_valid(seed: int) -> None:
    verdict = check_append(Load(seed, info=0.05, fail=0.1).run(1500))
    assert verdict.valid is True, verdict.summary


@pytest.mark.parametrize(("plant", "names"), PLANTS, ids=[plant.__name__ for plant, _names in PLANTS])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_planted_anomaly_is_found_by_name(seed: int, plant: Plant, names: set[str]) -> None:
    verdict = check_append(Load(seed).run(600, [plant]))
    found = set(verdict.details)
    assert verdict.valid is False
    assert found & names, verdict.summary
    implied = set().union(*(IMPLIED.get(name, set()) for name in names))
    assert found <= names | implied, verdict.summary


@pytest.mark.parametrize(("plant", "names"), PLANTS, ids=[plant.__name__ for plant, _names in PLANTS])
def test_the_counterexample_is_small_and_enough(plant: Plant, names: set[str]) -> None:
    verdict = check_append(Load(3).run(600, [plant]))
    assert 2 <= len(verdict.counterexample) <= 12  # at most four transactions and two witnesses
    again = check_append(History(verdict.counterexample))
    assert again.valid is False, verdict.summary


def test_anomalies_in_different_places_are_all_found() -> None:
    verdict = check_append(Load(5).run(1500, [g0, stale_read, g1c]))
    assert set(verdict.details) == {"G0", "G-single-realtime", "G1c"}


def test_ten_thousand_transactions_take_seconds() -> None:
    """The limit is generous for slow machines; about 1 s is usual."""
    sound, broken = Load(7).run(10_000), Load(7).run(10_000, [very_stale_read])
    begun = time.process_time()
    assert check_append(sound).valid is True
    assert check_append(broken).valid is False
    assert time.process_time() - begun < 30


# -- models ----------------------------------------------------------------------------------------------


def test_each_model_forbids_what_it_must() -> None:
    skew = concurrent("ax1 ry", "ay1 rx")
    stale = one_after_another("ax1", "ax2", "rx[1]", "rx[1,2]")
    fork = concurrent("ax1", "rx[1] ry", "ay1", "ry[1] rx")
    verdicts = {
        (name, model): check_append(history, model=model).valid
        for name, history in (("skew", skew), ("stale", stale), ("fork", fork))
        for model in ("strict-serializable", "serializable", "snapshot-isolation")
    }
    assert verdicts == {
        ("skew", "strict-serializable"): False,
        ("skew", "serializable"): False,
        ("skew", "snapshot-isolation"): True,
        ("stale", "strict-serializable"): False,
        ("stale", "serializable"): True,
        ("stale", "snapshot-isolation"): True,
        ("fork", "strict-serializable"): False,
        ("fork", "serializable"): False,
        ("fork", "snapshot-isolation"): False,
    }


def test_unknown_model_is_refused() -> None:
    model: Any = "eventual"
    with pytest.raises(ValueError, match="unknown model 'eventual': use one of strict-serializable"):
        check_append(History(), model=model)


def test_nothing_committed_is_unknown() -> None:
    assert check_append(History()).valid is None
    assert check_append(one_after_another("!ax1", "?ax2")).valid is None


# -- explanations ----------------------------------------------------------------------------------------


def test_an_explanation_names_each_step_and_each_transaction() -> None:
    verdict = check_append(concurrent("ax1 ay1", "ax2 ry", "rx[1,2]"))
    [text] = verdict.details["G-single"]
    assert text == (
        "T1 read key y (nothing) and did not see T2's append of 1;"
        " T2 appended 1 to key x, and then came T1's append of 2: each comes before itself\n"
        "  T1 = op 4 (process 1, ok): append 2 to x, read y = []\n"
        "  T2 = op 3 (process 0, ok): append 1 to x, append 1 to y"
    )
    assert verdict.summary == "G-single in 3 transactions (3 committed), strict-serializable"


def test_real_time_is_one_step_however_much_lies_between() -> None:
    between = [f"ay{i}" for i in range(1, 30)]
    verdict = check_append(one_after_another("ax1", *between, "rx", "rx[1]"))
    [text] = verdict.details["G-single-realtime"]
    assert text.splitlines()[0] == (
        "T1 read key x (nothing) and did not see T2's append of 1;"
        " T2 completed before T1 began, in real time: each comes before itself"
    )
    assert [op.index for op in verdict.counterexample] == [0, 1, 60, 61]


def test_a_session_is_named_as_such() -> None:
    verdict = check_append(one_after_another("ax1", "ay1", "ay2", "ay3", "rx", process=4))
    [text] = verdict.details["G-single-process"]
    assert text.splitlines()[0] == (
        "T1 read key x (nothing) and did not see T2's append of 1;"
        " T2 completed before T1 began, in the same process: each comes before itself"
    )


def test_long_lists_and_long_cycles_are_abridged() -> None:
    load = Load(9)
    verdict = check_append(load.run(2000, [very_stale_read]))
    text = verdict.details["G-single"][0]
    assert "more steps" in text
    assert len(text) < 5000


def test_many_of_one_kind_are_counted() -> None:
    reads = [f"rx[{i}]" for i in range(1, 30)]
    verdict = check_append(concurrent(*reads))
    assert verdict.details["garbage-read"][-1] == "and 21 more"
    assert verdict.summary.startswith("garbage-read (29), incompatible-order (28) in")


# -- unknown and failed outcomes -------------------------------------------------------------------------


def test_what_nobody_saw_of_an_unknown_outcome_is_never_an_anomaly() -> None:
    history = one_after_another("?ax1 ay1", "rx ry", "ax2 ay2", "rx[2] ry[2]")
    assert check_append(history).valid is True


def test_one_seen_append_proves_the_whole_transaction() -> None:
    verdict = check_append(one_after_another("?ax1 ay1", "rx[1] ry"))
    assert set(verdict.details) == {"G-single"}


def test_an_unknown_outcome_may_come_true_after_its_end_but_not_before_its_beginning() -> None:
    assert check_append(one_after_another("?ax1", "ax2", "rx[2]", "rx[2,1]")).valid is True
    builder = Builder()
    for type, process, text in (
        (OpType.INVOKE, 0, "rx"),
        (OpType.OK, 0, "rx[1]"),
        (OpType.INVOKE, 1, "ax1"),
        (OpType.INFO, 1, "ax1"),
    ):
        builder.add(
            type, process, micros(text) if type is OpType.OK or text[0] == "a" else [["r", "x", None]]
        )
    assert set(check_append(builder.history()).details) == {"G1c-realtime"}


def test_a_process_that_goes_on_after_an_unknown_outcome_says_nothing_about_it() -> None:
    """Foreign histories do this: the lost request may still take effect after the process' next one."""
    assert check_append(one_after_another("?ax1", "rx", "rx[1]", process=0)).valid is True


def test_a_transaction_without_any_completion_counts_as_unknown() -> None:
    history = History(one_after_another("rx", "ax1")[:3])
    assert check_append(history).valid is True


# -- parts -----------------------------------------------------------------------------------------------


def test_components_come_sinks_first_and_keep_to_the_mask() -> None:
    graph = Graph(5)
    for a, b, kind in ((0, 1, WW), (1, 0, WW), (1, 2, WR), (2, 3, WW), (3, 2, RW), (3, 4, WW), (4, 4, WW)):
        graph.add(a, b, kind)
    assert [sorted(c) for c in components(graph, range(5), WW | WR | RW)] == [[4], [2, 3], [0, 1]]
    assert sorted(sorted(c) for c in components(graph, range(5), WW | WR)) == [[0, 1], [2], [3], [4]]
    assert sorted(sorted(c) for c in components(graph, [1, 2, 3], WW | WR | RW)) == [[1], [2, 3]]


def test_real_time_edges_are_few_and_their_closure_is_the_whole_order() -> None:
    found = read_transactions(Load(11, clients=6).run(300))
    dependencies = Dependencies(found, infer_versions(found))
    count = len(found.all)
    edges = {a: [b for b, kinds in out.items() if kinds & 16] for a, out in enumerate(dependencies.graph.out)}
    assert sum(map(len, edges.values())) <= 7 * count
    reach: dict[int, set[int]] = {}
    for a in reversed(range(count)):  # edges go to later invocations
        reach[a] = set(edges[a]).union(*(reach[b] for b in edges[a]))
    inside = set(dependencies.nodes)
    for a in inside:
        assert reach[a] == {b for b in inside if dependencies.precedes(a, b)}


def test_without_budget_an_anomaly_is_still_reported() -> None:
    found = read_transactions(Load(9).run(1000, [very_stale_read]))
    dependencies = Dependencies(found, infer_versions(found))
    strict = find_cycles(dependencies, allows_g2=False, with_order=False, steps_max=1)
    assert strict.found  # any cycle will do
    assert not strict.is_complete
    loose = find_cycles(dependencies, allows_g2=True, with_order=False, steps_max=1)
    assert not loose.is_complete


# -- malformed histories ---------------------------------------------------------------------------------


def _events(*events: tuple[str, Any]) -> History:
    return History(Op(i, OpType(kind), 0, "txn", value, i) for i, (kind, value) in enumerate(events))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([("invoke", 5)], r"op 0 \(txn\) has the value 5; expected a list of micro-operations"),
        (
            [("invoke", [["w", "x", 1]])],
            r"op 0 has the unknown micro-operation 'w' in \['w', 'x', 1\]; expected",
        ),
        ([("invoke", [7])], r"op 0 has the micro-operation 7; expected"),
        ([("invoke", [[]])], r"op 0 has the micro-operation \[\]; expected"),
        ([("invoke", [["r"]])], r"op 0 has a micro-operation without a usable key: \['r'\]; expected"),
        ([("invoke", [["r", ["x"], None]])], r"op 0 has a micro-operation without a usable key"),
        (
            [("invoke", [["append", "x"]])],
            r"op 0 appends no usable value to 'x': .*; expected \[:append key value\]",
        ),
        ([("invoke", [["append", "x", None]])], r"op 0 appends no usable value to 'x'"),
        ([("invoke", [["append", "x", [1]]])], r"op 0 appends no usable value to 'x'"),
        (
            [("invoke", [["append", "x", 1], ["append", "x", 1]])],
            r"op 0 appends the same value twice to one key",
        ),
        (
            [("invoke", [["append", "x", 1]]), ("fail", None), ("invoke", [["append", "x", 1]])],
            r"op 2 appends 1 to 'x' again \(first by op 0\); expected each value appended at most once",
        ),
        ([("ok", [["r", "x", [1]]])], r"index 0 without an invocation"),
        (
            [("invoke", [["r", "x", None]]), ("ok", [["r", "x", 1]])],
            r"op 1 reads 1 from 'x'; expected \[:r key \[",
        ),
        ([("invoke", [["r", "x", None]]), ("ok", [["r", "x", [[1]]]])], r"op 1 reads \[\[1\]\] from 'x'"),
        ([("invoke", [["r", "x", None]]), ("ok", None)], r"op 1 \(txn\) has the value None; expected a list"),
        (
            [("invoke", [["append", "x", 1]]), ("ok", [["append", "x", 2]])],
            r"op 1 completes op 0 with other micro-operations: .*; expected the invocation's micro-operations",
        ),
        (
            [("invoke", [["r", "x", None], ["r", "y", None]]), ("ok", [["r", "x", None]])],
            r"op 1 completes op 0 with other micro-operations",
        ),
    ],
)
def test_a_malformed_history_is_refused_by_index(events: list[tuple[str, Any]], message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        check_append(_events(*events))


def test_the_nemesis_and_values_of_failures_do_not_matter() -> None:
    builder = Builder()
    builder.add(OpType.INVOKE, 0, [["append", "x", 1]])
    builder.ops.append(Op(1, OpType.INFO, "nemesis", "start-kill", {"node": "n1"}, 1))
    builder.add(OpType.FAIL, 0, "no leader")
    builder.add(OpType.INVOKE, 0, [["r", "x"]])
    builder.add(OpType.OK, 0, [["r", "x", []]])
    assert check_append(builder.history()).valid is True
