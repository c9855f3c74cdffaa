"""The long-fork checker against a comparison of all pairs of reads, on long histories, and on malformed ones."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.long_fork import check_long_fork
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import OpType
from tests.jepsen.listappend import Builder

SIZE = 3


def written(builder: Builder, keys: int) -> None:
    for key in range(keys):
        builder.add(OpType.INVOKE, 0, [["w", key, 1]])
        builder.add(OpType.OK, 0, [["w", key, 1]])


def read(builder: Builder, group: int, seen: set[int]) -> None:
    keys = range(group * SIZE, (group + 1) * SIZE)
    builder.add(OpType.INVOKE, 1, [["r", key, None] for key in keys])
    builder.add(OpType.OK, 1, [["r", key, 1 if key in seen else None] for key in keys])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1), st.sets(st.integers(0, 2))), min_size=1, max_size=6))
def test_a_fork_is_a_pair_of_reads_neither_of_which_contains_the_other(
    reads: list[tuple[int, set[int]]],
) -> None:
    builder = Builder()
    written(builder, 2 * SIZE)
    for group, offsets in reads:
        read(builder, group, {group * SIZE + offset for offset in offsets})
    forked = any(a[0] == b[0] and a[1] - b[1] and b[1] - a[1] for a, b in combinations(reads, 2))
    verdict = check_long_fork(builder.history(), group_size=SIZE)
    assert (verdict.valid is False) == bool(forked)
    assert ("fork" in verdict.details) == bool(forked)
    partial = any(0 < len(seen) < SIZE for _group, seen in reads)
    assert (verdict.valid is None) == (not partial)


def simulate(seed: int, groups: int, fork_in: int | None = None) -> History:
    """Reads of old and new states of each group, in any order of time. `fork_in`: two orders in this group."""
    rng, builder = random.Random(seed), Builder()
    written(builder, groups * SIZE)
    for group in range(groups):
        order = list(range(group * SIZE, (group + 1) * SIZE))
        rng.shuffle(order)
        for _ in range(15):
            read(builder, group, set(order[: rng.randint(0, SIZE)]))
        if group == fork_in:
            read(builder, group, {order[0]})
            read(builder, group, {order[1]})
    return builder.history()


def test_ten_thousand_reads_that_agree_are_valid() -> None:
    verdict = check_long_fork(simulate(1, 670), group_size=SIZE)
    assert verdict.valid is True
    assert verdict.details["reads"] == 10_050


def test_one_fork_among_thousands_of_reads_is_found() -> None:
    verdict = check_long_fork(simulate(2, 300, fork_in=200), group_size=SIZE)
    assert verdict.valid is False
    assert "fork" in verdict.details
    keys = {micro[1] for op in verdict.counterexample for micro in op.value}
    assert keys <= {600, 601, 602}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [("invoke", [["cas", 0, 1]])],
            r"op 0 has the micro-operation \['cas', 0, 1\]; expected a single write",
        ),
        ([("invoke", None)], r"op 0 has the micro-operation None; expected a single write"),
        ([("invoke", [["w", 0, 1], ["w", 1, 1]])], r"op 0 has the value .*; expected a single write"),
        ([("invoke", [["w", 0, 1], ["r", 1, None]])], r"op 0 has the value .*; expected a single write"),
        (
            [("invoke", [["w", 0, 1]]), ("ok", [["w", 0, 1]]), ("invoke", [["w", 0, 1]])],
            r"op 2 writes key 0 again \(first by op 0\); expected each key written once",
        ),
        (
            [("invoke", [["r", 0, None], ["r", 1, None]]), ("ok", [["r", 0, 1], ["r", 1, None]])],
            r"op 1 reads the keys \[0, 1\]; expected each key of one group of 3 once, for example \[0, 1, 2\]",
        ),
        (
            [("invoke", [["r", k, None] for k in (1, 2, 3)]), ("ok", [["r", k, None] for k in (1, 2, 3)])],
            r"op 1 reads the keys \[1, 2, 3\]; expected each key of one group",
        ),
    ],
)
def test_malformed_histories_are_refused_by_index(events: list[tuple[str, Any]], message: str) -> None:
    builder = Builder()
    for kind, value in events:
        builder.add(OpType(kind), 0, value)
    with pytest.raises(HistoryError, match=message):
        check_long_fork(builder.history(), group_size=SIZE)


def test_a_group_has_at_least_one_key() -> None:
    with pytest.raises(ValueError, match="group_size is 0: it must be at least 1"):
        check_long_fork(History(), group_size=0)
