"""What a checker concludes. Knows no checker; the runner and the report read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jepsen.history.op import Op


@dataclass(slots=True)
class Verdict:
    """One checker's judgement of one history.

    `valid`: True, False, or None when unknown (out of time, nothing to judge): None never counts as passed.
    `details`: plain data that goes to JSON as it is (string keys).
    `counterexample`: for an invalid history, the smallest set of operations found that shows the violation.
    """

    checker: str
    valid: bool | None
    summary: str
    details: dict[str, Any] = field(default_factory=dict)
    counterexample: list[Op] = field(default_factory=list)
