"""Client threads: take operations from the workload, do them on one node, record what became of them.

An operation that ended unknown ends its process: the thread goes on under a new process number, as a crashed
client would. Threads end at the deadline plus at most one request timeout; they never raise.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

from jepsen.cluster.client import Failed, Unknown
from jepsen.history.op import Op, OpType
from jepsen.history.recorder import Recorder
from jepsen.workloads.base import Rejected, Request, Session, Workload

BACKOFF_S: Final = 0.2  # after a failure: a dead node must not be asked thousands of times a second


class ClosableSession(Session, Protocol):
    """A session that can drop its connection and come back with a new one."""

    def close(self) -> None: ...


class Source:
    """Hands the workload's operations to its threads, one at a time, and counts what became of them.

    `asked` and `served`: operations and successes by node; `served_ns`: when the last success was invoked, on the
    clock of the history.
    """

    def __init__(self, workload: Workload, recorder: Recorder, clients: int) -> None:
        self.workload = workload
        self.recorder = recorder
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.served_ns = -1
        self._next_process = clients
        self._lock = threading.Lock()

    def next(self) -> Request:
        with self._lock:
            return self.workload.next()

    def new_process(self) -> int:
        """A process number that was never used."""
        with self._lock:
            self._next_process += 1
            return self._next_process - 1

    def note(self, op: Op, kind: OpType) -> None:
        """What became of an invocation."""
        with self._lock:
            self.asked[str(op.node)] += 1
            if kind is OpType.OK:
                self.served[str(op.node)] += 1
                self.served_ns = max(self.served_ns, op.time)


def perform(source: Source, session: ClosableSession, process: int, request: Request, node: str) -> OpType:
    """Do one operation and record it. Returns its outcome; never raises for what the cluster does."""
    recorder = source.recorder
    op = recorder.invoke(process, request.f, request.value, node)
    value: Any = ...
    try:
        value = source.workload.apply(session, request)
        kind, error = OpType.OK, None
    except Rejected as rejected:
        kind, error = OpType.FAIL, str(rejected)
    except Failed as failed:
        if failed.name == "Connection":
            session.close()
        kind, error = OpType.FAIL, _text(failed)
    except Unknown as unknown:
        session.close()
        kind, error = OpType.FAIL if request.is_read else OpType.INFO, _text(unknown)
    except Exception as mistake:  # noqa: BLE001 - recorded, and judged by the checker "client-errors"
        session.close()
        kind, error = OpType.INFO, f"{CLIENT_ERROR}{type(mistake).__name__}: {mistake}"
    recorder.complete(op, kind, value, error)
    source.note(op, kind)
    return kind


CLIENT_ERROR: Final = "unexpected "


class ClientThread(threading.Thread):
    """One client bound to one node."""

    def __init__(
        self,
        source: Source,
        make_session: Callable[[], ClosableSession],
        process: int,
        node: str,
        rng: random.Random,
        rate: float,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"{source.workload.name}-{process}", daemon=True)
        self._source = source
        self._make_session = make_session
        self._process = process
        self._node = node
        self._rng = rng
        self._rate = rate
        self._stopped = stop
        self.trouble: str | None = None  # what ended the thread before its time

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - the run's verdict "clients" tells of it
            if not self._source.recorder.is_closed:  # else the run did not wait for this thread
                self.trouble = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        session = self._make_session()
        due = time.monotonic()
        while True:
            # Poisson arrivals per client; after a long wait there is no burst to catch up.
            due = max(due + self._rng.expovariate(self._rate), time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                break
            kind = perform(self._source, session, self._process, self._source.next(), self._node)
            if kind is OpType.INFO:
                self._process = self._source.new_process()
            if kind is not OpType.OK:
                due = time.monotonic() + self._rng.uniform(0, BACKOFF_S)
        session.close()


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
