"""The node processes: started in their namespace, signalled, reaped. Main thread of the keeper."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jepsen.cluster.keeper import namespace
from jepsen.errors import SetupError

_ORPHAN_EXIT: Final = 70


@dataclass(slots=True)
class Child:
    process: subprocess.Popen[bytes]

    @property
    def code(self) -> int | None:
        """The exit code once it has ended (negative: by a signal)."""
        return self.process.poll()


class Children:
    """At most one process per name at a time."""

    def __init__(self) -> None:
        self._children: dict[str, Child] = {}

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str,
        log: str,
        netns: int | None,
    ) -> int:
        """Start and return the process id; raises SetupError when one runs or it cannot be started."""
        child = self._children.get(name)
        if child is not None and child.code is None:
            raise SetupError(f"{name} runs already, as process {child.process.pid}")
        try:
            with open(log, "ab") as output:
                process = subprocess.Popen(
                    list(argv),
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is the suite's, which then stops its nodes in order
                    preexec_fn=_prepare(netns),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise SetupError(f"cannot start {name} ({argv[0]}): {error}") from None
        self._children[name] = Child(process)
        return process.pid

    def code(self, name: str) -> tuple[int | None, int | None]:
        """(process id while it runs, exit code once it has ended); (None, None) before the first start."""
        child = self._children.get(name)
        if child is None:
            return None, None
        code = child.code
        return (child.process.pid, None) if code is None else (None, code)

    def signal(self, name: str, number: int) -> bool:
        """False when no process of that name runs."""
        child = self._children.get(name)
        if child is None or child.code is not None:
            return False
        child.process.send_signal(number)
        return True

    def kill_all(self) -> None:
        """SIGKILL also ends what is stopped by SIGSTOP."""
        for child in self._children.values():
            if child.code is None:
                child.process.kill()
        for child in self._children.values():
            child.process.wait()


def _prepare(netns: int | None) -> Callable[[], None]:
    """What the child does between fork and exec."""
    keeper = os.getpid()

    def prepare() -> None:
        if netns is not None:
            namespace.enter(netns)
        namespace.libc.prctl(namespace.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(_ORPHAN_EXIT)  # the keeper died before the kernel was told

    return prepare
