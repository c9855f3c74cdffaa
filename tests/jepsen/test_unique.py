"""Unique ids and sequences: against a comparison of all pairs, on long histories, and on malformed ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.unique import check_sequence, check_unique_ids
from jepsen.errors import HistoryError
from jepsen.history.history import History
from jepsen.history.op import OpType
from jepsen.verdict import Verdict
from tests.jepsen.listappend import Builder


@st.composite
def histories(draw: st.DrawFn) -> History:
    builder = Builder()
    running: list[int] = []
    free = 0
    for _ in range(draw(st.integers(2, 20))):
        if not running or (len(running) < 4 and draw(st.booleans())):
            builder.add(OpType.INVOKE, free, None, "generate")
            running.append(free)
            free += 1
            continue
        process = running.pop(draw(st.integers(0, len(running) - 1)))
        kind = draw(st.sampled_from([OpType.OK] * 5 + [OpType.INFO, OpType.FAIL]))
        given_id = draw(st.integers(0, 3)) + free if kind is OpType.OK else None
        builder.add(kind, process, given_id, "generate")
    return builder.history()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(histories())
def test_verdicts_are_those_of_comparing_all_pairs(history: History) -> None:
    done = [(p.invoke.index, p.completion) for p in history.pairs() if p.completion and p.type is OpType.OK]
    unique = len({op.value for _begin, op in done}) == len(done)
    growing = all(a.value < b.value for _a, a in done for begin, b in done if a.index < begin)
    assert check_unique_ids(history).valid is (unique if done else None)
    assert check_sequence(history).valid is (unique and growing if done else None)


def simulate(seed: int, count: int) -> Builder:
    """A counter under ten clients: ids are drawn at some moment between invocation and completion."""
    rng, builder, following = random.Random(seed), Builder(), 0
    drawn: dict[int, int | None] = {}
    while following < count or drawn:
        process = rng.randrange(10)
        if process not in drawn:
            if following < count:
                builder.add(OpType.INVOKE, process, None, "generate")
                drawn[process] = None
        elif drawn[process] is None:
            following += 1
            drawn[process] = following
        else:
            builder.add(OpType.OK, process, drawn.pop(process), "generate")
    return builder


def test_ten_thousand_ids_of_a_counter_are_valid() -> None:
    history = simulate(1, 10_000).history()
    assert check_unique_ids(history).valid is True
    assert check_sequence(history).valid is True


def test_one_id_of_the_past_among_thousands_is_found() -> None:
    builder = simulate(2, 10_000)
    builder.add(OpType.INVOKE, 99, None, "generate")
    builder.add(OpType.OK, 99, 0, "generate")
    assert check_unique_ids(builder.history()).valid is True
    verdict = check_sequence(builder.history())
    assert set(verdict.details) == {"not-increasing"}
    assert len(verdict.details["not-increasing"]) == 1
    assert verdict.counterexample[-1].value == 0


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (check_unique_ids, None, r"op 1 generates None; expected an id: a number or a string"),
        (check_unique_ids, [1], r"op 1 generates \[1\]; expected an id"),
        (check_sequence, "a", r"op 1 generates 'a'; expected a whole number"),
        (check_sequence, True, r"op 1 generates True; expected a whole number"),
    ],
)
def test_malformed_ids_are_refused_by_index(
    check: Callable[[History], Verdict], value: object, message: str
) -> None:
    builder = Builder()
    builder.add(OpType.INVOKE, 0, None, "generate")
    builder.add(OpType.OK, 0, value, "generate")
    with pytest.raises(HistoryError, match=message):
        check(builder.history())
