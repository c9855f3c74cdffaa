"""The last few handshakes that were refused, by either side: told once in the log, shown by the status."""

from __future__ import annotations

import logging
from typing import Final

from dqlite_py.logs import event
from dqlite_py.raft.connection import Connection
from dqlite_py.raft.links import refusal_level
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.wire.handshake import Refused

log: Final = QuietLog(logging.getLogger("dqlite_py.raft.transport"))
REFUSALS_KEPT: Final = 16


class Refusals:
    """Owned by raft/transport.py."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def note(self, connection: Connection, refusal: Refused, by_us: bool) -> None:
        text = f"{'refused' if by_us else 'refused by the peer'}: {refusal.message}"
        if text not in self._texts:
            event(log, refusal_level(refusal.reason), "handshake refused", connection=connection, reason=text)
        self._texts.pop(text, None)
        self._texts[text] = None
        while len(self._texts) > REFUSALS_KEPT:
            del self._texts[next(iter(self._texts))]

    def texts(self) -> list[str]:
        return list(self._texts)
