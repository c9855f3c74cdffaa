"""What other programs print or leave behind, read: dqlite-benchmark, hiqlite's bench, perf, apply_path."""

from __future__ import annotations

import pytest

from tests.benchmarks.counters import NodeRef, Used, per_operation, syncs_per_second
from tests.benchmarks.drivers.dqlite import parse_worker, tally_of, window_of
from tests.benchmarks.drivers.hiqlite import parse_inserts
from tests.benchmarks.groups.others import gil_us
from tests.benchmarks.measures import BUSY, Window

WORKER = """n 3
n_err 3
avg [ms] 2.046667
max [ms] 2.595484
min [ms] 1.125651
measurements [timestamp in ns] [ms]
1795818054000000000 2.595484
1795818055000000000 2.471129
1795818056500000000 1.125651

errors
1795818054100000000 database is locked
1795818055511043321 database is locked
1795818055711043321 context deadline exceeded
"""


def test_a_worker_of_dqlite_benchmark() -> None:
    worker = parse_worker(WORKER)
    assert worker.done == [(1795818054.0, 2.595484), (1795818055.0, 2.471129), (1795818056.5, 1.125651)]
    assert [text for _when, text in worker.errors] == [
        *["database is locked"] * 2,
        "context deadline exceeded",
    ]


def test_a_worker_that_only_failed() -> None:
    worker = parse_worker(
        "n 0\nn_err 1\nmeasurements [timestamp in ns] [ms]\n\nerrors\n5000000000 no leader\n"
    )
    assert worker.done == []
    assert worker.errors == [(5.0, "no leader")]


def test_a_line_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError):
        parse_worker("measurements [timestamp in ns] [ms]\nsomething else\n")


def test_busy_is_counted_apart_and_only_inside_the_window() -> None:
    tally = tally_of([parse_worker(WORKER)], Window(1795818054.5, 1795818057.0))
    assert list(tally.ms) == [2.471129, 1.125651]
    assert tally.done == 2
    assert dict(tally.errors) == {BUSY: 1, "context deadline exceeded": 1}


def test_the_window_ends_with_the_last_event() -> None:
    window = window_of([parse_worker(WORKER), parse_worker("measurements\n1795818056900000000 1.0\n")], 2.0)
    assert window.end_s == pytest.approx(1795818056.9)
    assert window.seconds == pytest.approx(2.0)
    with pytest.raises(ValueError):
        window_of([parse_worker("n 0\n")], 2.0)


def test_hiqlite_tells_rows_and_milliseconds() -> None:
    text = "\n\n>>> 10000 single INSERTs with concurrency 16 took:\n400 ms -> 25000 inserts / s\n\n"
    assert parse_inserts(text) == (10000, 0.4)
    with pytest.raises(ValueError):
        parse_inserts("panicked at")


def test_perf_intervals_become_calls_per_second() -> None:
    text = """     0.100161517,100,,syscalls:sys_enter_fsync,1000,100.00,,
     0.100161517,300,,syscalls:sys_enter_fdatasync,1000,100.00,,
     0.200000000,0,,syscalls:sys_enter_fsync,1000,100.00,,
     0.200000000,400,,syscalls:sys_enter_fdatasync,1000,100.00,,
"""
    assert syncs_per_second(text) == pytest.approx(4000)
    assert syncs_per_second("Error: no permission\n") is None
    assert syncs_per_second("     0.1,<not counted>,,syscalls:sys_enter_fsync,0,0,,\n") is None


def test_use_per_operation_by_all_nodes_and_by_the_leader() -> None:
    nodes = [NodeRef("a", 1, True), NodeRef("b", 2)]
    before = {1: Used(1.0, 1000), 2: Used(0.0, 0)}
    after = {1: Used(1.5, 5000), 2: Used(0.25, 2000)}
    found = per_operation(nodes, before, after, 1000)
    assert found == {"cpu_us": 750.0, "cpu_leader_us": 500.0, "write_bytes": 3.0}
    assert per_operation(nodes, before, after, 0)["cpu_us"] is None


def test_the_gil_is_read_from_the_line() -> None:
    assert gil_us("GIL held per unit at batch 256: 0.012 us by parts, 0.034 us by counting") == 0.012
    with pytest.raises(ValueError):
        gil_us("nothing")
