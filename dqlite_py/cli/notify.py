"""What a node tells the service manager that started it: systemd's notification protocol, sd_notify(3). Main thread.

Each message is one datagram of lines NAME=value to the socket named by NOTIFY_SOCKET; without that variable nothing
is sent. WATCHDOG=1 is sent only after a sign of life that has gone through the node's loop and its journal thread:
a stuck node is then ended and started again by the manager.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from dqlite_py.errors import Error
from dqlite_py.limits import MIB
from dqlite_py.logs import event

log = logging.getLogger("dqlite_py.cli")

REPORT_S: Final = 5.0
EXTEND_S: Final = 60.0
EXTEND_EVERY_S: Final = 20.0
READY_WITHOUT_LEADER_S: Final = 30.0
_SEND_TIMEOUT_S: Final = 1.0

LifeSign = Callable[[], "Future[dict[str, Any]]"]


class Notifier:
    """Sends messages; `address` None: nobody wants to hear them."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._socket: socket.socket | None = None
        self._address = b""
        self.watchdog_s = watchdog_s
        if address:
            # "@" stands for the zero byte that begins an abstract socket's name.
            self._address = os.fsencode("\0" + address[1:] if address[0] == "@" else address)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_SEND_TIMEOUT_S)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> Notifier:
        """NOTIFY_SOCKET, and WATCHDOG_USEC unless WATCHDOG_PID names another process."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return cls(None)
        if address[0] not in "/@":
            event(log, logging.WARNING, "the service manager's socket is of no known kind", address=address)
            return cls(None)
        usec = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        wanted = is_ours and usec.isascii() and usec.isdigit() and 0 < int(usec) < 2**63
        return cls(address, int(usec) / 1e6 if wanted else None)

    @property
    def is_wanted(self) -> bool:
        return self._socket is not None

    def tell(self, **fields: object) -> None:
        """One message; a manager that cannot be told changes nothing for the node."""
        if self._socket is None:
            return
        lines = [f"{name}={' '.join(str(value).split())}" for name, value in fields.items()]
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            event(log, logging.WARNING, "the service manager was not told", message=lines[0], reason=error)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class Service:
    """A node's life as the service manager hears of it, in this order: starting, waiting, ready, polls, stopping."""

    def __init__(self, notifier: Notifier, now: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._now = now
        self._period_s = min(REPORT_S, (notifier.watchdog_s or REPORT_S * 3) / 3)
        self._asked: Future[dict[str, Any]] | None = None
        self._ask_at = now()
        self._extend_at = now()
        self._since = now()
        self._is_ready = False

    @property
    def poll_s(self) -> float:
        """How often `poll` wants to be called, at least."""
        return min(0.2, self._period_s / 4)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While the folder is opened: databases are read whole, which takes long for large ones."""
        if not self._notifier.is_wanted:
            yield
            return
        ended = threading.Event()
        self._notifier.tell(STATUS="opening the data folder")

        def extend() -> None:
            self._extend()
            while not ended.wait(EXTEND_EVERY_S):
                self._extend()

        thread = threading.Thread(target=extend, name="dqlite-notify", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._since = self._now()

    def waiting(self, life_sign: LifeSign) -> None:
        """No leader is known yet, or a snapshot is still on its way. Call often.

        A member that has waited for a leader for 30 s is told as ready: it does its part, and ending it would help
        nobody, when the others are down.
        """
        status = self.poll(life_sign)
        if status is None or self._is_ready:
            return
        if self._now() >= self._extend_at:
            self._extend()
        if self._now() - self._since < READY_WITHOUT_LEADER_S:
            return
        if is_member(status) and status.get("snapshot_phase") == "idle":
            self.ready(status)

    def ready(self, status: Mapping[str, Any]) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._notifier.tell(READY=1, STATUS=status_text(status))

    def poll(self, life_sign: LifeSign) -> Mapping[str, Any] | None:
        """Call often: asks for a sign of life and tells the manager when it has come. The status that came, if any."""
        if not self._notifier.is_wanted:
            return None
        if self._asked is None:
            if self._now() >= self._ask_at:
                self._ask_at = self._now() + self._period_s
                try:
                    self._asked = life_sign()
                except Error as error:
                    self._unwell(error)
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        try:
            status = asked.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no sign of life
            self._unwell(error)
            return None
        self._notifier.tell(WATCHDOG=1, STATUS=status_text(status))
        return status

    def stopping(self, within_s: float) -> None:
        self._notifier.tell(STOPPING=1, STATUS="stopping", EXTEND_TIMEOUT_USEC=int(within_s * 1e6))

    def _extend(self) -> None:
        self._extend_at = self._now() + EXTEND_EVERY_S
        self._notifier.tell(EXTEND_TIMEOUT_USEC=int(EXTEND_S * 1e6))

    def _unwell(self, error: BaseException) -> None:
        event(log, logging.WARNING, "the node gave no sign of life", reason=str(error))


def is_member(status: Mapping[str, Any]) -> bool:
    return any(member.get("id") == status.get("node_id") for member in status.get("members", ()))


def status_text(status: Mapping[str, Any]) -> str:
    """One line for `systemctl status`."""
    if status.get("snapshot_phase", "idle") != "idle":
        done, total = status["snapshot_bytes"]
        return f"{status['snapshot_phase']} a snapshot: {done // MIB} of {total // MIB} MiB"
    state = str(status.get("state", ""))
    leader = status.get("leader_address")
    where = f" of {leader}" if leader and state != "leader" else ""
    text = f"{state}{where}, term {status.get('term', 0)}, applied {status.get('applied_index', 0)}"
    if not leader and state != "leader":
        text += ", no leader known"
    problem = status.get("problem")
    return f"{text}: {problem}" if problem else text
