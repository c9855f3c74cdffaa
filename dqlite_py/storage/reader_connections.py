"""The connections of a reader pool: how many there are, who has them, who waits for one. Any thread.

Idle ones are taken without a lock (`idle.pop()`), that is the whole cost of a short read; everything else is here.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from copy import copy
from typing import Final

from dqlite_py.errors import Busy, Error, InterfaceError
from dqlite_py.limits import EXTRA_READER_CACHE_BYTES
from dqlite_py.logs import event
from dqlite_py.storage.held import Hold, HoldLimits
from dqlite_py.storage.reader import Reader

log = logging.getLogger("dqlite_py.storage")

GROW_AFTER_S: Final = 0.02  # a short read waits so long for another's connection before one is opened for it
HELD_NAMED_MAX: Final = 3


class ReaderConnections:
    """`size` of them are there from the start; see readers.ReaderPool for how many there may be."""

    def __init__(self, path: str, size: int, held_max: int) -> None:
        self.idle: list[Reader] = []
        self.held: dict[Hold, None] = {}
        self._path = path
        self._size = size
        self._idle_max = 2 * size
        self._held_max = held_max
        # Weak: one that a KeyboardInterrupt has torn from its caller's hands is gone, and not waited for.
        self._all: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._opening = 0
        self._changed = threading.Condition()
        self._waiting = 0
        self._is_closed = False
        self._is_gone = False
        self._why_closed: Error = InterfaceError("the database's readers are closed")
        self._looks = False  # whoever gives a reader back has to look: somebody waits, or there are too many
        try:
            for _ in range(size):
                reader = Reader(path)
                self._all.add(reader)
                self.idle.append(reader)
        except BaseException:
            self._close_idle()
            raise

    def closed(self) -> Error:
        """The refusal of a closed pool."""
        return copy(self._why_closed)

    # -- taking and giving back -------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> tuple[Reader, float | None]:
        """Take a connection when none is idle: the callers above try that first, it is the whole cost then.

        Returns what is left of the time, too. A new one is opened when the others are held, or busy for long.
        """
        began = time.monotonic()
        with self._changed:
            self._waiting += 1  # BEFORE looking again: whoever gives back then notifies
            self._look_again()
            try:
                patience = GROW_AFTER_S if timeout_s is None else min(GROW_AFTER_S, timeout_s)
                self._changed.wait_for(self._may_go_on, patience)
                if not (self.idle or self._may_open(self._size + self._held_max)):
                    left = None if timeout_s is None else timeout_s - patience
                    self._changed.wait_for(self._may_go_on, left)
                if self._is_closed:
                    raise self.closed()
                reader = self.idle.pop() if self.idle else None
                if reader is None:
                    if not self._may_open(self._size + self._held_max):
                        raise Busy("no reader connection came free in time: nothing was read")
                    self._opening += 1
            finally:
                self._waiting -= 1
                self._look_again()
        if reader is None:
            reader = self._open()
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - began))
        return reader, left_s

    def _may_go_on(self) -> bool:
        return bool(self.idle) or self._is_closed or self._may_open(self._size)

    def _may_open(self, most: int) -> bool:
        """True when fewer than `most` connections are not held."""
        return len(self._all) + self._opening - len(self.held) < most

    def _open(self) -> Reader:
        reader: Reader | None = None
        try:
            reader = Reader(self._path, cache_bytes=EXTRA_READER_CACHE_BYTES)
        finally:
            with self._changed:
                self._opening -= 1
                if reader is not None and not self._is_closed:
                    self._all.add(reader)
                self._look_again()
                self._changed.notify_all()
        if self._is_closed and reader not in self._all:
            reader.close()
            raise self.closed()
        return reader

    def _look_again(self) -> None:
        self._looks = self._is_closed or self._waiting > 0 or len(self._all) > self._idle_max

    def give_back(self, reader: Reader) -> None:
        self.idle.append(reader)
        if self._looks:
            self._tell_given_back()

    def _tell_given_back(self) -> None:
        surplus = None
        with self._changed:
            if self._is_gone:
                self._close_idle()
            elif self._is_closed:
                self._changed.notify_all()
            elif self._waiting:
                self._changed.notify()
            elif len(self.idle) > self._idle_max:
                surplus = self.idle.pop()
                self._all.discard(surplus)
                self._look_again()
        if surplus is not None:
            surplus.close()

    # -- readers that are held --------------------------------------------------------------------------

    def hold(self, reader: Reader, what: str, limits: HoldLimits, error: type[Error]) -> Hold:
        with self._changed:
            refusal: Error | None = None
            if self._is_closed:
                refusal = self.closed()
            elif len(self.held) >= self._held_max:
                refusal = Busy(
                    f"{len(self.held)} results and read transactions are open, the limit for a database: read them to "
                    f"the end or close them. {self._name_held()}"
                )
            if refusal is None:
                hold = Hold(self, reader, what, limits, error)
                self.held[hold] = None
                self._changed.notify()  # one that waits may open a connection now
                return hold
        reader.reset()
        raise refusal

    def _name_held(self) -> str:
        counted = Counter(hold.what for hold in self.held).most_common(HELD_NAMED_MAX)
        return "The most: " + "; ".join(f"{count} times {what}" for what, count in counted)

    def take_back(self, hold: Hold, reader: Reader) -> None:
        """See held.Home."""
        self.held.pop(hold, None)
        try:
            reader.reset()
        except Exception:  # noqa: BLE001 - logged
            event(log, logging.ERROR, "a reader connection cannot be used again", exc_info=True)
            with self._changed:
                self._all.discard(reader)
                self._changed.notify()
            reader.close()
            return
        if not self._is_closed:
            reader.ending = None
        self.give_back(reader)

    def end_overdue(self) -> None:
        now = time.monotonic()
        for hold in list(self.held):
            hold.end_if_overdue(now)

    # -- closing ----------------------------------------------------------------------------------------

    def end_all(self, why: Error | None) -> None:
        """Give no reader away any more, and end everything that runs or is held, saying `why`."""
        with self._changed:
            if why is not None and not self._is_closed:
                self._why_closed = why
            self._is_closed = self._looks = True
            held, ending = list(self.held), self._why_closed
            for reader in list(self._all):
                reader.ending = ending
            self._changed.notify_all()
        for hold in held:
            hold.end(ending)

    def close(self) -> None:
        """After `end_all`: wait for the calls under way, and close."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.idle) >= len(self._all))
            self._is_gone = True
            self._close_idle()

    def _close_idle(self) -> None:
        while self.idle:
            reader = self.idle.pop()
            self._all.discard(reader)
            reader.close()
