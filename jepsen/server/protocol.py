"""The control protocol's lines, without I/O: one JSON object per request, one per answer.

Request:  {"f": name, "timeout_s": seconds, ...arguments}; the names and their arguments are in handlers.py.
Answer:   {"ok": value} or {"error": {"class": str, "message": str, "outcome": "failed" | "unknown"}}.
SQL values are JSON values; bytes travel as {"bytes": hex}.
Used by both ends (jepsen/server, jepsen/cluster/client.py).
"""

from __future__ import annotations

import json
from typing import Any, Final

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
TIMEOUT_S_MAX: Final = 600.0
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"


class MalformedRequest(ValueError):
    """A request that is not one; the message says what was expected. Nothing was done."""


def encode(message: dict[str, Any]) -> bytes:
    """One line, with its newline."""
    return json.dumps(message, separators=(",", ":"), default=_encode_other).encode() + b"\n"


def _encode_other(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} cannot travel on the control port")


def decode(line: bytes) -> dict[str, Any]:
    """Raises MalformedRequest."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"expected one JSON object per line, got {line[:80]!r}: {error}") from None
    if not isinstance(message, dict):
        raise MalformedRequest(f"expected a JSON object, got {line[:80]!r}")
    return message


def decode_value(value: Any) -> Any:
    """An SQL value as it came over the line."""
    if isinstance(value, dict):
        text = value.get("bytes")
        if len(value) != 1 or not isinstance(text, str):
            raise MalformedRequest(f'expected {{"bytes": hex}}, got {value!r:.80}')
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise MalformedRequest(f"{text!r:.80} is not hexadecimal") from None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise MalformedRequest(f"an SQL value is null, a number, a string or bytes, not {value!r:.80}")


def decode_params(value: Any) -> list[Any] | dict[str, Any]:
    """Parameters: an array for `?`, or {"named": {...}} for `:name`."""
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("named"), dict) and len(value) == 1:
        return {str(name): decode_value(item) for name, item in value["named"].items()}
    raise MalformedRequest(f'params are an array, or {{"named": object}}, not {value!r:.80}')


def error_answer(name: str, message: str, outcome: str) -> dict[str, Any]:
    return {"error": {"class": name, "message": message, "outcome": outcome}}
