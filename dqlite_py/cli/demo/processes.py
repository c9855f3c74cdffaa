"""Node processes of the demo and the benchmarks: start, SIGKILL, restart, and never one left behind.

Called from the main thread. Every child is told by the kernel to die with this process (Linux), so that even
a SIGKILL of the demo leaves nothing running.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from dqlite_py.model import Address

STOP_TIMEOUT_S = 5.0
PR_SET_PDEATHSIG = 1
# Below Linux's range for outgoing connections: a killed node's port is not lent to somebody else meanwhile.
PORT_MIN, PORT_MAX = 20_000, 32_000


def free_addresses(count: int) -> list[Address]:
    """Loopback addresses nobody listens on now."""
    found: list[Address] = []
    while len(found) < count:
        port = random.randrange(PORT_MIN, PORT_MAX)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        address = Address(f"127.0.0.1:{port}")
        if address not in found:
            found.append(address)
    return found


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: nothing is allocated between fork and exec
    parent = os.getpid()

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died between the fork and the line before

    return bind


@dataclass(slots=True)
class NodeProcess:
    """One `dqlite-py node` with its folder and log. `options`: more arguments, as of TLS; `program`: dqlite-py."""

    name: str
    address: Address
    folder: Path
    join: tuple[Address, ...]
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = (sys.executable, "-m", "dqlite_py.cli.main")
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log_path(self) -> Path:
        return self.folder.parent / f"{self.name}.log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*self.program, "node"]
        command += ["--dir", str(self.folder), "--listen", self.address]
        if self.join:
            command += ["--join", ",".join(self.join)]
        command += self.options
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops its nodes in order
                preexec_fn=_die_with_parent(),
            )

    def kill(self) -> None:
        """SIGKILL: no clean-up of any kind."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        if self.is_running and self.process is not None:
            self.process.terminate()

    def wait_stopped(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self, lines: int = 8) -> list[str]:
        try:
            return self.log_path.read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []


class Processes:
    """The demo's nodes as a context: all stopped at its end, however it ends."""

    def __init__(self, folder: Path, count: int = 3, addresses: Sequence[Address] = ()) -> None:
        self.folder = folder
        chosen = list(addresses) or free_addresses(count)
        self.nodes = [
            NodeProcess(f"node{i + 1}", address, folder / f"node{i + 1}", () if i == 0 else (chosen[0],))
            for i, address in enumerate(chosen)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.wait_stopped()

    def start_all(self) -> None:
        for node in self.nodes:
            node.start()
