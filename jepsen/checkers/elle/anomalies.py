"""Names of anomalies and which consistency model forbids which. Knows no history.

Names as in Adya's thesis ("Weak Consistency", 1999, chapters 3 and 4) and "Elle" (VLDB 2020, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

Model = Literal["strict-serializable", "serializable", "snapshot-isolation"]
MODELS: Final[tuple[Model, ...]] = get_args(Model)

# Strongest evidence first: what breaks even the weakest model leads the summary.
SEVERITY: Final = (
    "duplicate-elements",
    "garbage-read",
    "incompatible-order",
    "internal",
    "future-read",
    "G0",
    "G1a",
    "dirty-update",
    "G1b",
    "G1c",
    "lost-update",
    "G-single",
    "G-nonadjacent",
    "G2-item",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly. `text` names transactions by {0}, {1} …: positions in `transactions` (their numbers).

    `witnesses`: further transactions whose reads prove the order of versions.
    """

    name: str
    text: str
    transactions: tuple[int, ...]
    witnesses: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[int, str]:
        """Sorts by severity."""
        base = self.name.removesuffix("-process").removesuffix("-realtime")
        return SEVERITY.index(base), self.name
