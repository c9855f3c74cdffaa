"""storage.live: a signal that comes while the main thread runs a statement is not kept waiting for its end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from dqlite_py.command import encode_statements
from dqlite_py.storage.engine import DatabaseEngine
from tests.support.engines import NOW_US, SEED

ENDLESS = encode_statements(
    [("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n", [])]
)
SHORT = encode_statements([("SELECT 1", [])])


class Interrupted(Exception):
    """What the test's handler raises."""


def test_what_sigint_s_handler_raises_comes_out_and_reads_leave_it_open(tmp_path: Path) -> None:
    engine = DatabaseEngine.open(str(tmp_path / "main.db"), create=True)
    main, stopping, handled = threading.main_thread().ident, threading.Event(), list[int]()
    assert main is not None

    def handle(number: int, _frame: Any) -> None:
        handled.append(number)
        if len(handled) == 2:  # the first one's handler lets the statement go on
            raise Interrupted

    def insist() -> None:
        while len(handled) < 2 and not stopping.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    thread = threading.Thread(target=insist)
    live = engine.live_begin(NOW_US, SEED)
    try:
        thread.start()
        with pytest.raises(Interrupted):
            live.run(ENDLESS, 60.0)
        assert live.is_open
        assert live.run(SHORT, 60.0).is_open
    finally:
        stopping.set()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is handle
        signal.signal(signal.SIGINT, before)
        live.rollback()
        engine.close()
