"""One run's folder: test.json, verdict.json, verdict.txt, the counterexamples, the pictures and a page that shows them.

history.edn          written while the run went on (Recorder)
test.json            seed, options, versions, the command that repeats it
verdict.json, .txt   the verdicts, for programs and for people
counterexample-N.edn, .svg   the smallest set of operations found for each violation, and its timeline
operations.png, latency.png, rate.png; sparkline.svg for the index
logs/                the nodes' logs
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from jepsen.errors import JepsenError
from jepsen.history.history import History, write_history
from jepsen.report.pages import run_page
from jepsen.report.plots import draw
from jepsen.report.svg import sparkline, timeline
from jepsen.run.options import Result
from jepsen.verdict import Verdict

WORDS: Final[dict[bool | None, str]] = {True: "valid", False: "INVALID", None: "unknown"}


def write_run(result: Result, history: History, *, pictures: bool = True) -> None:
    """Write everything but the history and the logs into `result.folder`. A picture that cannot be drawn is noted."""
    folder = result.folder
    notes: list[str] = []
    names: list[str] = []
    if pictures:
        try:
            names = draw(history, folder, f"{result.workload} under {result.nemesis}")
        except JepsenError as error:
            notes.append(str(error))
        (folder / "sparkline.svg").write_text(sparkline(history), encoding="utf-8")
    drawn = [_counterexample(folder, number, verdict) for number, verdict in enumerate(result.verdicts, 1)]
    (folder / "test.json").write_text(_json(result.test), encoding="utf-8")
    verdict = to_json(result, drawn, names, notes)
    (folder / "verdict.json").write_text(_json(verdict), encoding="utf-8")
    (folder / "verdict.txt").write_text(to_text(result, drawn, notes), encoding="utf-8")
    (folder / "index.html").write_text(run_page(folder, verdict, result.test), encoding="utf-8")


def to_json(result: Result, drawn: list[str | None], pictures: list[str], notes: list[str]) -> dict[str, Any]:
    """What verdict.json holds; the index is built from it alone."""
    return {
        "workload": result.workload,
        "nemesis": result.nemesis,
        "started": result.started,
        "valid": result.valid,
        "counts": result.counts,
        "pictures": pictures,
        "notes": notes,
        "verdicts": [
            {
                "checker": verdict.checker,
                "valid": verdict.valid,
                "summary": verdict.summary,
                "counterexample": name,
                "details": verdict.details,
            }
            for verdict, name in zip(result.verdicts, drawn, strict=True)
        ],
    }


def to_text(result: Result, drawn: list[str | None], notes: list[str]) -> str:
    """What verdict.txt holds: first the answer, then what each checker said, then the counts."""
    lines = [f"{WORDS[result.valid]}: {result.workload} under {result.nemesis}, {result.started}", ""]
    width = max((len(verdict.checker) for verdict in result.verdicts), default=0)
    for verdict, name in zip(result.verdicts, drawn, strict=True):
        lines.append(f"  {WORDS[verdict.valid]:8} {verdict.checker:{width}}  {verdict.summary}")
        if name:
            lines.append(f"  {'':8} {'':{width}}  smallest set of operations found: {name}.edn")
    lines.append("")
    for f, kinds in result.counts.items():
        lines.append(f"  {f}: {kinds['ok']} ok, {kinds['fail']} failed, {kinds['info']} unknown")
    lines += [f"  note: {note}" for note in notes]
    if "repeat" in result.test:
        lines += ["", f"  again: {result.test['repeat']}"]
    return "\n".join(lines) + "\n"


def _counterexample(folder: Path, number: int, verdict: Verdict) -> str | None:
    """The files' common name, or None for a verdict without operations to show."""
    if verdict.valid is not False or not verdict.counterexample:
        return None
    name = f"counterexample-{number}"
    write_history(folder / f"{name}.edn", verdict.counterexample)
    (folder / f"{name}.svg").write_text(timeline(verdict.counterexample), encoding="utf-8")
    return name


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
