"""EDN text to data and back, and what is said of text that is not EDN."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.errors import HistoryError
from jepsen.history.edn import EdnSet, Symbol, dumps, freeze, read_forms, read_one
from jepsen.history.op import Keyword


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nil", None),
        ("true", True),
        ("-17", -17),
        ("+4", 4),
        ("12345678901234567890N", 12345678901234567890),
        ("1.5e3", 1500.0),
        ("2.50M", 2.5),
        ("-3/4", Fraction(-3, 4)),
        ("6/3", 2),
        ("##-Inf", -math.inf),
        (":append", "append"),
        (":jepsen.core/x", "jepsen.core/x"),
        ("some-symbol", "some-symbol"),
        ("->x", "->x"),
        ("-", "-"),
        (r'"a \"b\" \\ \n \u00e9"', 'a "b" \\ \n é'),
        ('"semicolon ; and #{ brackets ]"', "semicolon ; and #{ brackets ]"),
        (r"[\a \newline \u0041 \(]", ["a", "\n", "A", "("]),
        ("(1 2, 3)", [1, 2, 3]),
        ("#{3 1 2}", [3, 1, 2]),
        ("{:a 1, :b {:c [nil]}}", {"a": 1, "b": {"c": [None]}}),
        ("{[1 2] :pair}", {(1, 2): "pair"}),
        ("#jepsen.history.Op{:index 0, :f :read}", {"index": 0, "f": "read"}),
        ('#inst "2024-01-01"', "2024-01-01"),
        ("#:db{:id 1, :other/x 2}", {"db/id": 1, "other/x": 2}),
        ("[1 #_ 2 #_ #_ 3 4 #_ #tag 5 6]", [1, 6]),
        ("#tag #_ 1 2", 2),
        ("^{:line 1} [1]", [1]),
        ("[1 ; not 2\n 3]", [1, 3]),
        ("[]", []),
        ("{}", {}),
    ],
)
def test_reads_what_clojure_prints(text: str, value: Any) -> None:
    read = read_one(text)
    assert read == value
    assert type(read) is type(value) or isinstance(read, (Keyword, Symbol, EdnSet))


def test_reads_not_a_number() -> None:
    assert math.isnan(read_one("##NaN"))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("{:a 1}\n{:a", 2, "never closed"),
        ("{:a 1}\n\n{:a}", 3, "pairs of keys and values"),
        ("[1 2\n 3)", 2, r"expected '\]' for '\['"),
        ("1\n]", 2, "unexpected ']'"),
        ('{:a 1}\n{:b "x}', 2, "a string that is closed"),
        ("1\n2\n12abc", 3, "cannot read '12abc'; expected a number"),
        ("1/0", 1, "a number"),
        (": 1", 1, "keyword"),
        ('"\\q"', 1, "known escape"),
        ("\\bogus", 1, "a character"),
        ("##Foo", 1, "unknown symbolic value"),
        ("##[1]", 1, "unknown symbolic value"),
        ("[1 #_]", 1, "a value after '#_'"),
        ("#tag", 1, "a value after '#tag'"),
    ],
)
def test_an_error_names_file_line_and_what_was_expected(text: str, line: int, said: str) -> None:
    with pytest.raises(HistoryError, match=said) as caught:
        read_forms(text, "some.edn")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"some.edn:{line}: ")


def test_one_value_is_one_value() -> None:
    with pytest.raises(HistoryError, match="2 values"):
        read_one("1 2")
    with pytest.raises(HistoryError, match="0 values"):
        read_one("; nothing")


def test_forms_know_their_lines_in_lines_and_in_one_vector() -> None:
    assert [form.line for form in read_forms("{:a 1}\n; x\n{:a 2}\n")] == [1, 3]
    assert [form.line for form in read_forms("\n[{:a 1}\n {:a [1\n 2]}\n{:a 3}]")] == [2, 3, 5]
    assert [form.value for form in read_forms("({:a 1} {:a 2})")] == [{"a": 1}, {"a": 2}]


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.fractions().filter(lambda ratio: ratio.denominator != 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"[a-z][a-z0-9\-]{0,8}", fullmatch=True).map(Keyword),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.integers() | st.from_regex(r"[a-z]{1,5}", fullmatch=True).map(Keyword), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True)
@given(_PLAIN)
def test_what_was_written_is_read_again(value: Any) -> None:
    text = dumps(value)
    assert "\n" not in text
    again = read_one(text)
    assert again == value
    assert dumps(again) == text


def test_sets_are_written_as_sets() -> None:
    assert dumps(read_one("#{3 1}")) == "#{3 1}"
    assert dumps({2, 1}) == "#{1 2}"


def test_what_edn_cannot_hold_is_refused() -> None:
    with pytest.raises(HistoryError, match="object"):
        dumps(object())


def test_frozen_values_are_equal_only_for_equal_data() -> None:
    assert freeze([1, {"a": [2]}]) == freeze([1, {"a": [2]}])
    assert freeze(True) != freeze(1)
    assert freeze(EdnSet([1, 2])) == freeze(EdnSet([2, 1]))
    assert hash(freeze({"a": [EdnSet([1])]})) is not None
