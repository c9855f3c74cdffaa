"""A run's pictures as PNG: operations over time, latency, rate; faults are shaded. matplotlib, without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jepsen.errors import MissingTool
from jepsen.history.history import History
from jepsen.history.op import OpType
from jepsen.report.series import OUTCOMES, Fault, Point, end_of, faults_of, points_of, quantiles, rates

OK, FAIL, INFO = OUTCOMES
COLOURS: Final = {OK: "#2b7bba", FAIL: "#c2408f", INFO: "#e08a1e"}
WORDS: Final = {OK: "ok", FAIL: "failed", INFO: "unknown"}
SHADE: Final = "#b8860b"
_SIZE: Final = (8.0, 3.4)
_DPI: Final = 100
_WINDOWS_MAX: Final = 60


def draw(history: History, folder: Path, title: str) -> list[str]:
    """Write operations.png, latency.png and rate.png; returns their names. Raises MissingTool without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingTool(
            "pictures need matplotlib: pip install matplotlib, or run with --no-pictures"
        ) from None
    points, faults, end_s = points_of(history), faults_of(history), end_of(history)
    names = []
    for name, painter in (("operations", _operations), ("latency", _latency), ("rate", _rate)):
        # No pyplot: no global state, any thread. A fixed layout: working one out takes longer than drawing.
        figure = Figure(figsize=_SIZE, dpi=_DPI)
        figure.subplots_adjust(left=0.1, right=0.83, bottom=0.15, top=0.92)
        axes = figure.add_subplot()
        painter(axes, points, end_s)
        _shade(axes, faults)
        axes.set_title(f"{title}: {name}", fontsize=10)
        axes.set_xlabel("seconds")
        axes.set_xlim(0, end_s)
        handles, _labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        figure.savefig(folder / f"{name}.png")
        names.append(f"{name}.png")
    return names


def _operations(axes: Any, points: Sequence[Point], _end_s: float) -> None:
    """One lane per kind of operation, in it one line of ticks per outcome."""
    kinds = sorted({point.f for point in points})
    for lane, f in enumerate(kinds):
        for line, outcome in enumerate(OUTCOMES):
            moments = [point.start_s for point in points if point.f == f and point.outcome is outcome]
            height = lane + 0.28 - 0.28 * line
            label = WORDS[outcome] if lane == 0 else None
            axes.plot(
                moments,
                [height] * len(moments),
                "|",
                color=COLOURS[outcome],
                markersize=9,
                alpha=0.6,
                label=label,
            )
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(-0.6, max(0.6, len(kinds) - 0.4))


def _latency(axes: Any, points: Sequence[Point], end_s: float) -> None:
    axes.set_yscale("log")
    for outcome in OUTCOMES:
        chosen = [point for point in points if point.outcome is outcome]
        if chosen:
            axes.plot(
                [point.start_s for point in chosen],
                [max(1e-5, point.latency_s) * 1000 for point in chosen],
                ".",
                color=COLOURS[outcome],
                markersize=3,
                alpha=0.5,
                label=WORDS[outcome],
            )
    curves = quantiles(points, end_s, _windows(end_s))
    for (quantile, curve), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=True):
        if points:
            label = "maximum" if quantile == 1 else f"{quantile:.0%} below"
            axes.plot(
                [x for x, _ in curve], [y * 1000 for _, y in curve], style, color="black", lw=0.9, label=label
            )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("milliseconds")


def _rate(axes: Any, points: Sequence[Point], end_s: float) -> None:
    # Windows of a second: in shorter ones the rates of a short run are noise.
    middles, curves = rates(points, end_s, max(5, min(_WINDOWS_MAX, int(end_s))))
    styles = ("-", "--", "-.", ":")
    kinds = sorted({f for f, _outcome in curves})
    for (f, outcome), values in sorted(curves.items(), key=lambda item: OUTCOMES.index(item[0][1])):
        style = styles[kinds.index(f) % len(styles)]
        axes.plot(middles, values, style, color=COLOURS[outcome], lw=1.2, label=f"{f} {WORDS[outcome]}")
    axes.set_ylabel("operations per second")
    axes.set_ylim(bottom=0)


def _shade(axes: Any, faults: Sequence[Fault]) -> None:
    for position, fault in enumerate(faults):
        label = fault.name if position == 0 else None
        axes.axvspan(fault.start_s, fault.end_s, color=SHADE, alpha=0.18, lw=0, label=label)


def _windows(end_s: float) -> int:
    return max(5, min(_WINDOWS_MAX, int(end_s * 2)))


def colour(outcome: OpType) -> str:
    """The colour of an outcome in every picture."""
    return COLOURS.get(outcome, "#666666")
