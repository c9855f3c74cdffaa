"""Records a run's history while it happens: thread-safe, streamed to a file, so that a killed run leaves its part."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from jepsen.errors import HistoryError
from jepsen.history.files import format_op
from jepsen.history.history import History
from jepsen.history.op import NEMESIS, Op, OpType


class Recorder:
    """Appends operations to `path` (EDN, one map per line) and keeps them; use as a context manager.

    Each event takes its time and index under one lock: an invocation is recorded BEFORE the request is
    sent and a completion AFTER its answer came, so that recorded intervals contain the true ones.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._start_ns = time.monotonic_ns()
        self._ops: list[Op] = []
        self._file = self.path.open("w", encoding="utf-8", buffering=1)

    def now_ns(self) -> int:
        """Nanoseconds since the run began, on the clock of `Op.time`."""
        return time.monotonic_ns() - self._start_ns

    def invoke(self, process: int, f: str, value: Any = None, node: str | None = None) -> Op:
        """Record that `process` is about to send an operation; hand the result to `complete`."""
        return self._append(OpType.INVOKE, process, f, value, None, node)

    def complete(self, op: Op, type: OpType | str, value: Any = ..., error: str | None = None) -> Op:
        """Record what became of `op` (OK, FAIL or INFO); `value` defaults to the invocation's.

        Raises HistoryError for a completion of type INVOKE.
        """
        kind = OpType(type)
        if kind is OpType.INVOKE:
            raise HistoryError(
                f"completion of {op.f} (index {op.index}) has type invoke", expected="ok, fail or info"
            )
        return self._append(kind, op.process, op.f, op.value if value is ... else value, error, op.node)

    def nemesis(self, f: str, value: Any = None) -> Op:
        """Record a fault (process "nemesis", type INFO, as Jepsen does)."""
        return self._append(OpType.INFO, NEMESIS, f, value, None, None)

    def history(self) -> History:
        """What was recorded so far."""
        with self._lock:
            return History(self._ops)

    @property
    def is_closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Close the file; what comes later raises HistoryError."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _append(
        self, type: OpType, process: int | str, f: str, value: Any, error: str | None, node: str | None
    ) -> Op:
        with self._lock:
            if self._file.closed:
                raise HistoryError(f"{self.path}: {f} of process {process} after the recorder was closed")
            op = Op(len(self._ops), type, process, f, value, self.now_ns(), error, node)
            line = format_op(op)  # may refuse a value
            self._ops.append(op)
            self._file.write(line + "\n")
        return op
