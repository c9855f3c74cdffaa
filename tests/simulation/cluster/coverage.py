"""Which rare paths the simulated clusters went through: a batch of seeds that misses one proves nothing about it.

Every mark is a probe: a function of the product, wrapped from outside while a world is open, and a condition on its
arguments and result. Conditions only look. The table is in coverage_marks.py.
"""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.coverage_marks import EXTERNAL, PROBES, Probe

MARKS: dict[str, str] = {**{probe.mark: probe.what for probe in PROBES}, **EXTERNAL}
"""Mark to description."""


class Coverage:
    """`counts`: how often each mark was reached in one world."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def hit(self, mark: str) -> None:
        """Count a mark that the simulation itself sees (EXTERNAL)."""
        if mark not in MARKS:
            raise KeyError(f"{mark!r} is no mark: add it to coverage_marks.EXTERNAL")
        self.counts[mark] += 1

    def attach(self, _name: str, _runtime: NodeRuntime) -> None:
        """A life begins."""
        self.hit("life begun")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap the product's functions; to be entered AFTER other replacements, so that those are seen, too."""
        with ExitStack() as undo:
            for probe in PROBES:
                undo.enter_context(_wrapped(probe, self.counts))
            yield


@contextmanager
def _wrapped(probe: Probe, counts: Counter[str]) -> Iterator[None]:
    owner = owner_of(probe)
    function = vars(owner)[probe.function]
    setattr(owner, probe.function, _observed(function, probe, counts))
    try:
        yield
    finally:
        setattr(owner, probe.function, function)


def owner_of(probe: Probe) -> Any:
    """The class or module that holds the probe's function."""
    module_name, _, class_name = probe.owner.partition(":")
    module = importlib.import_module(module_name)
    return getattr(module, class_name) if class_name else module


def _observed(function: Callable[..., Any], probe: Probe, counts: Counter[str]) -> Callable[..., Any]:
    mark, before, after, failed = probe.mark, probe.before, probe.after, probe.failed

    if before is not None and after is None:

        @functools.wraps(function)
        def looked_before(*args: Any, **kwargs: Any) -> Any:
            if before(*args):
                counts[mark] += 1
            return function(*args, **kwargs)

        return looked_before

    if failed is not None:

        @functools.wraps(function)
        def looked_at_failure(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except failed:
                counts[mark] += 1
                raise

        return looked_at_failure

    assert after is not None

    @functools.wraps(function)
    def looked_after(*args: Any, **kwargs: Any) -> Any:
        known = before(*args) if before is not None else None
        result = function(*args, **kwargs)
        if after(known, result, *args):
            counts[mark] += 1
        return result

    return looked_after


def missing(counter: Mapping[str, int]) -> list[str]:
    """Marks that were never reached."""
    return [mark for mark in MARKS if not counter.get(mark)]


def report(counter: Mapping[str, int]) -> str:
    """A line per mark, the rarest first."""
    width = max(len(mark) for mark in MARKS)
    rows = sorted(MARKS, key=lambda mark: (counter.get(mark, 0), mark))
    return "\n".join(f"{counter.get(mark, 0):9d}  {mark:<{width}}  {MARKS[mark]}" for mark in rows)
