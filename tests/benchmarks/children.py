"""What every child process of a run does first, so that none outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
_LIBC = (
    ctypes.CDLL(None) if sys.platform == "linux" else None
)  # loaded here: nothing is allocated after a fork


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends; end at once when that is not `parent` any more."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal: the first one ends the others in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
