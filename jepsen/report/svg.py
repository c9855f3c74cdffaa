"""Pictures as text: a counterexample's timeline (processes as lanes) and a run's rate in small. No libraries."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from jepsen.history.edn import dumps
from jepsen.history.history import History
from jepsen.history.op import Op, OpType
from jepsen.report.plots import SHADE, colour
from jepsen.report.series import end_of, faults_of, points_of, rates

_LANE: Final = 46  # pixels
_LEFT: Final = 70
_ROW: Final = 180  # pixels per rank of time
_OPERATIONS_MAX: Final = 60
_TEXT_MAX: Final = 44


def timeline(ops: Sequence[Op]) -> str:
    """The operations as bars, one lane per process, in order of time.

    Distances are ranks, not durations: between two events that follow each other lies one step, whatever time
    passed. Invocation and completion are found by process; an operation without a completion has an open end.
    """
    bars = _bars(ops)[:_OPERATIONS_MAX]
    moments = sorted({moment for start, end, *_ in bars for moment in (start, end) if moment is not None})
    rank = {moment: position for position, moment in enumerate(moments)}
    nodes = {op.process: op.node for _start, _end, op, _outcome in bars}
    processes = list(nodes)
    step = max(40, min(_ROW, 2600 // max(1, len(moments))))
    width = _LEFT + step * (len(moments) + 1)
    height = _LANE * len(processes) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="11">'
    ]
    for lane, process in enumerate(processes):
        y = 10 + lane * _LANE
        parts.append(f'<text x="4" y="{y + 20}">{escape(_lane(process, nodes[process]))}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{width}" y1="{y + 36}" y2="{y + 36}" stroke="#ccc"/>')
    for start, end, op, outcome in bars:
        x = _LEFT + rank[start] * step
        right = _LEFT + rank[end] * step if end is not None else width
        y = 10 + processes.index(op.process) * _LANE
        text = f"{op.f} {_show(op.value)}"
        parts.append(
            f"<g><title>{escape(f'{op.index}: {text} {outcome.value} {op.error or str()}')}</title>"
            f'<rect x="{x}" y="{y}" width="{max(3, right - x)}" height="30" rx="3" fill="{colour(outcome)}"'
            f' fill-opacity="0.25" stroke="{colour(outcome)}"/>'
            f'<text x="{x + 4}" y="{y + 13}">{escape(_cut(text))}</text>'
            f'<text x="{x + 4}" y="{y + 26}" fill="#555">{outcome.value}{_when(start, end)}</text></g>'
        )
    parts.append("</svg>")
    return "".join(parts)


def sparkline(history: History, width: int = 220, height: int = 36) -> str:
    """Successful operations per second over the run, faults shaded; a few hundred bytes."""
    end_s = end_of(history)
    _middles, curves = rates(points_of(history), end_s, 40)
    sums = [
        sum(values)
        for values in zip(*(v for (_f, kind), v in curves.items() if kind is OpType.OK), strict=True)
    ]
    top = max(sums, default=0.0) or 1.0
    shades = "".join(
        f'<rect x="{fault.start_s / end_s * width:.1f}" y="0" height="{height}"'
        f' width="{max(0.5, (fault.end_s - fault.start_s) / end_s * width):.1f}" fill="{SHADE}" fill-opacity="0.25"/>'
        for fault in faults_of(history)
    )
    line = " ".join(
        f"{(position + 0.5) / len(sums) * width:.1f},{height - 1 - value / top * (height - 2):.1f}"
        for position, value in enumerate(sums)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="successful operations per second">{shades}'
        f'<polyline points="{line}" fill="none" stroke="{colour(OpType.OK)}" stroke-width="1.3"/></svg>'
    )


def _bars(ops: Sequence[Op]) -> list[tuple[int, int | None, Op, OpType]]:
    """(start, end or None, the operation with its best known value, outcome) in order of start."""
    bars: list[tuple[int, int | None, Op, OpType]] = []
    open_at: dict[Any, int] = {}
    for op in ops:
        if op.type is OpType.INVOKE:
            open_at[op.process] = len(bars)
            bars.append((op.time, None, op, OpType.INFO))
        elif op.process in open_at:
            position = open_at.pop(op.process)
            start = bars[position][0]
            bars[position] = (start, None if op.type is OpType.INFO else op.time, op, op.type)
        else:
            bars.append((op.time, op.time, op, op.type))  # a completion alone, as some checkers give it
    return sorted(bars, key=lambda bar: bar[0])


def _lane(process: int | str, node: str | None) -> str:
    return str(process) if node is None else f"{process} on {node}"


def _when(start: int, end: int | None) -> str:
    return f" {start / 1e6:.1f} ms" + (f" to {end / 1e6:.1f} ms" if end is not None else " to ?")


def _show(value: Any) -> str:
    return "" if value is None else dumps(value)


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"
