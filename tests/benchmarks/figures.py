"""A single measured value with its target, where a table of samples would say too much."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.measures import percentile

__all__ = ["Figure", "percentile", "shown"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `bound` is the target (None: for information)."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    is_upper: bool = False  # the bound is a maximum
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return "ok" if (self.value <= self.bound if self.is_upper else self.value >= self.bound) else "MISSED"

    @property
    def target(self) -> str:
        return "" if self.bound is None else f"{'<=' if self.is_upper else '>='} {shown(self.bound)}"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
