"""The linearizability checker against real registers and against a brute-force checker; and its speed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.linearizable import check_register, search
from jepsen.history.history import History
from tests.jepsen.register_histories import is_linearizable, simulated, with_one_read_changed

SEEDS = st.integers(0, 2**32)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=SEEDS,
    clients=st.integers(1, 12),
    keys=st.integers(1, 4),
    values=st.none() | st.integers(2, 5),
    info_rate=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_histories_of_real_registers_are_linearizable(
    seed: int, clients: int, keys: int, values: int | None, info_rate: float
) -> None:
    history = simulated(seed, operations=120, clients=clients, keys=keys, values=values, info_rate=info_rate)
    verdict = check_register(history, time_limit_s=30)
    assert verdict.valid is not False, verdict.summary
    assert verdict.valid is True or "no operation completed" in verdict.summary


@pytest.fixture(params=["depth first", "best first"])
def _order_of_search(request: pytest.FixtureRequest) -> object:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "best first":
            patch.setattr(search, "DEPTH_FIRST_MIN", 1)
            patch.setattr(search, "DEPTH_FIRST_PER_CALL", 0)
        yield


@pytest.mark.usefixtures("_order_of_search")
@pytest.mark.parametrize("block", range(4))
def test_small_histories_have_the_verdict_of_brute_force(block: int) -> None:
    """One read of a valid history changed: both verdicts occur, each must agree; so must every counterexample."""
    seen = {True: 0, False: 0}
    for seed in range(block * 100, block * 100 + 100):
        history = simulated(
            seed,
            operations=8,
            clients=3 + seed % 3,
            keys=1,
            values=2 + seed % 3,
            info_rate=(0.0, 0.2, 0.5)[seed % 3],
            cas_rate=(0.2, 0.5)[seed % 2],
        )
        changed = with_one_read_changed(history, seed, [None, 0, 1, 2, 3])
        verdict = check_register(changed)
        if verdict.valid is None:
            continue
        assert verdict.valid is is_linearizable(changed), seed
        seen[verdict.valid] += 1
        if not verdict.valid:
            counterexample = History(verdict.counterexample)
            assert not is_linearizable(counterexample), seed
            assert verdict.details["core_is_minimal"]
            assert len(counterexample) <= len(changed)
    assert min(seen.values()) >= 10, seen


@pytest.mark.parametrize("values", [None, 5], ids=["unique values", "few values"])
@pytest.mark.parametrize("keys", [5, 20])
def test_ten_thousand_operations_within_a_minute(values: int | None, keys: int) -> None:
    history = simulated(1, operations=10_000, clients=10, keys=keys, values=values, info_rate=0.05)
    changed = with_one_read_changed(history, 7, [-1])
    started = time.monotonic()
    assert check_register(history).valid is True
    verdict = check_register(changed)
    assert verdict.valid is False
    assert verdict.details["core_is_minimal"]
    assert time.monotonic() - started < 60  # measured: under 1 s for both


def test_many_unknown_writes_on_one_key() -> None:
    """A third of the writes unknown, three values: the search must not try every subset of them."""
    history = simulated(2, operations=400, clients=6, keys=1, values=3, info_rate=0.3)
    verdict = check_register(history, time_limit_s=60)
    assert verdict.valid is True
    assert verdict.details["configurations"] < 100_000
