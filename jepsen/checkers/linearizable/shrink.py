"""The smallest set of calls that shows a violation, found by leaving calls out for as long as it remains one.

Leaving a call out must not make a violation where there was none (a read without its write would be one).
So a left-out write still may have happened, in its own interval, or not; only reads are dropped outright, and calls
of unknown outcome stay as they are. What remains is impossible whatever the others did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from jepsen.checkers.linearizable.model import Call, Model
from jepsen.checkers.linearizable.search import search

_Fails = Callable[[Collection[Call]], bool]

SOURCES_MAX = 16  # calls added to show where observed values came from


@dataclass(frozen=True, slots=True)
class Shrunk:
    """`core`: calls that cannot all be true; `sources`: calls that made the values which the core observed.

    `is_minimal`: no single call of the core can be left out; False when the time was up first.
    """

    core: list[Call]
    sources: list[Call]
    is_minimal: bool

    @property
    def size(self) -> int:
        """Calls in all."""
        return len(self.core) + len(self.sources)


def shrink(model: Model, calls: Sequence[Call], blocked: Call, deadline: float) -> Shrunk:
    """Shrink a history that `search` found to be blocked at `blocked` (see Outcome); deadline on time.monotonic()."""
    limit = blocked.end if blocked.end is not None else max(call.end or 0 for call in calls)
    prefix = [
        call if call.end is None or call.end <= limit else replace(call, end=None)
        for call in calls
        if call.start < limit
    ]
    certain = sorted((call for call in prefix if call.end is not None), key=lambda call: call.end or 0)

    def fails(kept: Collection[Call]) -> bool:
        chosen = set(map(id, kept))
        trial = [
            call if call.end is None or id(call) in chosen else replace(call, is_optional=True)
            for call in prefix
            if call.end is None or id(call) in chosen or not model.is_read(call)
        ]
        return search(model, trial, deadline).valid is False

    core = _latest(certain, fails, deadline)
    core, is_minimal = _without(core, fails, deadline, max(1, len(core) // 2))
    best = Shrunk(core, _sources(model, core, prefix), is_minimal)
    while best.is_minimal:
        # A write of the sources may stand in for a read of the core: then there is one call less to look at.
        both = [*best.core, *(call for call in best.sources if call.end is not None)]
        both.sort(key=lambda call: not model.is_read(call))
        core, is_minimal = _without(both, fails, deadline, 1)
        again = Shrunk(core, _sources(model, core, prefix), is_minimal)
        if not is_minimal or again.size >= best.size:
            break
        best = again
    return best


def _latest(certain: list[Call], fails: _Fails, deadline: float) -> list[Call]:
    """The last 1, 2, 4, ... calls to complete, until they suffice."""
    count = 1
    while count < len(certain) and time.monotonic() < deadline:
        if fails(certain[-count:]):
            return certain[-count:]
        count *= 2
    return certain


def _without(core: list[Call], fails: _Fails, deadline: float, size: int) -> tuple[list[Call], bool]:
    """Delta debugging (Zeller & Hildebrandt 2002), complements only: leave out `size` calls at a time, then half."""
    while True:
        is_smaller = False
        position = 0
        while position < len(core) and len(core) > 1:
            if time.monotonic() > deadline:
                return core, False
            rest = core[:position] + core[position + size :]
            if rest and fails(rest):
                core, is_smaller = rest, True
            else:
                position += size
        if size == 1 and not is_smaller:
            return core, time.monotonic() < deadline
        size = max(1, min(size, len(core)) // 2)


def _sources(model: Model, core: list[Call], prefix: list[Call]) -> list[Call]:
    made = {value for call in core for value in model.produced(call)}
    found: dict[int, Call] = {}
    chosen = set(map(id, core))
    for reader in core:
        for value in model.observed(reader):
            if value in made or len(found) >= SOURCES_MAX:
                continue
            makers = [
                call
                for call in prefix
                if id(call) not in chosen and call.start < (reader.end or 0) and value in model.produced(call)
            ]
            if makers:
                last = max(makers, key=lambda call: call.start)
                found[id(last)] = last
                made.add(value)
    return list(found.values())
