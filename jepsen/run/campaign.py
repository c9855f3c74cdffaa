"""Many runs in a row: every workload under every nemesis, or the fixed subset for continuous integration.

All workloads of a campaign share one fresh cluster per nemesis: the matrix then costs one cluster start, one healing
and one load time per nemesis instead of one per cell, each log entry stream is still checked per workload, and one
nemesis' damage cannot reach the next one's verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from jepsen.errors import JepsenError, MissingTool
from jepsen.report.index import write_index
from jepsen.run.options import Options, Result, combine
from jepsen.run.runner import run_together

BUDGET_S: Final = 1140.0  # of `all`, under 20 minutes
OVERHEAD_S: Final = (
    20.0  # of one nemesis, before one was measured: start, healing, final reads, checks, pictures
)
TIME_MIN_S: Final = 8.0
TIME_MAX_S: Final = 40.0
CI_NEMESES: Final = ("kill-all", "partition-halves", "pause-leader", "power-loss", "roles")
CI_TIME_S: Final = 15.0
SHARED_CLIENTS: Final = 5  # per workload: one on each of five nodes
SHARED_RATE: Final = 25.0  # operations per second and workload

Say = Callable[[str], None]


@dataclass(slots=True)
class Campaign:
    """What came out: results, nemeses that the machine cannot do (with the reason), and what could not be set up."""

    results: list[Result] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def valid(self) -> bool | None:
        return combine([result.valid for result in self.results])


def share_s(left_s: float, nemeses: int, overhead_s: float) -> float:
    """Whole seconds of load for the next of `nemeses` that have `left_s` together, each with `overhead_s` besides."""
    return float(int(max(TIME_MIN_S, min(TIME_MAX_S, left_s / max(1, nemeses) - overhead_s))))


def run_campaign(
    workloads: Sequence[str],
    nemeses: Sequence[str],
    options: Options,
    out: Path,
    say: Say = print,
    *,
    budget_s: float | None = None,
) -> Campaign:
    """Every nemesis in turn; what cannot be run is noted and the rest goes on. Raises only what ends the program.

    `budget_s`: for the whole; each nemesis then gets a share of what is left (a slow machine: less load for the
    later ones, at least TIME_MIN_S each) instead of `options.time_s`.
    """
    started = time.monotonic()
    overhead_s = OVERHEAD_S
    campaign = Campaign()
    shared = replace(options, clients=SHARED_CLIENTS, rate=SHARED_RATE)
    for position, nemesis in enumerate(nemeses, 1):
        begin = time.monotonic()
        say(f"[{position}/{len(nemeses)}] {nemesis}")
        if budget_s is not None:
            left_s = budget_s - (begin - started)
            shared = replace(shared, time_s=share_s(left_s, len(nemeses) - position + 1, overhead_s))
        try:
            results = run_together(workloads, nemesis, shared, out, say)
        except MissingTool as error:
            campaign.skipped[nemesis] = str(error)
            say(f"  skipped: {error}")
        except JepsenError as error:
            campaign.failed[nemesis] = str(error)
            say(f"  could not run: {error}")
        else:
            campaign.results += results
            for result in results:
                say("  " + one_line(result))
            write_index(out)  # now, not at the end: whoever breaks the campaign off has it
            took_s = time.monotonic() - begin
            overhead_s = (overhead_s + took_s - shared.time_s) / 2
            say(f"  {took_s:.0f} s")
    return campaign


def one_line(result: Result) -> str:
    """`valid    register   under kill-one: …` and for anything else what was found and where it lies."""
    word = {True: "valid", False: "INVALID", None: "unknown"}[result.valid]
    total = sum(sum(kinds.values()) for kinds in result.counts.values())
    ok = sum(kinds["ok"] for kinds in result.counts.values())
    text = f"{word:8} {result.workload:11} under {result.nemesis}: {ok} of {total} operations ok"
    said = [verdict for verdict in result.verdicts if verdict.valid is not True]
    for verdict in said:
        text += f"\n           {verdict.checker}: {verdict.summary}"
    return f"{text}\n           see {result.folder}" if said else text
