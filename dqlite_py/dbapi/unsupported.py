"""What sqlite3's Connection offers and a replicated database cannot: refused with the reason and a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from dqlite_py.errors import NotSupportedError

_FUNCTION = (
    "a function in Python would have to give the same result on every node, now and at every replay of the log; "
    "compute the value first and pass it as a parameter"
)
_COPY = (
    "a database is copied by the cluster: add a node, or read it with iterdump(); "
    "`sqlite3.connect(file).backup()` works on a node's file"
)
_LIMITS = "limits are the same on all nodes and fixed (docs/differences-from-sqlite3.md)"


class Unsupported:
    """Mixed into connections."""

    _ready: Callable[[], None]

    def _refuse(self, name: str, why: str) -> NoReturn:
        self._ready()
        raise NotSupportedError(f"{name}() is not supported: {why}")

    def create_function(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("create_function", _FUNCTION)

    def create_aggregate(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("create_aggregate", _FUNCTION)

    def create_window_function(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("create_window_function", _FUNCTION)

    def create_collation(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse(
            "create_collation", f"{_FUNCTION}; NOCASE, RTRIM and BINARY are there, or store a sort key"
        )

    def set_authorizer(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse(
            "set_authorizer", "statements are prepared on every node, which has its own; check SQL before"
        )

    def set_progress_handler(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("set_progress_handler", "statements run in the node; use `timeout` or interrupt()")

    def enable_load_extension(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("enable_load_extension", "all nodes run the same SQLite without extensions of their own")

    def load_extension(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("load_extension", "all nodes run the same SQLite without extensions of their own")

    def backup(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("backup", _COPY)

    def serialize(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("serialize", _COPY)

    def deserialize(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse(
            "deserialize", "a database changes through the log only; run a dump with executescript()"
        )

    def blobopen(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse(
            "blobopen", "blobs are written by SQL: bind bytes, read with substr(column, start, length)"
        )

    def getlimit(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("getlimit", _LIMITS)

    def setlimit(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("setlimit", _LIMITS)

    def getconfig(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("getconfig", _LIMITS)

    def setconfig(self, *_args: Any, **_options: Any) -> NoReturn:
        self._refuse("setconfig", _LIMITS)
