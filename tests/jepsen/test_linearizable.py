"""The linearizability checker on small histories whose verdict is known, and what it says of a violation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jepsen.checkers.linearizable import (
    Counter,
    FifoQueue,
    GrowSet,
    Model,
    MultiRegister,
    Mutex,
    Register,
    by_key,
    check_model,
    check_register,
)
from jepsen.errors import HistoryError
from jepsen.history.history import History
from tests.jepsen.register_histories import is_linearizable, simulated, told, with_one_read_changed

TWO_UNKNOWN_WRITES = (
    "0 invoke write [1 5]\n0 info write [1 5]\n2 invoke write [1 5]\n2 info write [1 5]\n"
    "1 invoke read [1 nil]\n1 ok read [1 5]\n1 invoke write [1 6]\n1 ok write [1 6]\n"
    "1 invoke read [1 nil]\n1 ok read [1 5]"
)

VALID = {
    "one after the other": "0 invoke write [1 5]\n0 ok write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]",
    "absent at first": "0 invoke read [1 nil]\n0 ok read [1 nil]",
    "a read during the write sees the old value": (
        "0 invoke write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 nil]\n0 ok write [1 5]"
    ),
    "a read during the write sees the new value": (
        "0 invoke write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]\n0 ok write [1 5]"
    ),
    "unknown write took effect late": (
        "0 invoke write [1 5]\n0 info write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 nil]\n"
        "1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "unknown write never happened": (
        "0 invoke write [1 5]\n0 info write [1 5]\n1 invoke write [1 6]\n1 ok write [1 6]\n"
        "1 invoke read [1 nil]\n1 ok read [1 6]"
    ),
    "write without any completion": (
        "0 invoke write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "unknown read says nothing": "0 invoke read [1 nil]\n0 info read [1 nil]\n1 invoke write [1 2]\n1 ok write [1 2]",
    "unknown cas took effect between two reads": (
        "0 invoke write [1 1]\n0 ok write [1 1]\n0 invoke cas [1 [1 2]]\n0 info cas [1 [1 2]]\n"
        "1 invoke read [1 nil]\n1 ok read [1 1]\n1 invoke read [1 nil]\n1 ok read [1 2]"
    ),
    "two equal unknown writes both used": TWO_UNKNOWN_WRITES,
    "keys are independent": (
        "0 invoke write [1 5]\n0 ok write [1 5]\n1 invoke read [2 nil]\n1 ok read [2 nil]\n"
        '1 invoke write ["x" 1]\n1 ok write ["x" 1]'
    ),
    "a failed cas did nothing": (
        "0 invoke write [1 5]\n0 ok write [1 5]\n1 invoke cas [1 [5 6]]\n1 fail cas [1 [5 6]]\n"
        "1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
}

INVALID = {
    "stale read": (
        "0 invoke write [1 5]\n0 ok write [1 5]\n0 invoke write [1 6]\n0 ok write [1 6]\n"
        "1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "lost update": ("0 invoke write [1 5]\n0 ok write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 nil]"),
    "read of a failed write": (
        "0 invoke write [1 5]\n0 fail write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "both cas succeed": (
        "0 invoke write [1 0]\n0 ok write [1 0]\n1 invoke cas [1 [0 1]]\n2 invoke cas [1 [0 2]]\n"
        "1 ok cas [1 [0 1]]\n2 ok cas [1 [0 2]]"
    ),
    "the new value goes away again": (
        "0 invoke write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]\n"
        "2 invoke read [1 nil]\n2 ok read [1 nil]\n0 ok write [1 5]"
    ),
    "read before the write began": (
        "1 invoke read [1 nil]\n1 ok read [1 5]\n0 invoke write [1 5]\n0 ok write [1 5]"
    ),
    "unknown write read before it began": (
        "1 invoke read [1 nil]\n1 ok read [1 5]\n0 invoke write [1 5]\n0 info write [1 5]"
    ),
    "one unknown write used twice": (
        "0 invoke write [1 5]\n0 info write [1 5]\n1 invoke read [1 nil]\n1 ok read [1 5]\n"
        "1 invoke write [1 6]\n1 ok write [1 6]\n1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "two equal unknown writes used three times": (
        f"{TWO_UNKNOWN_WRITES}\n1 invoke write [1 7]\n1 ok write [1 7]\n1 invoke read [1 nil]\n1 ok read [1 5]"
    ),
    "a value out of nothing": "1 invoke read [1 nil]\n1 ok read [1 9]",
    "true is not 1": "0 invoke write [1 1]\n0 ok write [1 1]\n1 invoke read [1 nil]\n1 ok read [1 true]",
}


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    verdict = check_register(told(VALID[name]))
    assert verdict.valid is True, verdict.summary
    assert verdict.counterexample == []


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    history = told(INVALID[name])
    verdict = check_register(history)
    assert verdict.valid is False
    assert "not linearizable" in verdict.summary
    # The counterexample is a part of the history, in order, and a violation by itself.
    assert [op for op in history if op in verdict.counterexample] == verdict.counterexample
    assert not is_linearizable(History(verdict.counterexample))
    assert verdict.details["core_is_minimal"] is True
    json.dumps(verdict.details)


# Small histories of Knossos' collection (github.com/jepsen-io/knossos, data/cas-register), told again: one register
# without keys; a nil that was read there means that the client learnt nothing.
KNOSSOS = {
    "immediate-failure": (False, "1 invoke read\n101 invoke write 3\n101 fail write 3\n1 ok read 3"),
    "rethink-fail-minimal": (
        False,
        "0 invoke write 0\n0 ok write 0\n1 invoke read\n2 invoke write 4\n1 ok read 3\n2 ok write 4\n"
        "3 invoke read\n3 ok read 4",
    ),
    "cas-register-bug": (
        True,
        "4 invoke write 2\n4 ok write 2\n6 invoke read\n1 invoke write 4\n1 ok write 4\n14 invoke read 4\n"
        "14 ok read 4\n9 invoke write 0\n9 ok write 0\n19 invoke read 0\n19 ok read 0",
    ),
}


@pytest.mark.parametrize("name", KNOSSOS)
def test_published_verdicts(name: str) -> None:
    valid, text = KNOSSOS[name]
    assert check_register(told(text), keyed=None, nil_is_unknown=True).valid is valid


def test_the_report_says_where_it_went_wrong() -> None:
    noise = "".join(f"7 invoke read [1 nil]\n7 ok read [1 {value}]\n" for value in (6, 6, 6))
    before = "".join(
        f"{client} invoke write [1 {value}]\n{client} ok write [1 {value}]\n"
        f"7 invoke read [1 nil]\n7 ok read [1 {value}]\n"
        for client, value in ((3, 1), (4, 2), (3, 3), (0, 5), (4, 6))
    )
    after = "5 invoke write [1 8]\n5 ok write [1 8]\n6 invoke read [1 nil]\n6 ok read [1 8]\n"
    history = told(f"{before}{noise}1 invoke read [1 nil]\n1 ok read [1 5]\n{noise}{after}")
    verdict = check_register(history)
    assert [(op.process, op.type, op.f, op.value[1]) for op in verdict.counterexample] == [
        (0, "invoke", "write", 5),
        (0, "ok", "write", 5),
        (4, "invoke", "write", 6),
        (4, "ok", "write", 6),
        (1, "invoke", "read", None),
        (1, "ok", "read", 5),
    ]
    details = verdict.details
    assert details["key"] == "1"
    assert (details["blocked"]["f"], details["blocked"]["value"], details["blocked"]["process"]) == (
        "read",
        5,
        1,
    )
    assert details["linearized"] == 13  # everything before the bad read
    assert details["dead_ends"][0]["state"] == 6
    assert details["dead_ends"][0]["impossible_next"] == [details["blocked"]]
    assert "read 5 of index 26" in verdict.summary


def test_the_counterexample_keeps_the_unknown_write_that_explains_it() -> None:
    """A value may come from a write of unknown outcome; leaving that write out would make another violation."""
    history = told(INVALID["one unknown write used twice"])
    verdict = check_register(history)
    assert {(op.f, op.type, op.value[1]) for op in verdict.counterexample} >= {
        ("write", "info", 5),
        ("write", "ok", 6),
    }


def test_only_the_failing_key_is_shown() -> None:
    good = simulated(3, operations=60, keys=3)
    bad = INVALID["stale read"].replace("[1 ", "[99 ").replace("0 ", "900 ", 1).replace("\n0 ", "\n900 ")
    history = History(
        [*good, *(replace(op, index=op.index + len(good)) for op in told(bad.replace("\n1 ", "\n901 ")))]
    )
    verdict = check_register(history)
    assert verdict.valid is False
    assert verdict.details["invalid_keys"] == ["99"]
    assert {op.value[0] for op in verdict.counterexample} == {99}


def test_nothing_completed_is_unknown_not_passed() -> None:
    for text in ("0 invoke write [1 2]\n0 info write [1 2]", "0 invoke read [1 nil]\n0 fail read [1 nil]"):
        verdict = check_register(told(text))
        assert verdict.valid is None
        assert "no operation completed" in verdict.summary
    assert check_register(History()).valid is None


def test_out_of_time_is_unknown() -> None:
    history = simulated(1, operations=3000, clients=20, keys=1, values=4)
    verdict = check_register(history, time_limit_s=0.0)
    assert verdict.valid is None
    assert "not decided within 0 s" in verdict.summary
    assert verdict.details["unknown_keys"] == ["0"]


def test_single_registers_are_told_from_keyed_ones() -> None:
    single = told(
        "0 invoke write 1\n0 ok write 1\n0 invoke cas [1 2]\n0 ok cas [1 2]\n0 invoke read\n0 ok read 2"
    )
    assert check_register(single, keyed=False).valid is True
    assert check_register(single, keyed=None).valid is True
    assert check_register(told(INVALID["stale read"]), keyed=None).details["key"] == "1"
    with pytest.raises(HistoryError, match=r"write at index 0 has value 1; expected .key value.*keyed=False"):
        check_register(single)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "0 invoke increment [1 1]\n0 ok increment [1 1]",
            "'increment' with value 1 at index 0 is no register operation",
        ),
        ("0 invoke cas [1 2]\n0 ok cas [1 2]", "'cas' with value 2 at index 0"),
    ],
)
def test_foreign_operations_are_told(text: str, said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        check_register(told(text))


def test_initial_values() -> None:
    text = "0 invoke read [1 nil]\n0 ok read [1 0]\n0 invoke cas [1 [0 3]]\n0 ok cas [1 [0 3]]"
    assert check_register(told(text), initial=0).valid is True
    assert check_register(told(text)).valid is False


def test_an_unknown_write_of_the_initial_value_may_come_late() -> None:
    text = (
        "0 invoke write [1 0]\n0 info write [1 0]\n1 invoke read [1 nil]\n1 ok read [1 0]\n"
        "1 invoke write [1 1]\n1 ok write [1 1]\n1 invoke read [1 nil]\n1 ok read [1 0]"
    )
    assert check_register(told(text), initial=0).valid is True


def test_what_decides_nothing_is_not_counted() -> None:
    details = check_register(told(VALID["unknown read says nothing"])).details
    assert (details["operations"], details["unknown_outcomes"]) == (1, 0)


MODELS: list[tuple[Model, bool, str]] = [
    (
        GrowSet(),
        True,
        "0 invoke add 1\n1 invoke read\n1 ok read [1]\n0 ok add 1\n1 invoke read\n1 ok read [1]",
    ),
    (GrowSet(), False, "0 invoke add 1\n0 ok add 1\n1 invoke read\n1 ok read []"),
    (
        GrowSet(),
        True,
        "0 invoke add 1\n0 info add 1\n2 invoke add 2\n2 ok add 2\n1 invoke read\n1 ok read [2 1]",
    ),
    (
        GrowSet(),
        False,
        "0 invoke add 1\n0 info add 1\n1 invoke read\n1 ok read [1]\n1 invoke read\n1 ok read #{}",
    ),
    (Counter(), True, "0 invoke add 2\n1 invoke add 3\n0 ok add 2\n2 invoke read\n2 ok read 2\n1 ok add 3"),
    (Counter(), False, "0 invoke add 2\n0 ok add 2\n1 invoke add 3\n1 ok add 3\n2 invoke read\n2 ok read 3"),
    (
        FifoQueue(),
        True,
        "0 invoke enqueue 1\n1 invoke enqueue 2\n0 ok enqueue 1\n1 ok enqueue 2\n"
        "0 invoke dequeue\n0 ok dequeue 2\n0 invoke dequeue\n0 ok dequeue 1\n0 invoke dequeue\n0 ok dequeue nil",
    ),
    (
        FifoQueue(),
        False,
        "0 invoke enqueue 1\n0 ok enqueue 1\n1 invoke enqueue 2\n1 ok enqueue 2\n"
        "0 invoke dequeue\n0 ok dequeue 2",
    ),
    (
        FifoQueue(),
        True,
        "0 invoke enqueue 1\n0 ok enqueue 1\n1 invoke dequeue\n1 info dequeue\n"
        "0 invoke dequeue\n0 ok dequeue nil",
    ),
    (
        Mutex(),
        True,
        "0 invoke acquire\n0 ok acquire\n1 invoke acquire\n0 invoke release\n0 ok release\n1 ok acquire",
    ),
    (
        Mutex(),
        False,
        "0 invoke acquire\n0 ok acquire\n1 invoke acquire\n1 ok acquire\n0 invoke release\n0 ok release",
    ),
    (
        MultiRegister({"x": 0, "y": 0}),
        True,
        '0 invoke txn [[:w "x" 1] [:w "y" 1]]\n1 invoke txn [[:r "x" nil] [:r "y" nil]]\n'
        '1 ok txn [[:r "x" 1] [:r "y" 1]]\n0 ok txn [[:w "x" 1] [:w "y" 1]]',
    ),
    (
        MultiRegister({"x": 0, "y": 0}),
        False,
        '0 invoke txn [[:w "x" 1] [:w "y" 1]]\n1 invoke txn [[:r "x" nil] [:r "y" nil]]\n'
        '1 ok txn [[:r "x" 1] [:r "y" 0]]\n0 ok txn [[:w "x" 1] [:w "y" 1]]',
    ),
]


@pytest.mark.parametrize(
    ("model", "valid", "text"), MODELS, ids=[f"{m.name}-{n}" for n, (m, _, _) in enumerate(MODELS)]
)
def test_other_data_types(model: Model, valid: bool, text: str) -> None:
    verdict = check_model(told(text), model)
    assert verdict.valid is valid, verdict.summary
    assert bool(verdict.counterexample) is not valid
    if not valid:
        assert check_model(History(verdict.counterexample), model).valid is False
    json.dumps(verdict.details)


@pytest.mark.parametrize("model", [Register(), GrowSet(), Counter(), FifoQueue(), Mutex(), MultiRegister()])
def test_every_model_refuses_what_it_does_not_have(model: Model) -> None:
    with pytest.raises(HistoryError, match=f"'bogus' with value 1 at index 0 is no {model.name} operation"):
        check_model(told("0 invoke bogus 1\n0 ok bogus 1"), model)


def test_partition_of_other_models() -> None:
    text = "0 invoke add [:a 1]\n0 ok add [:a 1]\n0 invoke read [:b nil]\n0 ok read [:b 0]"
    assert check_model(told(text), Counter(), partition=by_key).valid is True


def test_a_changed_read_is_found_in_a_long_history() -> None:
    history = with_one_read_changed(simulated(5, operations=2000), 5, [10**6])
    verdict = check_register(history)
    assert verdict.valid is False
    assert [op.value[1] for op in verdict.counterexample if op.type == "ok"] == [10**6]
