"""What all checkers ask of plain values. Knows no checker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def are_hashable(values: Iterable[Any]) -> bool:
    """Whether all can be elements or keys (numbers, strings; not lists or maps). Fast for long lists."""
    try:
        set(values)
    except TypeError:
        return False
    return True
