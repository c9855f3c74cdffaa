"""Every seed that ever failed, with what it found: run again in every test run (test_storms.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Found:
    """`options`: further arguments of run.run_seed."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)


FOUND: Final[dict[int, Found]] = {
    4: Found("the world's own: a machine that was down counted as healed"),
    1057: Found(
        "the world's own: free space is looked at every half second, so writes resume a little later"
    ),
    750028: Found(
        "the check of recovered journals was too strict: a new segment that cuts the log is durable before its entries"
    ),
    196: Found(
        "the check of votes was too strict: a vote and a later term that reach the disk together are sound"
    ),
    30040: Found(
        "a node that stopped answered what became of a COMMIT with NodeStopped, NOT_APPLIED; it had been committed"
    ),
    646137988: Found("the same, and a forwarded COMMIT that was cancelled by the stop"),
    429305199: Found(
        "the world's own: a machine to be removed became the only voter, and nobody started it again"
    ),
    476208165: Found(
        "nobody led any more: a leader lost power before it had written what took a voter's vote; only that one held it"
    ),
}
