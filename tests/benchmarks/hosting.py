"""A driver in a child process: commands over a pipe, a deadline for each, and no process left behind.

The child ends with its parent (PR_SET_PDEATHSIG), and its own children end with it; so a driver that hangs or crashes
costs its own measurements only, and each implementation is chosen at its own import.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from tests.benchmarks import drivers
from tests.benchmarks.children import die_with_parent, leave_interrupts_to_the_parent

OPEN_S = 90.0
CLOSE_S = 20.0
SLACK_S = 90.0


class DriverFailed(Exception):
    """The driver could not do what was asked; its text is for the report."""


class Hosted:
    """The parent's end. Use `hosted`."""

    def __init__(self, name: str, folder: Path, options: dict[str, Any]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        folder.mkdir(parents=True)
        self._process = context.Process(target=_serve, args=(child, os.getpid(), name, folder, options))
        with _environment(drivers.ENVIRONMENT.get(name, {})):
            self._process.start()
        child.close()
        try:
            self._answer(OPEN_S)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any, timeout_s: float = SLACK_S, **named: Any) -> Any:
        """Call a method of the cluster; raises DriverFailed, also when no answer comes in time."""
        self.begin(method, *args, **named)
        return self.finish(timeout_s)

    def begin(self, method: str, *args: Any, **named: Any) -> None:
        """The first half of `call`, so that several hosts work at the same time."""
        try:
            self._pipe.send((method, args, named))
        except OSError as error:
            raise DriverFailed(f"{self.name}: its process has ended ({error})") from None

    def finish(self, timeout_s: float = SLACK_S) -> Any:
        return self._answer(timeout_s)

    def measure(self, workload: str, clients: int, seconds: float, rate: float | None = None) -> Any:
        return self.call("measure", workload, clients, seconds, rate, timeout_s=seconds + SLACK_S)

    def _answer(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self._kill()
                raise DriverFailed(f"{self.name}: no answer within {timeout_s:.0f} s")
            is_good, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1)
            raise DriverFailed(
                f"{self.name}: its process ended, exit code {self._process.exitcode}"
            ) from None
        if not is_good:
            raise DriverFailed(f"{self.name}: {value}")
        return value

    def close(self) -> None:
        if self._process.is_alive():
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self._process.join(CLOSE_S)
        self._kill()
        self._process.close()
        self._pipe.close()

    def _kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


@contextlib.contextmanager
def hosted(name: str, folder: Path, **options: Any) -> Iterator[Hosted]:
    """An open cluster, closed at the end however it ends."""
    host = Hosted(name, folder, options)
    try:
        yield host
    finally:
        host.close()


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """os.environ for the child that is started inside."""
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _serve(pipe: Pipe, parent: int, name: str, folder: Path, options: dict[str, Any]) -> None:
    """The child: open, answer commands until None or the end of the pipe, close."""
    die_with_parent(parent)
    leave_interrupts_to_the_parent()
    logging.basicConfig(filename=folder / "host.log")
    try:
        cluster = drivers.opener(name)(folder, name=name, **options)
    except Exception as error:  # noqa: BLE001  # told to the parent
        pipe.send((False, _told(error, folder)))
        return
    try:
        pipe.send((True, None))
        while (command := _next(pipe)) is not None:
            method, args, named = command
            try:
                answer = (True, getattr(cluster, method)(*args, **named))
            except Exception as error:  # noqa: BLE001  # told to the parent
                answer = (False, _told(error, folder))
            pipe.send(answer)
    finally:
        cluster.close()


def _next(pipe: Pipe) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


def _told(error: BaseException, folder: Path) -> str:
    with (folder / "host.log").open("a") as log:
        traceback.print_exception(error, file=log)
    return f"{type(error).__name__}: {error}"
