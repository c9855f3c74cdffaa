"""After a fork: the child has the objects of the parent's nodes, and none of their threads. It leaves them alone.

SQLite's connections must not be used, nor closed, in a child (sqlite.org/howtocorrupt.html, 2.6), and a lock that
another thread held at the fork is never released there. So nothing of a node is ever finalized in the child; every call
is refused; and its descriptors are let go, or the folder's lock and the address would stay taken while the child lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dqlite_py.errors import NodeStopped

if TYPE_CHECKING:
    from dqlite_py.node.runtime import NodeRuntime

DESCRIPTORS: Final = "/proc/self/fd"
_forks: Final = [0]
_nodes: Final[set[RunningNode]] = set()


def forked() -> NodeStopped:
    """The refusal, in a child, of what runs in the parent."""
    return NodeStopped(
        "this node was started before a fork and runs in the parent process only: reach it from the child with "
        "dqlite_py.connect(address)"
    )


class Origin:
    """The process that something was made in."""

    __slots__ = ("_forks",)

    def __init__(self) -> None:
        self._forks = _forks[0]

    @property
    def is_here(self) -> bool:
        return self._forks == _forks[0]

    def check(self) -> None:
        """Raises NodeStopped in a forked child."""
        if self._forks != _forks[0]:
            raise forked()


class RunningNode:
    """A running node, while its block lasts: then a child has it. `refuse` is called in the child."""

    def __init__(self, runtime: NodeRuntime, refuse: Callable[[], None]) -> None:
        self._runtime = runtime
        self._refuse = refuse
        self._folder = os.path.realpath(runtime.settings.directory)

    def __enter__(self) -> None:
        _nodes.add(self)

    def __exit__(self, *_exc: object) -> None:
        _nodes.discard(self)

    def leave_to_parent(self) -> None:
        """In a forked child."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        self._refuse()
        self._runtime.write_path.inbox.leave(forked)
        self._runtime.view.block("forked", forked)
        sockets = set(self._runtime.transport.descriptors())
        with contextlib.suppress(OSError):  # without /proc they stay open as long as the child lives
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for name in os.listdir(DESCRIPTORS):
                if int(name) in sockets or _target(name).startswith(f"{self._folder}/"):
                    os.dup2(null, int(name), inheritable=False)  # the number stays taken: its owner knows it
            os.close(null)


def _target(name: str) -> str:
    try:
        return os.readlink(f"{DESCRIPTORS}/{name}")
    except OSError:
        return ""  # the listing's own


def _end_without_libuv() -> None:
    """libuv's destructor joins the threads that it had in the parent, and crashes: end the process before, when Python
    is over. multiprocessing's children do without C destructors, too."""
    with contextlib.suppress(AttributeError):  # glibc has on_exit
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


def _after_fork() -> None:
    _forks[0] += 1
    if _nodes:
        _end_without_libuv()
    for node in list(_nodes):
        node.leave_to_parent()
    _nodes.clear()


os.register_at_fork(after_in_child=_after_fork)
