"""One operation's event, as every part of the suite passes it on. Knows no file format and no workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NEMESIS = "nemesis"  # the process name of faults


class OpType(StrEnum):
    """What an event says of its operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"  # certainly did not happen
    INFO = "info"  # may have happened, may happen yet, may never


class Keyword(str):
    """An EDN keyword (`:append`) without its colon: a str in every way, but written back with the colon."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Op:
    """One event of a history.

    `index`: position in the history, from 0. `time`: ns since the run began.
    `process`: a client process runs one operation at a time, and never again after INFO; or "nemesis".
    `value`: plain data: None, bool, int, float, str, list, dict. `node`: where the request was sent.
    `extra`: other keys of histories of other origin, kept as they are.
    """

    index: int
    type: OpType
    process: int | str
    f: str
    value: Any
    time: int
    error: str | None = None
    node: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_client(self) -> bool:
        """True for a client's event, False for the nemesis' (any process that is not a number)."""
        return isinstance(self.process, int)


@dataclass(frozen=True, slots=True)
class Pair:
    """An invocation and what became of it; `completion` None: the history ended first (outcome unknown)."""

    invoke: Op
    completion: Op | None

    @property
    def type(self) -> OpType:
        """OK, FAIL or INFO; INFO, too, where no completion was recorded."""
        return self.completion.type if self.completion is not None else OpType.INFO
