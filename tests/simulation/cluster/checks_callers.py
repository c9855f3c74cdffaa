"""Whoever asks a node for something hears exactly once.

A client gives up after its own time, so an answer that never comes would pass for an unknown outcome. Here every
callback that writers, readers and proposers of a life hand over is counted until it is called; when all is quiet none
may be left. Wraps the instances of one life, as checks.py does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from dqlite_py.node.runtime import NodeRuntime
from tests.simulation.cluster.checks_consensus import Fail


class CallerWatch:
    """`unanswered` tells what is open at the newest life of each machine."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._numbers = itertools.count()
        self._open: dict[str, dict[int, str]] = {}  # machine -> number -> what it waits for
        self._reads: dict[str, dict[int, Any]] = {}  # machine -> its node's table of read indexes asked for

    def watch(self, name: str, runtime: NodeRuntime) -> None:
        """A life begins."""
        writes: Any = runtime.writes
        reads: Any = runtime.reads
        waiting: dict[int, str] = {}
        self._open[name] = waiting
        self._reads[name] = reads._asked
        submit = writes.submit
        wrapped = self._wrapped(
            name, waiting, "submit", lambda write, callback: _with(submit, write, callback), 1
        )
        writes.submit = lambda write: wrapped(write, write.callback)
        for owner, method, place in (
            (writes, "submit_here", 2),
            (writes, "_propose", 1),
            (reads, "barrier", 1),
        ):
            setattr(owner, method, self._wrapped(name, waiting, method, getattr(owner, method), place))

    def _wrapped(
        self, name: str, waiting: dict[int, str], method: str, call: Callable[..., Any], place: int
    ) -> Callable[..., Any]:
        """`call` with the callback at position `place` counted."""

        def counted(*args: Any) -> Any:
            number, callback = next(self._numbers), args[place]
            told: list[bool] = []

            def once(result: Any, error: Any) -> None:
                if told:
                    self._fail(f"callers: {name} answers a call of {method} twice, with {error!r}")
                told.append(True)
                waiting.pop(number, None)
                callback(result, error)

            waiting[number] = method
            try:
                return call(*args[:place], once, *args[place + 1 :])
            except BaseException:
                waiting.pop(number, None)  # refused: nothing else comes
                raise

        return counted

    def ended(self, name: str) -> None:
        """The newest life of the machine has ended in order: it answered everybody first."""
        if left := sorted(self._open.get(name, {}).values()):
            self._fail(f"callers: {name} stopped in order and left without an answer: {left}")

    def unanswered(self, name: str) -> list[str]:
        """What callers of the machine's newest life still wait for, sorted."""
        asked = ["read_index"] * len(self._reads.get(name, ()))
        return sorted([*self._open.get(name, {}).values(), *asked])


def _with(submit: Callable[[Any], None], write: Any, callback: Any) -> None:
    write.callback = callback
    submit(write)
