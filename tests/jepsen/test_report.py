"""The report of a small history: numbers, pictures, counterexamples, pages; nothing unescaped."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jepsen.errors import SetupError
from jepsen.history.history import History, read_history, write_history
from jepsen.history.op import NEMESIS, Op, OpType
from jepsen.report.folder import write_run
from jepsen.report.index import read_runs, write_index
from jepsen.report.plots import draw
from jepsen.report.series import Fault, end_of, faults_of, points_of, quantiles, rates
from jepsen.report.svg import sparkline, timeline
from jepsen.run.options import Result, combine
from jepsen.verdict import Verdict

MS = 1_000_000
EVIL = "<script>alert('1')</script>"


@pytest.fixture(scope="module", autouse=True)
def _fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib keeps the font files open that it used once; the leak check shall find them open already."""
    draw(_history(), tmp_path_factory.mktemp("fonts"), "x")


def _history() -> History:
    """10 s: ok reads every 100 ms of 10 ms each, a fault from 2 to 5 s, one unknown and one failed write."""
    ops: list[tuple[OpType, int | str, str, object, int, str | None]] = []
    for number in range(100):
        ops.append((OpType.INVOKE, 0, "read", None, number * 100 * MS, None))
        ops.append((OpType.OK, 0, "read", number, (number * 100 + 10) * MS, None))
    ops.append((OpType.INFO, NEMESIS, "start-kill", ["n1"], 2000 * MS, None))
    ops.append((OpType.INFO, NEMESIS, "stop-kill", None, 5000 * MS, None))
    ops.append((OpType.INVOKE, 1, "write", EVIL, 2100 * MS, None))
    ops.append((OpType.INFO, 1, "write", EVIL, 4100 * MS, EVIL))
    ops.append((OpType.INVOKE, 2, "write", 3, 2200 * MS, None))
    ops.append((OpType.FAIL, 2, "write", 3, 2300 * MS, "refused"))
    ops.append((OpType.INVOKE, 3, "write", 4, 9000 * MS, None))
    ops.sort(key=lambda row: row[4])
    return History(Op(n, *row[:5], error=row[5]) for n, row in enumerate(ops))


def _result(folder: Path, *, valid: bool | None = False) -> Result:
    folder.mkdir(parents=True)
    history = _history()
    write_history(folder / "history.edn", history)
    example = [op for op in history if op.process == 1] if valid is False else []
    return Result(
        "register",
        "kill",
        folder,
        "2030-01-02T03:04:05",
        [Verdict("linearizable", valid, f"a summary {EVIL}", {"n": 1}, example)],
        {"read": {"ok": 100, "fail": 0, "info": 0}},
        {"seed": 7, "repeat": "python -m jepsen run …"},
    )


def test_faults_last_from_start_to_stop_or_to_the_end() -> None:
    assert faults_of(_history()) == [Fault("kill", 2.0, 5.0)]
    ops = [
        Op(0, OpType.INFO, NEMESIS, "start-pause", None, 1000 * MS),
        Op(1, OpType.INFO, 0, "x", None, 4000 * MS),
    ]
    assert faults_of(History(ops)) == [Fault("pause", 1.0, 4.0)]


def test_a_fault_that_could_not_be_started_is_not_shaded() -> None:
    ops = [
        Op(0, OpType.INFO, NEMESIS, "start-pause", {"error": "no"}, 0),
        Op(1, OpType.INFO, 0, "x", None, MS),
    ]
    assert faults_of(History(ops)) == []


def test_a_stop_that_failed_leaves_the_fault_in_force_until_the_final_healing() -> None:
    names = [("start-cut", None), ("stop-cut", {"error": "no"}), ("final-cut", None)]
    ops = [Op(n, OpType.INFO, NEMESIS, f, value, n * 1000 * MS) for n, (f, value) in enumerate(names)]
    assert faults_of(History(ops)) == [Fault("cut", 0.0, 2.0)]


def test_numbers_behind_the_pictures() -> None:
    history = _history()
    points, end_s = points_of(history), end_of(history)
    middles, curves = rates(points, end_s, 10)
    assert len(middles) == 10
    assert sum(curves["read", OpType.OK]) * end_s / 10 == pytest.approx(100)
    assert sum(curves["write", OpType.INFO]) * end_s / 10 == pytest.approx(2)
    assert [y for _x, y in quantiles(points, end_s, 5)[0.5]] == pytest.approx([0.01] * 5)
    open_write = [point for point in points if point.start_s == 9.0 and point.f == "write"]
    assert open_write[0].outcome is OpType.INFO  # no completion: unknown, until the end


def test_a_timeline_is_well_formed_and_escaped() -> None:
    svg = timeline([op for op in _history() if op.is_client])
    ElementTree.fromstring(svg)
    assert EVIL not in svg
    assert "&lt;script&gt;" in svg
    assert "to ?" in svg  # the unknown write has an open end


def test_a_sparkline_is_well_formed_and_shades_the_fault() -> None:
    svg = sparkline(_history())
    ElementTree.fromstring(svg)
    assert svg.count("<rect") == 1
    ElementTree.fromstring(sparkline(History()))


def test_a_run_s_folder_is_complete(tmp_path: Path) -> None:
    result = _result(tmp_path / "run")
    write_run(result, _history())
    names = {path.name for path in result.folder.iterdir()}
    assert names == {
        "history.edn",
        "test.json",
        "verdict.json",
        "verdict.txt",
        "index.html",
        "counterexample-1.edn",
        "counterexample-1.svg",
        "operations.png",
        "latency.png",
        "rate.png",
        "sparkline.svg",
    }
    for name in ("operations.png", "latency.png", "rate.png"):
        assert (result.folder / name).read_bytes().startswith(b"\x89PNG")
    assert [op.process for op in read_history(result.folder / "counterexample-1.edn")] == [1, 1]
    verdict = json.loads((result.folder / "verdict.json").read_text())
    assert verdict["valid"] is False
    assert verdict["verdicts"][0]["counterexample"] == "counterexample-1"
    text = (result.folder / "verdict.txt").read_text()
    assert text.startswith("INVALID: register under kill")
    assert "python -m jepsen run" in text
    assert EVIL not in (result.folder / "index.html").read_text()


def test_pictures_of_an_empty_history(tmp_path: Path) -> None:
    result = _result(tmp_path / "run", valid=None)
    write_run(result, History())
    assert (result.folder / "rate.png").exists()


def test_the_index_shows_every_run_escaped_and_self_contained(tmp_path: Path) -> None:
    for number, valid in enumerate((True, False, None)):
        result = _result(tmp_path / f"run-{number}", valid=valid)
        result.nemesis = f"nemesis-{number}"
        write_run(result, _history(), pictures=number == 1)
    (tmp_path / "broken-off").mkdir()
    page = write_index(tmp_path).read_text()
    assert EVIL not in page
    assert "broken-off" in page
    for number in range(3):
        assert f'href="run-{number}/index.html"' in page
        assert f"nemesis-{number}" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "<script" not in page
    assert 'name="viewport"' in page
    assert page.count("<svg") >= 2  # the sparkline and the counterexample's timeline are in the page itself


class _Balance(HTMLParser):
    """Fails on a tag that is closed out of order; `open` is empty after a whole page."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_are_well_formed(tmp_path: Path) -> None:
    for number, valid in enumerate((False, None)):
        write_run(_result(tmp_path / f"run-{number}", valid=valid), _history(), pictures=False)
    for path in (write_index(tmp_path), tmp_path / "run-0" / "index.html"):
        balance = _Balance()
        balance.feed(path.read_text())
        balance.close()
        assert balance.open == [], path


@pytest.mark.parametrize(
    "text",
    ["[]", "5", '{"verdicts": 5}', '{"verdicts": [{"valid": "yes"}]}', '{"pictures": 1}', '{"valid": tr'],
)
def test_a_verdict_file_of_another_shape_is_named_and_passed_over(text: str, tmp_path: Path) -> None:
    write_run(_result(tmp_path / "run"), _history(), pictures=False)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "verdict.json").write_text(text)
    page = write_index(tmp_path).read_text()
    assert "Not read: odd" in page
    assert "run/index.html" in page


def test_an_index_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    assert "python -m jepsen run" in write_index(tmp_path).read_text()


def test_an_index_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not a folder"):
        read_runs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("valids", "whole"),
    [([True, True], True), ([True, None], None), ([True, None, False], False), ([], None)],
)
def test_unknown_never_counts_as_valid(valids: list[bool | None], whole: bool | None) -> None:
    assert combine(valids) is whole
