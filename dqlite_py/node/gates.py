"""Gates: a user thread waits before its own until its answer is there. Any thread.

`wait` can let another thread go on first. The C gate does both without the interpreter lock: the other thread wakes
when the lock is free, instead of waking, finding it held and sleeping again. The lock gate does the same with one more
change of threads; it serves where there is no futex or no C.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from dqlite_py.nativelib import IMPLEMENTATION


class LockGate:
    """A gate on threading.Lock."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the waiting thread, or the one that will wait, go on; a second call does nothing."""
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout_s: float, other: LockGate | None) -> bool:
        """Open `other`, then wait until this gate is open: False when it is not within the time."""
        if other is not None:
            other.open()
        return self._lock.acquire(timeout=max(0.0, timeout_s))


class FutexGate:
    """A gate in C (native/gate.c)."""

    __slots__ = ("_state",)
    _ffi: Any = None
    _lib: Any = None

    def __init__(self) -> None:
        self._state = self._ffi.new("int32_t *")

    def open(self) -> None:
        """As LockGate's."""
        self._lib.dq_gate_open(self._state)

    def wait(self, timeout_s: float, other: FutexGate | None) -> bool:
        """As LockGate's. A signal ends the wait when its handler raises (KeyboardInterrupt)."""
        state = self._ffi.NULL if other is None else other._state
        opened = self._lib.dq_gate_wait(self._state, state, int(timeout_s * 1e6))
        if opened >= 0:
            return bool(opened)
        return self._wait_on(timeout_s)

    def _wait_on(self, timeout_s: float) -> bool:
        """After a signal whose handler did not raise."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_us = int((deadline - time.monotonic()) * 1e6)
            opened = self._lib.dq_gate_wait(self._state, self._ffi.NULL, left_us)
            if opened >= 0:
                return bool(opened)


def _choose() -> type[LockGate] | type[FutexGate]:
    if IMPLEMENTATION == "c":
        from dqlite_py._native import ffi, lib

        if lib.dq_have_gates():
            FutexGate._ffi, FutexGate._lib = ffi, lib
            return FutexGate
    return LockGate


Gate: Any = _choose()
