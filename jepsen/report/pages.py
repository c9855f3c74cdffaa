"""HTML: the page of one run and the index of all. Needs nothing from the network, no scripts; readable on a phone.

Everything that comes from a run (names, summaries, errors, values) is escaped; the SVG pieces are our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

MARKS: Final[dict[bool | None, tuple[str, str]]] = {
    True: ("valid", "✓"),
    False: ("invalid", "✗"),
    None: ("unknown", "?"),
}
_WORST_FIRST: Final[dict[bool | None, int]] = {False: 0, None: 1, True: 2}
_STYLE: Final = """
:root{color-scheme:light dark;--ok:#1a7f37;--bad:#cf222e;--unknown:#9a6700;--line:#8884}
@media(prefers-color-scheme:dark){:root{--ok:#57d37a;--bad:#ff7b72;--unknown:#e3b341}}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:1.6rem}
.wide{overflow-x:auto}table{border-collapse:collapse}
th,td{border:1px solid var(--line);padding:.25rem .5rem;text-align:left}
thead th{white-space:nowrap}
tbody th{position:sticky;left:0;background:Canvas;white-space:nowrap;font-weight:500}
td.cell{text-align:center;font-size:1.1rem}td.cell a{text-decoration:none;padding:0 .15rem}
.valid{color:var(--ok)}.invalid{color:var(--bad);font-weight:700}.unknown{color:var(--unknown)}
details{border:1px solid var(--line);border-radius:6px;margin:.4rem 0;padding:.4rem .7rem}
summary{cursor:pointer}summary svg{vertical-align:middle;max-width:100%}
img{max-width:100%;height:auto;background:#fff;border-radius:4px}.lane{overflow-x:auto;background:#fff;color:#000}
code,pre{font-size:.85em;overflow-wrap:anywhere;white-space:pre-wrap}.dim{opacity:.7;font-size:.9em}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's folder as the index shows it; `verdict` is the content of its verdict.json."""

    folder: Path
    verdict: dict[str, Any]

    @property
    def valid(self) -> bool | None:
        valid = self.verdict.get("valid")
        return valid if isinstance(valid, bool) else None

    @property
    def workload(self) -> str:
        return str(self.verdict.get("workload", "?"))

    @property
    def nemesis(self) -> str:
        return str(self.verdict.get("nemesis", "?"))

    @property
    def started(self) -> str:
        return str(self.verdict.get("started", ""))


def run_page(folder: Path, verdict: dict[str, Any], test: dict[str, Any]) -> str:
    """The page of one run, with links relative to its folder."""
    run = Run(folder, verdict)
    word, mark = MARKS[run.valid]
    title = f"{run.workload} under {run.nemesis}"
    parts = [
        f'<p class="dim"><a href="../index.html">all runs</a></p><h1><span class="{word}">{mark} {word}</span>'
        f" {escape(title)}</h1><p class='dim'>{escape(run.started)}</p>",
        _verdicts(run, ""),
        _counts(verdict.get("counts", {})),
    ]
    parts += [_picture("", name) for name in verdict.get("pictures", [])]
    logs = sorted(path.name for path in (folder / "logs").glob("*")) if (folder / "logs").is_dir() else []
    files = ["history.edn", "test.json", "verdict.json", "verdict.txt", *(f"logs/{name}" for name in logs)]
    parts.append(
        "<h2>Files</h2><p>" + " · ".join(f'<a href="{_link(f)}">{escape(f)}</a>' for f in files) + "</p>"
    )
    parts.append(f"<h2>Test</h2><pre>{escape(json.dumps(test, indent=1, default=str))}</pre>")
    return _page(title, "\n".join(parts))


def index_page(runs: Sequence[Run], skipped: Sequence[str] = ()) -> str:
    """The index: a table of nemeses by workloads, then the runs, newest first. `skipped`: folders not readable."""
    workloads = sorted({run.workload for run in runs})
    nemeses = sorted({run.nemesis for run in runs}, key=lambda name: (name != "none", name))
    tally = {valid: sum(run.valid is valid for run in runs) for valid in MARKS}
    parts = [
        f"<h1>Runs: {len(runs)}</h1><p>"
        + " · ".join(
            f'<span class="{MARKS[v][0]}">{MARKS[v][1]} {n} {MARKS[v][0]}</span>' for v, n in tally.items()
        )
        + "</p>"
    ]
    if runs:
        head = "".join(f"<th>{escape(name)}</th>" for name in workloads)
        rows = "".join(
            f"<tr><th>{escape(nemesis)}</th>"
            + "".join(f'<td class="cell">{_cell(runs, workload, nemesis)}</td>' for workload in workloads)
            + "</tr>"
            for nemesis in nemeses
        )
        parts.append(
            f'<div class="wide"><table><thead><tr><th>nemesis</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
            '<p class="dim">One mark per run, newest first; it leads to the run.</p>'
        )
    else:
        parts.append(
            "<p>No runs yet: <code>python -m jepsen run --workload register --nemesis kill-one</code></p>"
        )
    bad = [run for run in runs if run.valid is False]
    if bad:
        parts += ["<h2>Violations</h2>", *(_card(run, is_open=True) for run in bad)]
    parts += ["<h2>All runs</h2>", *(_card(run) for run in runs)] if runs else []
    if skipped:
        parts.append(f'<p class="dim">Not read: {escape(", ".join(skipped))}</p>')
    return _page("Jepsen runs", "\n".join(parts))


def _cell(runs: Sequence[Run], workload: str, nemesis: str) -> str:
    chosen = [run for run in runs if run.workload == workload and run.nemesis == nemesis]
    return " ".join(
        f'<a class="{MARKS[run.valid][0]}" href="{_link(run.folder.name)}/index.html" title="{escape(_tip(run))}">'
        f"{MARKS[run.valid][1]}</a>"
        for run in chosen
    )


def _card(run: Run, *, is_open: bool = False) -> str:
    word, mark = MARKS[run.valid]
    name = _link(run.folder.name)
    pictures = "".join(_picture(f"{name}/", picture) for picture in run.verdict.get("pictures", []))
    return (
        f'<details{" open" if is_open else ""}><summary><span class="{word}">{mark}</span>'
        f" {escape(run.workload)} under {escape(run.nemesis)} <span class='dim'>{escape(run.started)}</span>"
        f" {_own_svg(run.folder / 'sparkline.svg')}</summary>"
        f'<p><a href="{name}/index.html">page</a> · <a href="{name}/history.edn">history</a></p>'
        f"{_verdicts(run, name + '/')}{pictures}</details>"
    )


def _verdicts(run: Run, prefix: str) -> str:
    """What is wrong comes first."""
    rows = []
    for item in sorted(run.verdict.get("verdicts", []), key=lambda item: _WORST_FIRST[item.get("valid")]):
        word, mark = MARKS[item.get("valid")]
        rows.append(
            f'<li><span class="{word}">{mark} {escape(str(item.get("checker")))}</span>:'
            f" {escape(str(item.get('summary')))}"
        )
        example = item.get("counterexample")
        if example:
            rows.append(
                f' (<a href="{prefix}{_link(example)}.edn">operations</a>)'
                f'<div class="lane">{_own_svg(run.folder / f"{example}.svg")}</div>'
            )
        rows.append("</li>")
    notes = "".join(f"<li class='dim'>{escape(str(note))}</li>" for note in run.verdict.get("notes", []))
    return f"<ul>{''.join(rows)}{notes}</ul>"


def _picture(prefix: str, name: str) -> str:
    """Leads to itself: on a phone the page shows it small."""
    place = f"{prefix}{_link(name)}"
    return f'<p><a href="{place}"><img src="{place}" alt="{escape(name)}" loading="lazy"></a></p>'


def _counts(counts: dict[str, dict[str, int]]) -> str:
    rows = "".join(
        f"<tr><th>{escape(f)}</th><td>{kinds.get('ok', 0)}</td><td>{kinds.get('fail', 0)}</td>"
        f"<td>{kinds.get('info', 0)}</td></tr>"
        for f, kinds in counts.items()
    )
    head = "<th></th><th>ok</th><th>failed</th><th>unknown</th>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _own_svg(path: Path) -> str:
    """A picture written by svg.py; nothing where it is missing."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _tip(run: Run) -> str:
    said = [item for item in run.verdict.get("verdicts", []) if item.get("valid") is not True]
    return f"{run.started} {said[0].get('summary') if said else 'valid'}"


def _link(name: str) -> str:
    return quote(str(name))


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
