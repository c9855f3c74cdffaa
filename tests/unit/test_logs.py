"""dqlite_py.logs: one event, one line; fields, quoting, tracebacks, JSON."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from dqlite_py import logs

log = logging.getLogger("dqlite_py.node")


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    out = io.StringIO()
    handler = logs.configure(out, form=request.param, level="info")
    yield out
    logs.unconfigure(handler)


text = pytest.mark.parametrize("stream", ["text"], indirect=True)
as_json = pytest.mark.parametrize("stream", ["json"], indirect=True)


@text
def test_text_line(stream: io.StringIO) -> None:
    logs.event(log, logging.INFO, "became leader", term=3, address="127.0.0.1:9001", lag=0.5, done=True)
    log.warning("member %s moved", 7)
    log.debug("not shown")
    first, second = stream.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(
        stamp + r" info  node became leader term=3 address=127\.0\.0\.1:9001 lag=0\.5 done=true", first
    )
    assert re.fullmatch(stamp + r" warn  node member 7 moved", second)


@text
def test_text_stays_on_one_line(stream: io.StringIO) -> None:
    logs.event(
        log, logging.INFO, "read\nwrite\x1b[2J", sql='SELECT "a b"\n', key=b"\x01\xff", none=None, empty=""
    )
    [line] = stream.getvalue().splitlines()
    assert line.endswith('read\\nwrite\\u001b[2J sql="SELECT \\"a b\\"\\n" key=01ff none=null empty=""')


@text
def test_text_traceback_is_indented(stream: io.StringIO) -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("error node failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)


@as_json
def test_json_line(stream: io.StringIO) -> None:
    logs.event(log, logging.INFO, "é\n", term=3, level="x", value=object)
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["term"], first["level"], first["level_"]) == ("é\n", 3, "info", "x")
    assert first["component"] == "node"
    assert "ValueError: bad" in second["traceback"]


def test_unconfigured_library_is_silent_and_restored() -> None:
    out = io.StringIO()
    handler = logs.configure(out, level="debug")
    assert log.isEnabledFor(logging.DEBUG)
    logs.unconfigure(handler)
    assert not logging.getLogger("dqlite_py").level
    log.info("nobody listens")
    assert out.getvalue() == ""
