"""Log lines that people and machines can read: one event per line, as text or JSON.

2026-01-02T03:04:05.678Z info  node became leader term=3 last_index=17 Text: time (UTC), level, component
(the logger's name below dqlite_py), message, fields. Values with blanks, quotes or control characters are
quoted as JSON, so that a line is always one line. A traceback follows indented (text) or as the field
"traceback" (JSON). Only programs call `configure`; the library itself just logs. Any thread.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TextIO

ROOT: Final = "dqlite_py"
LEVELS: Final = ("debug", "info", "warning", "error")
Format = Literal["text", "json"]

_PLAIN_VALUE: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Logger(Protocol):
    def log(self, level: int, msg: Any, /, *args: Any, **options: Any) -> None: ...


class Event:
    """A log line's message: a name that docs/log-lines.md explains, and fields. As text: name key=value …"""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return " ".join(
            [_one_line(self.name), *(f"{key}={_value(value)}" for key, value in self.fields.items())]
        )


def event(
    logger: Logger, level: int, name: str, /, *, exc_info: bool | BaseException | None = None, **fields: Any
) -> None:
    """Log an event with fields: event(log, logging.INFO, "became the leader", term=3).

    exc_info: with the traceback of this exception, or of the one that is being handled.
    """
    logger.log(level, Event(name, fields), exc_info=exc_info, stacklevel=2)


def configure(stream: TextIO, *, form: Format = "text", level: str = "info") -> logging.Handler:
    """Send this package's log (and others' warnings) to `stream`; returns the handler for `unconfigure`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.getLogger(ROOT).setLevel(level.upper())
    logging.getLogger().addHandler(handler)
    return handler


def unconfigure(handler: logging.Handler) -> None:
    """Undo `configure`; the stream stays open."""
    logging.getLogger().removeHandler(handler)
    logging.getLogger(ROOT).setLevel(logging.NOTSET)
    handler.close()


class TextFormatter(logging.Formatter):
    """See the module's docstring."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            _timestamp(record),
            f"{_level(record):<5}",
            _component(record),
            str(record.msg) if isinstance(record.msg, Event) else _one_line(record.getMessage()),
        ]
        lines = [" ".join(parts)]
        if record.exc_info and record.exc_info[0] is not None:
            lines += [f"    {_one_line(line)}" for line in _traceback(record).splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, component, event, the fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": _level(record),
            "component": _component(record),
            "event": record.msg.name if isinstance(record.msg, Event) else record.getMessage(),
        }
        for key, value in _fields(record).items():
            entry[key if key not in entry else f"{key}_"] = _plain(value)
        if record.exc_info and record.exc_info[0] is not None:
            entry["traceback"] = _traceback(record)
        return json.dumps(entry, ensure_ascii=False)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return {"WARNING": "warn", "CRITICAL": "fatal"}.get(record.levelname, record.levelname.lower())


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return record.msg.fields if isinstance(record.msg, Event) else {}


def _traceback(record: logging.LogRecord) -> str:
    assert record.exc_info
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def _value(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        return f"{plain:g}"
    if not isinstance(plain, str):
        return json.dumps(plain)
    return plain if _PLAIN_VALUE.fullmatch(plain) else _one_line(json.dumps(plain, ensure_ascii=False))


def _one_line(text: str) -> str:
    return _CONTROL.sub(
        lambda found: f"\\u{ord(found.group()):04x}" if found.group() != "\n" else "\\n", text
    )
