"""The life of `dqlite-py node`: start, tell when ready, wait for a signal or a failure, stop. Main thread.

First SIGTERM or SIGINT: hand leadership (and, if asked to, the vote) over, stop cleanly, exit 0; before the
node has started there is nothing to hand over and the process ends at once. A second one ends the process at
once, as kill -9 would: the folder survives that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn, Protocol, TextIO

from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.notify import Notifier, Service
from dqlite_py.errors import Error
from dqlite_py.logs import Format, event

log = logging.getLogger("dqlite_py.cli")

_READY_TRY_S: Final = 0.5
_REMIND_S: Final = 10.0
_STOP_S: Final = 45.0  # more than Node.stop may take


class ServedNode(Protocol):
    """What is needed of app.Node."""

    def start(self) -> Any: ...
    def stop(self, *, drain_s: float, leave_s: float) -> None: ...
    def wait_ready(self, timeout: float) -> None: ...
    def join_thread(self, timeout: float | None = None) -> bool: ...
    def status(self) -> dict[str, Any]: ...
    def life_sign(self) -> Future[dict[str, Any]]: ...
    @property
    def failure(self) -> BaseException | None: ...


def _exit_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class StopSignals:
    """Counts SIGTERM and SIGINT. Between `__enter__` and `__exit__` it owns their handlers."""

    def __init__(self, exit_at_once: Callable[[int], None] = _exit_at_once) -> None:
        self._exit_at_once = exit_at_once
        self._is_starting = False
        self.name = ""

    @property
    def is_set(self) -> bool:
        return bool(self.name)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While the node starts (it may wait long for a cluster to join), one signal is enough to end."""
        self._is_starting = True
        try:
            yield
        finally:
            self._is_starting = False

    def received(self, number: int, _frame: FrameType | None = None) -> None:
        name = signal.Signals(number).name
        if self._is_starting:
            event(log, logging.INFO, "stopped while starting", signal=name)
            self._exit_at_once(ExitCode.OK)
        elif self.is_set:
            event(log, logging.WARNING, "second signal: exiting at once", signal=name)
            self._exit_at_once(128 + number)
        self.name = name

    def __enter__(self) -> StopSignals:
        self._before = {
            number: signal.signal(number, self.received) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def serve(
    node: ServedNode,
    stop: StopSignals,
    out: TextIO | None,
    form: Format,
    notifier: Notifier | None = None,
    drain_s: float = 0.0,
    leave_s: float = 0.0,
) -> None:
    """Run `node` until a signal; raises CommandFailed when it cannot start, or fails."""
    service = Service(notifier or Notifier(None))
    try:
        with stop.starting(), service.starting():
            node.start()
    except Exception as error:
        event(log, logging.DEBUG, "start failed", exc_info=True)
        raise CommandFailed(f"cannot start: {explain(error)}", ExitCode.CANNOT_START) from error
    _wait_ready(node, stop, service)
    if not stop.is_set:
        _tell_ready(node, out, form, service)
    while not stop.is_set and not node.join_thread(service.poll_s):
        service.poll(node.life_sign)
    service.stopping(_STOP_S + drain_s + leave_s)
    _finish(node, stop, drain_s, leave_s)


def _tell_ready(node: ServedNode, out: TextIO | None, form: Format, service: Service) -> None:
    try:
        status = node.status()
    except Error as error:  # it failed just now; the caller finds the reason
        event(log, logging.WARNING, "not ready after all", reason=str(error))
        return
    service.ready(status)
    if out is None:  # it was closed by who started us
        return
    try:
        out.write(ready_line(status, form) + "\n")
        out.flush()
    except OSError as error:  # nobody reads, or its disk is full: no reason to stop serving
        event(log, logging.WARNING, "the ready line could not be written", reason=error)


def _wait_ready(node: ServedNode, stop: StopSignals, service: Service) -> None:
    remind_at = time.monotonic() + _REMIND_S
    while not stop.is_set and not node.join_thread(0):
        try:
            node.wait_ready(_READY_TRY_S)
        except Error as error:
            service.waiting(node.life_sign)
            if time.monotonic() >= remind_at:
                event(log, logging.WARNING, "still waiting for a leader", reason=str(error))
                remind_at = time.monotonic() + _REMIND_S
        else:
            return


def _finish(node: ServedNode, stop: StopSignals, drain_s: float, leave_s: float) -> None:
    failure = node.failure
    if failure is None and not stop.is_set:
        raise CommandFailed("the node stopped by itself without a reason", ExitCode.FAILED_RUNNING)
    if failure is None:
        event(log, logging.INFO, "stopping", signal=stop.name)
        try:
            node.stop(drain_s=drain_s, leave_s=leave_s)
        except Error as error:
            failure = error
        else:
            failure = node.failure
    if failure is not None:
        raise CommandFailed(f"failed: {explain(failure)}", ExitCode.FAILED_RUNNING) from failure
    event(log, logging.INFO, "stopped")


def ready_line(status: Mapping[str, Any], form: Format) -> str:
    """`ready node_id=… cluster_id=… address=… role=… state=…`, or the same as JSON."""
    own_id = status.get("node_id")
    role = next((m.get("role") for m in status.get("members", ()) if m.get("id") == own_id), "none")
    fields = {
        "node_id": own_id,
        "cluster_id": status.get("cluster_id"),
        "address": status.get("address"),
        "role": role,
        "state": status.get("state"),
    }
    if form == "json":
        return json.dumps({"event": "ready", **fields})
    return " ".join(["ready", *(f"{name}={value}" for name, value in fields.items())])
