"""History files: Jepsen's history.edn, its text form (history.txt, console logs), and JSON lines.

Turns one record of a file into one `Op` and back; pairing and checking are elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from jepsen.errors import HistoryError
from jepsen.history.edn import Form, dumps, read_forms, read_one
from jepsen.history.op import Keyword, Op, OpType

_TYPES = {str(kind): kind for kind in OpType}
_OWN_KEYS = frozenset(("index", "type", "process", "f", "value", "time", "error", "node"))
_TYPE_NAMES = ":invoke, :ok, :fail or :info"
# "INFO  jepsen.util - 3<TAB>:invoke<TAB>:read<TAB>nil", with or without what a logger puts before the process.
_TEXT_LINE = re.compile(
    r"(?:.*?\s)??(?P<process>-?\d+|:nemesis)\s+:(?P<type>invoke|ok|fail|info)\s+:(?P<f>\S+)(?:\s+(?P<value>.*?))?\s*"
)


def read(path: Path) -> list[Op]:
    """All operations of a file; the format follows from the name (.json, .jsonl; .txt, .log; anything else is EDN).

    Indexes of the file are kept when they rise, else the operations are numbered from 0.
    Raises HistoryError naming file, line and what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HistoryError(f"cannot read: {error.strerror}", path=path, expected="a history file") from error
    except UnicodeDecodeError as error:
        raise HistoryError(
            f"not UTF-8 at byte {error.start}", path=path, expected="a history as UTF-8 text"
        ) from error
    if path.suffix in (".json", ".jsonl"):
        forms: Iterable[Form] = _json_forms(text, path)
    elif path.suffix in (".txt", ".log"):
        forms = _text_forms(text, path)
    else:
        forms = read_forms(text, path)
    ops = [_operation(form, position, path) for position, form in enumerate(forms)]
    if any(later.index <= earlier.index for earlier, later in pairwise(ops)):
        ops = [replace(op, index=position) for position, op in enumerate(ops)]
    return ops


def write(path: Path, history: Iterable[Op]) -> None:
    """Write operations to `path`, as JSON lines for .json and .jsonl, else as EDN."""
    line = format_json if path.suffix in (".json", ".jsonl") else format_op
    path.write_text("".join(f"{line(op)}\n" for op in history), encoding="utf-8")


def format_op(op: Op) -> str:
    """One operation as Jepsen writes it to history.edn."""
    record: dict[Keyword, Any] = {
        Keyword("type"): Keyword(op.type),
        Keyword("f"): Keyword(op.f),
        Keyword("value"): _micro_keywords(op),
        Keyword("time"): op.time,
        Keyword("process"): op.process if isinstance(op.process, int) else Keyword(op.process),
    }
    if op.error is not None:
        record[Keyword("error")] = op.error
    if op.node is not None:
        record[Keyword("node")] = op.node
    record.update((Keyword(key), value) for key, value in op.extra.items())
    record[Keyword("index")] = op.index
    return dumps(record)


def format_json(op: Op) -> str:
    """One operation as a JSON object on one line; keywords become strings, sets arrays, number keys of maps strings."""
    record: dict[str, Any] = {
        "index": op.index,
        "type": op.type,
        "process": op.process,
        "f": op.f,
        "value": op.value,
        "time": op.time,
        "error": op.error,
        "node": op.node,
    }
    kept = {key: value for key, value in record.items() if value is not None or key == "value"}
    return json.dumps(kept | dict(op.extra), default=_json_default)


def _json_default(value: object) -> object:
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise HistoryError(
        f"{type(value).__name__} {value!r} in a history", expected="None, bool, number, str, list or dict"
    )


def _micro_keywords(op: Op) -> Any:
    """The value as Elle reads it: the names of a transaction's micro-operations are keywords."""
    value = op.value
    if op.f != "txn" or not isinstance(value, (list, tuple)):
        return value
    return [
        [Keyword(micro[0]), *micro[1:]]
        if isinstance(micro, (list, tuple)) and micro and isinstance(micro[0], str)
        else micro
        for micro in value
    ]


def _json_forms(text: str, path: Path) -> Iterator[Form]:
    for line, row in enumerate(text.splitlines(), 1):
        if row.strip():
            try:
                yield Form(line, json.loads(row))
            except ValueError as error:
                raise HistoryError(
                    str(error), path=path, line=line, expected="one JSON object per line"
                ) from None


def _text_forms(text: str, path: Path) -> Iterator[Form]:
    """The operations among the lines of a text log; what a logger or checker wrote between them is passed over."""
    for line, row in enumerate(text.splitlines(), 1):
        match = _TEXT_LINE.fullmatch(row)
        if match is None:
            continue
        value, *rest = (match["value"] or "nil").split("\t", 1)
        record: dict[str, Any] = {"type": match["type"], "f": match["f"]}
        record["process"] = "nemesis" if match["process"] == ":nemesis" else int(match["process"])
        try:
            record["value"] = read_one(value)
        except HistoryError as error:
            raise HistoryError(str(error), path=path, line=line, expected="a value in EDN") from None
        if rest:
            record["error"] = rest[0].strip()
        yield Form(line, record)


def _operation(form: Form, position: int, path: Path) -> Op:
    record = form.value

    def error(message: str, expected: str) -> HistoryError:
        return HistoryError(message, path=path, line=form.line, expected=expected)

    if not isinstance(record, Mapping):
        raise error(f"{_shown(record)} is no operation", "a map {:type ..., :f ..., :process ...}")
    kind = _TYPES.get(record.get("type", "(missing)"))
    if kind is None:
        raise error(f":type is {_told(record, 'type')}", _TYPE_NAMES)
    process = record.get("process", 0 if "process" not in record else None)
    if isinstance(process, bool) or not isinstance(process, (int, str)):
        raise error(f":process is {_told(record, 'process')}", "a number or :nemesis")
    name = record.get("f", "txn")
    if not isinstance(name, str):
        raise error(f":f is {_told(record, 'f')}", "a keyword such as :read")
    time, index = record.get("time", 0), record.get("index", position)
    for key, number in (("time", time), ("index", index)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise error(f":{key} is {_told(record, key)}", "an integer")
    problem = record.get("error")
    node = record.get("node")
    return Op(
        index=index,
        type=kind,
        process=process if isinstance(process, int) else str(process),
        f=str(name),
        value=record.get("value"),
        time=time,
        error=problem if problem is None else str(problem) if isinstance(problem, str) else dumps(problem),
        node=None if node is None else str(node),
        extra={str(key): value for key, value in record.items() if key not in _OWN_KEYS},
    )


def _told(record: Mapping[Any, Any], key: str) -> str:
    return _shown(record[key]) if key in record else "missing"


def _shown(value: Any) -> str:
    """The begin of it, without characters that a terminal would obey."""
    text = str(dumps(value))[:60]
    return text if text.isprintable() else ascii(text)
