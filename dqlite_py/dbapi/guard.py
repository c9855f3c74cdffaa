"""Who may use a connection: its thread alone, as in sqlite3, or any thread in turn; never a forked child."""

from __future__ import annotations

import os
import threading
from typing import Final

from dqlite_py.errors import ProgrammingError

_FORKS: Final = [0]


def _forked() -> None:
    _FORKS[0] += 1


os.register_at_fork(after_in_child=_forked)


class Guard:
    """Of one connection. `is_shared`: calls of several threads take turns."""

    __slots__ = ("_depth", "_forks", "_lock", "_owner", "_thread", "is_shared")

    def __init__(self, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._thread = threading.get_ident()
        self._forks = _FORKS[0]
        self._lock = threading.Lock()
        self._owner = 0
        self._depth = 0

    def may_pass(self) -> bool:
        """Whether this thread may go on without `enter`: the usual case, in one look."""
        return self._thread == threading.get_ident() and not self.is_shared and self._forks == _FORKS[0]

    def check(self) -> None:
        """Raises ProgrammingError for a thread that may not use the connection, and in a forked child."""
        self.check_process()
        if not self.is_shared and self._thread != threading.get_ident():
            raise ProgrammingError(
                "SQLite objects created in a thread can only be used in that same thread. The object was "
                f"created in thread id {self._thread} and this is thread id {threading.get_ident()}."
            )

    def check_process(self) -> None:
        """Raises ProgrammingError in a forked child."""
        if self._forks != _FORKS[0]:
            raise ProgrammingError(
                "this connection was made before a fork: it is the parent process's; connect anew in the child, to a "
                "node of the parent with dqlite_py.connect(address)"
            )

    def is_forked(self) -> bool:
        return self._forks != _FORKS[0]

    def enter(self) -> None:
        """`check`, and wait for the other threads' calls. A call inside a call of the same thread passes."""
        me = threading.get_ident()
        if self._forks != _FORKS[0] or not (self.is_shared or self._thread == me):
            self.check()
        if not self.is_shared:
            return
        if self._owner != me:
            self._lock.acquire()
            self._owner = me
        self._depth += 1

    def leave(self) -> None:
        if not self.is_shared:
            return
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
            self._lock.release()
