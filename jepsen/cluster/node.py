"""`ProcessNode`: a ClusterNode whose process the keeper runs; the same in both kinds of cluster.

The node's control port is a Unix socket beside its folder: reachable whatever is cut between the peers.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jepsen.cluster.api import ProcessEnvironment, ServerSettings
from jepsen.cluster.client import ClientError, NodeClient
from jepsen.cluster.keeping import KeeperProcess, environment
from jepsen.errors import SetupError

_POLL_S: Final = 0.02
_GONE_S: Final = 30.0
_LOG_TAIL_LINES: Final = 12
_ASKED_EXITS: Final = (0, -signal.SIGTERM)  # a node that has not started yet has no handler


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where a node lives. `listen` and `advertise` are host:port."""

    name: str
    folder: Path
    listen: str
    advertise: str
    insecure: bool


class ProcessNode:
    """See api.ClusterNode. `join`: says whom to join at each start; nobody for the founder's first."""

    def __init__(
        self,
        place: NodePlace,
        keeper: KeeperProcess,
        settings: ServerSettings,
        join: Callable[[], list[str]],
        process_environment: ProcessEnvironment | None,
    ) -> None:
        self.name = place.name
        self.folder = place.folder
        self.log_path = place.folder.with_name(f"{place.name}.log")
        self.control_path = place.folder.with_name(f"{place.name}.sock")
        self.address = place.advertise
        self.faults: Any = None
        self.is_paused = False
        self.own_exits: list[int] = []
        self._is_watched = False  # a process was started, and nobody has ended it
        self._place = place
        self._keeper = keeper
        self._settings = settings
        self._join = join
        self._process_environment = process_environment

    # -- the process ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        pid: int | None = self._poll()[0]
        return pid

    @property
    def is_running(self) -> bool:
        return self.pid is not None

    @property
    def exit_code(self) -> int | None:
        code: int | None = self._poll()[1]
        return code

    def _poll(self) -> list[int | None]:
        found: list[int | None] = self._keeper.request("poll", name=self.name)
        return found

    def start(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        variables = environment()
        if self._process_environment is not None:
            variables.update(self._process_environment(self.name))
        self.is_paused = False
        self.note_exit()
        self._keeper.request(
            "start",
            name=self.name,
            argv=self._command(),
            environment=variables,
            folder=str(self.folder.parent),
            log=str(self.log_path),
        )
        self._is_watched = True

    def note_exit(self) -> None:
        pid, code = self._poll()
        if self._is_watched and pid is None and code is not None:
            self.own_exits.append(code)
            self._is_watched = False

    def _command(self) -> list[str]:
        place, settings = self._place, self._settings
        command = [sys.executable, "-m", "jepsen.server", "--name", self.name, "--dir", str(self.folder)]
        command += ["--listen", place.listen, "--advertise", place.advertise]
        # Relative to the process's folder: a Unix socket's path is short.
        command += ["--control", f"unix:{self.control_path.name}", "--log-level", settings.log_level]
        command += ["--compact-log-bytes", str(settings.compact_log_bytes)]
        command += ["--log-tail-bytes", str(settings.log_tail_bytes)]
        command += ["--segment-bytes", str(settings.segment_bytes)]
        command += ["--disk-reserve-bytes", str(settings.disk_reserve_bytes)]
        command += ["--leaving-s", str(settings.leaving_s)]
        if place.insecure:
            command.append("--insecure")
        for address in self._join():
            command += ["--join", address]
        return command

    def wait_serving(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with self.client(max(0.1, min(2.0, deadline - time.monotonic()))) as client:
                    client.status()
                return
            except ClientError as error:
                last = error
            if not self.is_running:
                raise SetupError(f"{self.name} has ended with {self.exit_code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise SetupError(
                    f"{self.name} does not serve after {timeout_s:g} s ({last}):\n{self.log_tail()}"
                )
            time.sleep(_POLL_S)

    def kill(self) -> None:
        self.note_exit()
        self._is_watched = False
        self._signal(signal.SIGKILL)
        self._wait_gone(_GONE_S)
        self.is_paused = False

    def pause(self) -> None:
        if self._signal(signal.SIGSTOP):
            self.is_paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.is_paused = False

    def stop(self, timeout_s: float = 30.0) -> int:
        if self.is_paused:
            self.resume()
        self.note_exit()
        if self._signal(signal.SIGTERM) and self._wait_gone(timeout_s):
            if self.exit_code not in _ASKED_EXITS:
                self.note_exit()
        else:
            self.kill()
        self._is_watched = False
        return self.exit_code or 0

    def _signal(self, number: signal.Signals) -> bool:
        return bool(self._keeper.request("signal", name=self.name, number=int(number)))

    def _wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.is_running:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    # -- its files and clients --------------------------------------------------------------------------------

    def wipe(self) -> None:
        if self.is_running:
            raise SetupError(f"{self.name} runs: kill or stop it before its folder is wiped")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise SetupError(f"cannot remove {self.folder}: look at its owner and mounts")

    def client(self, timeout_s: float = 5.0) -> NodeClient:
        return NodeClient(self.control_path, timeout_s)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The end of the log, for messages."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}>"
