"""The log that strangers cannot flood."""

from __future__ import annotations

import logging

import pytest

from dqlite_py.logs import event
from dqlite_py.raft.quietlog import QuietLog


def test_a_few_lines_then_a_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    quiet = QuietLog(logging.getLogger("quiet"), lines_max=3, interval_s=10, clock=lambda: now)
    with caplog.at_level(logging.INFO):
        for number in range(10):
            event(quiet, logging.INFO, "a line", number=number)
        assert [record.message for record in caplog.records] == [
            "a line number=0",
            "a line number=1",
            "a line number=2",
        ]
        caplog.clear()
        now = 10.0
        event(quiet, logging.WARNING, "again")
        assert [record.message for record in caplog.records] == [
            "lines about incoming connections were left out count=7",
            "again",
        ]
        caplog.clear()
        now = 20.0
        event(quiet, logging.INFO, "calm")
        assert [record.message for record in caplog.records] == ["calm"]
