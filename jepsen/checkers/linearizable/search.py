"""The search for a linearization: Wing and Gong's, with Lowe's memory of configurations seen.

Sources: Wing & Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for Linearizability"
(2017); the cache of (set of linearized calls, state) as Porcupine keeps it. Here the set is an int: calls are
sorted by invocation, `base` is the first that is not linearized, bit i of `mask` is call base + i.

Calls of unknown outcome are kept apart, counted by (operation, value): equal ones are interchangeable, the
earliest goes first. A configuration that used fewer of them is at least as good as one that used more (same
calls linearized, same state): only minimal ones are kept. Nor is one used unless the very next call can see it.
"""

from __future__ import annotations

import heapq
import math
import time
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jepsen.checkers.linearizable.model import ILLEGAL, Call, Model

STUCK_MAX = 8  # dead ends kept for the report
DEPTH_FIRST_MIN, DEPTH_FIRST_PER_CALL = 1000, 20  # configurations before the search changes to best first
_CLOCK_EVERY = 1024  # configurations between two looks at the clock

_Path = tuple[Any, Call] | None  # linked list: (before, last linearized)


class _Config(NamedTuple):
    base: int
    mask: int
    used: int  # packed counts of calls of unknown outcome, one field per class
    state: Any
    is_fresh: (
        bool  # the last step was a guess (a call that may never have happened): something must see it next
    )
    path: _Path
    limit: float  # set once the certain successors were taken: only guesses are left to try


@dataclass(slots=True)
class Stuck:
    """A configuration that went as far as any: `linearized` in order, then `state`; none of `pending` led on."""

    linearized: list[Call]
    state: Any
    pending: list[Call]


@dataclass(slots=True)
class Outcome:
    """`valid` None: the time was up. `order`: a linearization when valid.

    `blocked`: when invalid, the call before whose completion nothing led on: the history up to
    there is the shortest prefix that is not linearizable.
    """

    valid: bool | None
    explored: int
    order: list[Call] = field(default_factory=list)
    blocked: Call | None = None
    stuck: list[Stuck] = field(default_factory=list)


class _Guesses:
    """Calls of unknown outcome by class, and the arithmetic of their packed counts."""

    def __init__(self, model: Model, calls: Sequence[Call]) -> None:
        classes: dict[Hashable, list[Call]] = {}
        for call in calls:
            if call.end is None and not model.is_read(call):
                classes.setdefault((call.f, call.value), []).append(call)
        self.classes = [sorted(group, key=lambda call: call.start) for group in classes.values()]
        self.starts = [[call.start for call in group] for group in self.classes]
        self.blind = [model.is_blind(group[0]) for group in self.classes]
        width = max(map(len, self.classes), default=0).bit_length() + 1  # one guard bit per field
        self.shifts = [position * width for position in range(len(self.classes))]
        self.field = (1 << (width - 1)) - 1
        self.guards = sum(1 << (shift + width - 1) for shift in self.shifts)

    def is_covered(self, used: int, seen: list[int]) -> bool:
        """True when one of `seen` used no more of any class than `used` did."""
        guards = self.guards
        return any(((used | guards) - less) & guards == guards for less in seen)


class _Search:
    def __init__(self, model: Model, calls: Sequence[Call], deadline: float) -> None:
        self.model = model
        self.deadline = deadline
        self.certain = sorted((call for call in calls if call.end is not None), key=lambda call: call.start)
        self.starts = [call.start for call in self.certain]
        self.ends = [call.end if call.end is not None else 0 for call in self.certain]
        self.reads = [model.is_read(call) for call in self.certain]
        self.blind = [model.is_blind(call) for call in self.certain]
        self.guesses = _Guesses(model, calls)
        self.seen: dict[Hashable, list[int]] = {}
        self.explored = 0
        self.best_limit = -1.0
        self.best: list[tuple[_Config, list[int]]] = []

    def candidates(self, base: int, mask: int) -> tuple[list[int], float]:
        """Positions of the calls that may be linearized next, and the first completion among those left.

        A call may go next only if it was invoked before every other one left completed.
        """
        starts, ends, count = self.starts, self.ends, len(self.starts)
        found: list[int] = []
        limit = math.inf
        free = ~mask
        while True:
            low = free & -free
            position = base + low.bit_length() - 1
            if position >= count or starts[position] > limit:
                break
            free ^= low
            found.append(position)
            if ends[position] < limit:
                limit = ends[position]
        while found and starts[found[-1]] > limit:
            found.pop()
        return found, limit

    def run(self) -> Outcome:
        """Depth first, which is quick where there is a linearization; else, after a while, best first."""
        # Without guesses the order in which configurations are taken up saves nothing.
        most = (
            DEPTH_FIRST_MIN + DEPTH_FIRST_PER_CALL * len(self.certain) if self.guesses.classes else math.inf
        )
        outcome = self.depth_first(most)
        if outcome is None:
            self.seen.clear()
            outcome = self.best_first()
        return outcome

    def depth_first(self, explored_max: float) -> Outcome | None:
        """Certain calls before guesses, the earliest completion first; None after `explored_max` configurations."""
        stack = [_Config(0, 0, 0, self.model.initial, False, None, -1.0)]
        while stack:
            config = stack.pop()
            if config.limit >= 0:
                stack.extend(self.guess(config))
                continue
            if self.explored >= explored_max:
                return None
            if self.is_late():
                return self.ended(None)
            config, found, limit = self.absorb(config)
            if config.base == len(self.certain):
                return Outcome(True, self.explored, order=_calls(config.path))
            if not self.is_new(self.seen, config):
                continue
            self.note(config, found, limit)
            if self.guesses.classes:
                stack.append(config._replace(limit=limit))
            stack.extend(self.advance(config, found, limit))
        return self.ended(False)

    def best_first(self) -> Outcome:
        """By the completion that comes next, then by the number of guesses used.

        So no configuration is taken up before one that makes it needless, and what lies before the
        present completion can be forgotten.
        """
        heap: list[tuple[float, int, int, _Config, list[int]]] = []
        levels: dict[float, dict[Hashable, list[int]]] = {}
        level = -1.0
        todo: list[tuple[_Config, int]] = [(_Config(0, 0, 0, self.model.initial, False, None, -1.0), 0)]
        while True:
            for raw, uses in todo:
                if self.is_late():
                    return self.ended(None)
                config, found, limit = self.absorb(raw)
                if config.base == len(self.certain):
                    return Outcome(True, self.explored, order=_calls(config.path))
                if self.is_new(levels.setdefault(limit, {}), config):
                    self.note(config, found, limit)
                    heapq.heappush(heap, (limit, uses, self.explored, config, found))
            todo = []
            if not heap:
                return self.ended(False)
            limit, uses, _, config, found = heapq.heappop(heap)
            if limit > level:
                levels.pop(level, None)
                level = limit
            if config.used in levels[limit][_key(config)]:
                todo = [(after, uses) for after in self.advance(config, found, limit)]
                todo += [(after, uses + 1) for after in self.guess(config._replace(limit=limit))]

    def is_late(self) -> bool:
        """Count a configuration; True when the time is up."""
        self.explored += 1
        return self.explored % _CLOCK_EVERY == 0 and time.monotonic() > self.deadline

    def is_new(self, memory: dict[Hashable, list[int]], config: _Config) -> bool:
        """Remember a configuration; False when it, or one at least as good, was seen before."""
        seen = memory.setdefault(_key(config), [])
        if seen and self.guesses.is_covered(config.used, seen):
            return False
        if seen:
            seen[:] = [more for more in seen if not self.guesses.is_covered(more, [config.used])]
        seen.append(config.used)
        return True

    def absorb(self, config: _Config) -> tuple[_Config, list[int], float]:
        """Linearize every read that is right in this state: taken now it hinders nothing, later it might."""
        base, mask, state, path, is_fresh = (
            config.base,
            config.mask,
            config.state,
            config.path,
            config.is_fresh,
        )
        step, reads, certain = self.model.step, self.reads, self.certain
        while True:
            found, limit = self.candidates(base, mask)
            before = mask
            for position in found:
                if reads[position]:
                    call = certain[position]
                    if step(state, call) is not ILLEGAL:
                        mask |= 1 << (position - base)
                        path = (path, call)
                        is_fresh = False
            if mask == before:
                return _Config(base, mask, config.used, state, is_fresh, path, -1.0), found, limit
            base, mask = _shift(base, mask)

    def advance(self, config: _Config, found: list[int], limit: float) -> Iterator[_Config]:
        """Successors by calls that completed; the one to try first comes last."""
        base, mask, used, state, is_fresh, path, _ = config
        for position in sorted(found, key=self.ends.__getitem__, reverse=True):
            if self.reads[position]:
                continue
            call = self.certain[position]
            after = (base, mask | 1 << (position - base))
            if call.is_optional and self.ends[position] == limit:  # left out, as late as can be
                yield _Config(*_shift(*after), used, state, is_fresh, path, -1.0)
            if is_fresh and self.blind[position]:
                continue  # it would hide the guess before anything saw it
            new = self.model.step(state, call)
            if new is ILLEGAL or (call.is_optional and new == state):
                continue
            yield _Config(*_shift(*after), used, new, call.is_optional, (path, call), -1.0)

    def guess(self, config: _Config) -> Iterator[_Config]:
        """Successors by a call of unknown outcome."""
        base, mask, used, state, is_fresh, path, limit = config
        guesses = self.guesses
        for group, starts, blind, shift in zip(
            guesses.classes, guesses.starts, guesses.blind, guesses.shifts, strict=True
        ):
            if is_fresh and blind:
                continue
            taken = used >> shift & guesses.field
            if taken >= len(starts) or taken >= bisect_left(starts, limit):
                continue
            new = self.model.step(state, group[taken])
            if new is not ILLEGAL and new != state:
                yield _Config(base, mask, used + (1 << shift), new, True, (path, group[taken]), -1.0)

    def note(self, config: _Config, found: list[int], limit: float) -> None:
        """Keep the configurations that got farthest."""
        if limit < self.best_limit:
            return
        if limit > self.best_limit:
            self.best_limit = limit
            self.best.clear()
        if len(self.best) < STUCK_MAX and not config.is_fresh:
            self.best.append((config, found))

    def ended(self, valid: bool | None) -> Outcome:
        blocked = [call for call in self.certain if call.end == self.best_limit]
        blocked.sort(
            key=lambda call: call.completion is None
        )  # a settled guess shares the end of its first observer
        return Outcome(
            valid,
            self.explored,
            blocked=blocked[0] if blocked else None,
            stuck=[
                Stuck(_calls(config.path), config.state, [self.certain[position] for position in found])
                for config, found in self.best
            ],
        )


def _key(config: _Config) -> Hashable:
    return (config.base, config.mask, config.is_fresh, config.state)


def _shift(base: int, mask: int) -> tuple[int, int]:
    """Move `base` over the calls that are linearized."""
    if mask & 1:
        ones = (~mask & (mask + 1)).bit_length() - 1
        return base + ones, mask >> ones
    return base, mask


def _calls(path: _Path) -> list[Call]:
    calls: list[Call] = []
    while path is not None:
        path, call = path
        calls.append(call)
    calls.reverse()
    return calls


def search(model: Model, calls: Sequence[Call], deadline: float = math.inf) -> Outcome:
    """Whether `calls` can be put into one order that respects real time and that `model` accepts.

    `deadline`: on time.monotonic(); after it the outcome is unknown.
    """
    return _Search(model, model.prepare(calls), deadline).run()
