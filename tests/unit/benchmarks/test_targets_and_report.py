"""Verdicts on targets, tables, pictures and publishing, from made-up samples."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import plots, publish, report
from tests.benchmarks.figures import Figure
from tests.benchmarks.groups.targets import SPREAD
from tests.benchmarks.measures import CURVE_SHARES, Sample
from tests.benchmarks.session import QUICK, Session
from tests.benchmarks.targets import Verdict, judge, ratio, scaling_series


@pytest.fixture(scope="module", autouse=True)
def fonts_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib keeps the files of its fonts open: that is not a leak of the test that draws first."""
    session = Session(tmp_path_factory.mktemp("fonts"), QUICK)
    _filled(session)
    plots.draw(session.folder, session, judge(session))


def _sample(driver: str, workload: str, clients: int, rate: float, **fields: object) -> Sample:
    curve = [1.0 + i / 10 for i in range(len(CURVE_SHARES))]
    return Sample(driver, workload, clients, 3, 1.0, rate, curve=curve, **fields)  # type: ignore[arg-type]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, QUICK)


def _verdict(session: Session, start: str) -> Verdict:
    return next(verdict for verdict in judge(session) if verdict.name.startswith(start))


def test_nothing_measured_is_no_verdict(session: Session) -> None:
    assert {verdict.word for verdict in judge(session)} == {"not measured"}


def test_one_writer_is_a_ratio_of_medians(session: Session) -> None:
    for ours, theirs in ((0.6, 1.0), (0.5, 1.0), (9.0, 1.1)):
        session.keep("targets", _sample("ours", "kv1k", 1, 1000.0, p50=ours))
        session.keep("targets", _sample("dqlite", "kv1k", 1, 900.0, p50=theirs))
    verdict = _verdict(session, "one writer")
    assert verdict.value == pytest.approx(0.6)
    assert verdict.word == "met"


def test_sixteen_writers_and_their_busy_errors(session: Session) -> None:
    session.keep("targets", _sample("ours", "kv1k", 16, 8000.0))
    session.keep("targets", _sample("dqlite", "kv1k", 16, 500.0, errors={"BUSY": 7}))
    assert _verdict(session, "16 writers: successful").value == 16.0
    assert _verdict(session, "16 writers: successful").word == "MISSED"
    assert _verdict(session, "16 writers: BUSY").word == "met"
    session.keep("targets", _sample("ours", "kv1k", 16, 8000.0, errors={"BUSY": 1}))
    assert _verdict(session, "16 writers: BUSY").word == "MISSED"


def test_writers_added_must_not_lower_the_rate(session: Session) -> None:
    for round_factor in (0.5, 1.0, 1.5):
        for writers, rate in ((1, 1000.0), (16, 8000.0), (64, 6000.0)):
            session.keep("scaling", _sample("ours", "insert", writers, rate * round_factor), x=writers)
    assert scaling_series(session) == [(1, 1000.0), (16, 8000.0), (64, 6000.0)]
    assert _verdict(session, "writers added").value == 0.75
    assert _verdict(session, "writers added").word == "MISSED"


def test_executemany_counts_rows(session: Session) -> None:
    session.keep("targets", _sample("ours", "batch1000", 1, 160.0, rows_per_op=1000))
    assert _verdict(session, "executemany").value == 160_000
    assert _verdict(session, "executemany").word == "met"


def test_apply_comes_from_its_own_figures(session: Session) -> None:
    session.figures.append(Figure("C apply to a bare C loop, worst workload", 0.9, "x", 0.95))
    session.figures.append(Figure("fdatasync, median", 0.1, "ms"))
    assert _verdict(session, "C apply").word == "MISSED"


def test_memory_is_judged_by_the_worst_node(session: Session) -> None:
    for n in range(16):
        session.curve("memory|node1", n * 1000, 100.0)
        session.curve("memory|node2", n * 1000, 100.0 + (50.0 if n > 11 else 0.0))
    assert _verdict(session, "memory").value == 1.5
    assert _verdict(session, "memory").word == "MISSED"


def test_reads_on_three_nodes(session: Session) -> None:
    session.keep("readers", _sample("ours", "read-stale", 64, 50.0), series="leader")
    session.keep("readers", _sample("ours", "read-stale", 64, 999.0), series="follower")
    for number, rate in enumerate((100.0, 120.0, 500.0)):
        session.curve(f"{SPREAD}|read-stale", number, rate)
    assert _verdict(session, "read-stale on three").value == pytest.approx(2.4)


def test_a_ratio_to_nothing_is_unknown() -> None:
    assert math.isnan(ratio(1.0, 0.0))
    assert math.isnan(ratio(1.0, float("nan")))


def test_a_bound_itself_is_met() -> None:
    assert Verdict("x", 0.7, "x", 0.7, True).word == "met"
    assert Verdict("x", 20.0, "x", 20, False).word == "met"
    assert Verdict("x", 0.71, "x", 0.7, True).word == "MISSED"


def _filled(session: Session) -> None:
    for number in range(2):
        session.keep("targets", _sample("ours", "kv1k", 1, 1000.0 + number * 100, p50=0.5))
        session.keep("targets", _sample("dqlite", "kv1k", 1, 900.0, p50=1.0, errors={"BUSY": 2}))
    session.keep("peers", _sample("sqlite-apsw", "kv1k", 16, 4000.0, note="no replication"))
    session.keep("open-loop", _sample("ours", "insert", 256, 100.0, offered=100.0, unserved=3), x=100.0)
    session.keep("nodes", _sample("ours", "insert", 1, 100.0), x=1, series="1 writers")
    session.curve("memory|node1", 1000, 50.0)
    session.texts["bench_core"] = "a line"
    session.failures.append("peers: etcd: it broke\nat length")
    session.skipped["rqlite"] = "rqlited is not on PATH"


def test_rounds_of_one_point_are_one_row(session: Session) -> None:
    _filled(session)
    rows = {title: rows for title, _columns, rows in report.tables(session, judge(session))}
    found = rows[report.TITLES["targets"]]
    assert len(found) == 2
    ours, theirs = found
    assert ours[3] == "1,050"
    assert theirs[8] == "BUSY 4"
    assert rows[report.TITLES["open-loop"]][0][8] == "not begun in time 3"


def test_files_and_pictures_are_written_and_published(session: Session, tmp_path: Path) -> None:
    _filled(session)
    folder, docs = tmp_path / "results" / "2026-01-02-030405", tmp_path / "docs"
    verdicts = judge(session)
    names = plots.draw(folder, session, verdicts)
    assert {
        "summary-targets",
        "throughput-kv1k",
        "latency-one-writer",
        "open-loop",
        "nodes",
        "memory",
    } <= set(names)
    assert "values" not in names
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    path = report.write(folder, {"cores": 2}, session, verdicts, "make bench", names)
    body = json.loads((folder / "results.json").read_text())
    assert body["targets"][0]["verdict"] == "met"
    assert body["targets"][1]["value"] is None
    assert len(body["samples"]) == 7
    text = path.read_text()
    for expected in ("not measured", "![memory](memory.svg)", "rqlited is not on PATH", "it broke", "a line"):
        assert expected in text
    assert "at length" not in text

    assert publish.newest(tmp_path / "results") == folder
    readme = publish.publish(folder, docs)
    assert readme.read_text() == text
    assert (docs / folder.name / "memory.svg").is_file()
    assert f"[{folder.name}]({folder.name}/README.md)" in (docs / "README.md").read_text()
    with pytest.raises(FileNotFoundError):
        publish.publish(tmp_path, docs)


def test_one_driver_that_fails_does_not_stop_the_others(session: Session) -> None:
    with session.tolerant("peers: etcd"):
        raise OSError("it is gone")
    assert session.failures == ["peers: etcd: OSError: it is gone"]
    with pytest.raises(KeyboardInterrupt), session.tolerant("x"):
        raise KeyboardInterrupt
