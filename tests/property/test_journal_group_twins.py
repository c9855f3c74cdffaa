"""C and Python make the same write groups, and put the same bytes into a file."""

from __future__ import annotations

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.raft.journal import format as fmt
from dqlite_py.raft.journal import native_group, python_group
from dqlite_py.raft.journal.group import Group

numbers = st.one_of(st.integers(1, 5), st.integers(1, fmt.NUMBER_END - 1000))
payloads = st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(bytes))
kinds = st.sampled_from(EntryKind)


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, int, int, int | None, list[Entry]]:
    """What both builders are called with."""
    first = draw(numbers)
    rows = draw(
        st.lists(st.tuples(numbers, kinds, payloads), max_size=draw(st.sampled_from([1, 7, 8, 9, 20])))
    )
    log = [Entry(LogIndex(first + i), Term(term), kind, data) for i, (term, kind, data) in enumerate(rows)]
    truncate_from = draw(st.one_of(st.none(), numbers))
    return (
        draw(numbers),
        draw(st.integers(0, 2**40)) * 8,
        draw(st.integers(0, 2**32 - 1)),
        truncate_from,
        log,
    )


@settings(deadline=None)
@given(groups())
def test_both_builders_agree(arguments: tuple[int, int, int, int | None, list[Entry]]) -> None:
    expected, offsets = fmt.build_group(*arguments)
    assert native_group.build_group(*arguments) == expected
    assert python_group.build_group(*arguments) == expected
    assert Group(*arguments).lay_out() == (offsets, len(expected))
    assert Group(*arguments).build() == expected


@settings(deadline=None, max_examples=40)
@given(groups(), st.integers(0, 5))
def test_both_write_the_same_file(
    arguments: tuple[int, int, int, int | None, list[Entry]], blocks: int
) -> None:
    sequence, _, salt, truncate_from, log = arguments
    at = blocks * 4096 + 8
    expected, _ = fmt.build_group(sequence, at, salt, truncate_from, log)
    for twin in (native_group, python_group):
        with tempfile.TemporaryFile() as file:
            os.pwrite(file.fileno(), b"\xff" * (at + len(expected) + 50), 0)
            twin.write_group(file.fileno(), sequence, at, salt, truncate_from, log)
            found = os.pread(file.fileno(), at + len(expected) + 100, 0)
        assert found[:at] == b"\xff" * at
        assert found[at:-50] == expected
        assert found[-50:] == b"\xff" * 50


def test_a_group_of_more_pieces_than_one_system_call_takes() -> None:
    log = [
        Entry(LogIndex(i), Term(1), EntryKind.COMMAND, bytes([i % 256]) * (i % 19)) for i in range(1, 3001)
    ]
    expected, offsets = fmt.build_group(7, 4096, 99, 1, log)
    with tempfile.TemporaryFile() as file:
        native_group.write_group(file.fileno(), 7, 4096, 99, 1, log)
        assert os.pread(file.fileno(), len(expected) + 1, 4096) == expected
    assert Group(7, 4096, 99, 1, log).lay_out() == (offsets, len(expected))
