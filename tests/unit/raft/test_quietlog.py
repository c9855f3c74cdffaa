"""The log that strangers cannot flood."""

from __future__ import annotations

import logging

import pytest

from dqlite_py.raft.quietlog import QuietLog


def test_a_few_lines_then_a_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    quiet = QuietLog(logging.getLogger("quiet"), lines_max=3, interval_s=10, clock=lambda: now)
    with caplog.at_level(logging.INFO):
        for number in range(10):
            quiet.info("line %d", number)
        assert [record.message for record in caplog.records] == ["line 0", "line 1", "line 2"]
        caplog.clear()
        now = 10.0
        quiet.warning("again")
        assert [record.message for record in caplog.records] == [
            "7 more lines about incoming connections were left out",
            "again",
        ]
        caplog.clear()
        now = 20.0
        quiet.info("calm")
        assert [record.message for record in caplog.records] == ["calm"]
