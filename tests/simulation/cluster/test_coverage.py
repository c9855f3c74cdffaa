"""The marks name functions that exist, count what they should, and leave nothing behind."""

from __future__ import annotations

import inspect

import pytest

from dqlite_py.model import Entry, EntryKind, LogIndex, Term
from dqlite_py.raft.log import LogStart, RaftLog
from tests.simulation.cluster.coverage import MARKS, Coverage, missing, owner_of, report
from tests.simulation.cluster.coverage_marks import EXTERNAL, PROBES, Probe


def test_marks_are_different() -> None:
    assert len(MARKS) == len(PROBES) + len(EXTERNAL)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: str(probe.mark))
def test_a_probe_fits_its_function(probe: Probe) -> None:
    function = vars(owner_of(probe))[probe.function]
    assert inspect.isfunction(function)
    assert sum((probe.before is not None or probe.after is not None, probe.failed is not None)) == 1
    positional = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for look, extra in ((probe.before, 0), (probe.after, 2)):
        if look is not None:
            inspect.signature(look).bind(*range(len(positional) + extra))


def test_marks_are_counted_and_everything_is_put_back() -> None:
    before = {probe.mark: vars(owner_of(probe))[probe.function] for probe in PROBES}
    coverage = Coverage()
    with coverage.installed():
        log = RaftLog(LogStart.of([Entry(LogIndex(i), Term(1), EntryKind.NOOP, b"") for i in (1, 2, 3)]), 1)
        log.evict(LogIndex(0))  # nothing to drop
        assert coverage.counts["cache evicted"] == 0
        log.evict(LogIndex(2))
    assert coverage.counts == {"cache evicted": 1}
    assert before == {probe.mark: vars(owner_of(probe))[probe.function] for probe in PROBES}


def test_an_unknown_mark_is_refused() -> None:
    with pytest.raises(KeyError, match="no such thing"):
        Coverage().hit("no such thing")


def test_what_was_not_reached_is_told() -> None:
    coverage = Coverage()
    coverage.hit("damage refused")
    assert "damage refused" not in missing(coverage.counts)
    assert "log truncated" in missing(coverage.counts)
    lines = report(coverage.counts).splitlines()
    assert len(lines) == len(MARKS)
    assert "damage refused" in lines[-1]
