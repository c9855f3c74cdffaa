"""Reads and writes EDN (github.com/edn-format/edn) as Clojure prints it. Knows nothing of histories.

EDN becomes plain data: nil None, keywords `Keyword`, symbols `Symbol`, vectors and lists `list`, sets `EdnSet`
(a list), maps `dict` (keys frozen when they are collections), ratios `Fraction`, characters one-letter strings.
A tagged element and a record (`#jepsen.history.Op{...}`) become what follows the tag.
One regular expression cuts the text into tokens: 10,000 operations take well under a second.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from jepsen.errors import HistoryError
from jepsen.history.op import Keyword


class Symbol(str):
    """A bare EDN symbol."""

    __slots__ = ()


class EdnSet(list[Any]):
    """The elements of an EDN set in the order of the text; written back as a set."""

    __slots__ = ()


class Form(NamedTuple):
    """A value and the 1-based line on which it starts."""

    line: int
    value: Any


_TOKEN = re.compile(
    r"""[\s,]+ | ;[^\n]*
    | ( [\[\](){}]                      # collections
      | "(?:[^"\\]|\\.)*"               # string
      | \#\{ | \#_ | \#\# | \^          # set, discard, symbolic value, metadata
      | \#[^\s,;"\[\](){}^]*            # tag
      | \\(?:[a-zA-Z0-9]+|.)            # character
      | [^\s,;"\[\](){}^\\]+            # number, keyword or symbol
      | .                               # anything else: an error, told below
      )""",
    re.VERBOSE | re.DOTALL,
)
_INTEGER = re.compile(r"[+-]?\d+N?")
_FLOAT = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?M?")
_RATIO = re.compile(r"[+-]?\d+/\d+")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/", "'": "'"}
_CHARACTERS = {
    "newline": "\n",
    "space": " ",
    "tab": "\t",
    "return": "\r",
    "formfeed": "\f",
    "backspace": "\b",
}
_DIGITS_MAX = 4000  # Python's own limit is a little above
_NAMED: dict[str, Any] = {"nil": None, "true": True, "false": False}
_SYMBOLIC = {"Inf": math.inf, "-Inf": -math.inf, "NaN": math.nan}
_CLOSES = {"[": "]", "(": ")", "{": "}", "#{": "}"}


class _Frame:
    """A collection that is being read, and what is to be done with the next element in it."""

    __slots__ = ("items", "offset", "opener", "prefixes", "starts")

    def __init__(self, opener: str, offset: int, keep_starts: bool) -> None:
        self.opener = opener
        self.offset = offset
        self.items: list[Any] = []
        self.starts: list[int] | None = [] if keep_starts else None
        self.prefixes: list[str] = []


def read_forms(text: str, path: Path | str | None = None) -> list[Form]:
    """All top-level forms; where there is exactly one and it is a vector or list, its elements instead.

    Raises HistoryError with path and line for text that is not EDN.
    """

    def error(offset: int, message: str, expected: str) -> HistoryError:
        return HistoryError(message, path=path, line=text.count("\n", 0, offset) + 1, expected=expected)

    atoms: dict[str, Any] = {}
    top = _Frame("", 0, True)
    frame, stack = top, [top]
    inner: _Frame | None = None  # the last collection at top level: its elements may be what is asked for
    for match in _TOKEN.finditer(text):
        token = match[1]
        if token is None:
            continue
        if token in atoms:
            value = atoms[token]
            offset = match.start(1)
        elif token in _CLOSES:
            frame = _Frame(token, match.start(1), len(stack) == 1)
            stack.append(frame)
            continue
        elif token in "])}":
            if len(stack) == 1 or _CLOSES[frame.opener] != token:
                wanted = "a value" if len(stack) == 1 else f"{_CLOSES[frame.opener]!r} for {frame.opener!r}"
                raise error(match.start(1), f"unexpected {token!r}", wanted)
            if frame.prefixes:
                raise error(match.start(1), f"unexpected {token!r}", f"a value after {frame.prefixes[-1]!r}")
            try:
                value = _collection(frame)
            except ValueError as problem:
                raise error(frame.offset, str(problem), "pairs of keys and values") from None
            offset = frame.offset
            stack.pop()
            if len(stack) == 1:
                inner = frame
            frame = stack[-1]
        elif token[0] == "#" or token == "^":
            frame.prefixes.append(token)
            continue
        else:
            offset = match.start(1)
            try:
                value = _atom(token)
            except ValueError as problem:
                raise error(offset, f"cannot read {token[:40]!r}", str(problem)) from None
            if token[0] != '"':
                atoms[token] = value
        if frame.prefixes:
            try:
                if not _apply_prefix(frame, value):
                    continue
                value = frame.items.pop()
            except ValueError as problem:
                raise error(offset, str(problem), "a value for the tag") from None
        frame.items.append(value)
        if frame.starts is not None:
            frame.starts.append(offset)
    if len(stack) > 1:
        raise error(
            frame.offset, f"{frame.opener!r} is never closed", f"{_CLOSES[frame.opener]!r} before the end"
        )
    if frame.prefixes:
        raise error(len(text), "the text ends", f"a value after {frame.prefixes[-1]!r}")
    if len(top.items) == 1 and inner is not None and inner.opener in ("[", "("):
        top = inner
    return _with_lines(text, top)


def read_one(text: str) -> Any:
    """The single value in `text`. Raises HistoryError when there is none, or more."""
    forms = read_forms(f"[{text}\n]")
    if len(forms) != 1:
        raise HistoryError(f"{len(forms)} values in {text[:60]!r}", expected="one EDN value")
    return forms[0].value


def _with_lines(text: str, frame: _Frame) -> list[Form]:
    forms, line, seen = [], 1, 0
    for value, offset in zip(frame.items, frame.starts or [], strict=True):
        line += text.count("\n", seen, offset)
        seen = offset
        forms.append(Form(line, value))
    return forms


def _collection(frame: _Frame) -> Any:
    items = frame.items
    if frame.opener == "#{":
        return EdnSet(items)
    if frame.opener != "{":
        return items
    if len(items) % 2:
        raise ValueError(f"a map with {len(items)} elements")
    keys = items[::2]
    try:
        return dict(zip(keys, items[1::2], strict=True))
    except TypeError:
        return dict(zip(map(freeze, keys), items[1::2], strict=True))


def _apply_prefix(frame: _Frame, value: Any) -> bool:
    """Let the last pending `#_`, `#tag`, `##` or `^` take `value`; True: the result was put into frame.items."""
    while frame.prefixes:
        prefix = frame.prefixes.pop()
        if prefix in ("#_", "^"):
            return False  # the value is dropped; prefixes before it wait for the next one
        if prefix == "##":
            if not isinstance(value, str) or value not in _SYMBOLIC:
                raise ValueError(f"unknown symbolic value ##{value}")
            value = _SYMBOLIC[value]
        elif prefix.startswith("#:") and isinstance(value, dict):
            space = prefix.strip("#:")
            value = {
                Keyword(f"{space}/{k}") if isinstance(k, Keyword) and "/" not in k else k: v
                for k, v in value.items()
            }
        elif prefix == "#":
            raise ValueError("'#' without a tag")
    frame.items.append(value)
    return True


def _atom(token: str) -> Any:
    first = token[0]
    if first == ":":
        if len(token) == 1:
            raise ValueError("a keyword's name after ':'")
        return Keyword(token[1:])
    if first == '"':
        if len(token) == 1:
            raise ValueError("a string that is closed")
        return _ESCAPE.sub(_unescape, token[1:-1]) if "\\" in token else token[1:-1]
    if token in _NAMED:
        return _NAMED[token]
    if first.isdigit() or (first in "+-" and token[1:2].isdigit()):
        if len(token) > _DIGITS_MAX:
            raise ValueError(f"a number of at most {_DIGITS_MAX} digits")
        if _INTEGER.fullmatch(token):
            return int(token.rstrip("N"))
        if _FLOAT.fullmatch(token):
            return float(token.rstrip("M"))
        if _RATIO.fullmatch(token) and not token.endswith("/0"):
            ratio = Fraction(token)
            return int(ratio) if ratio.denominator == 1 else ratio
        raise ValueError("a number")
    if first == "\\":
        name = token[1:]
        if len(name) == 1:
            return name
        if name in _CHARACTERS:
            return _CHARACTERS[name]
        if name[0] == "u" and len(name) == 5:
            return chr(int(name[1:], 16))
        raise ValueError("a character")
    return Symbol(token)


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "u" and len(code) == 5:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code not in _ESCAPES:
        raise ValueError(f"a known escape instead of \\{code}")
    return _ESCAPES[code]


def freeze(value: Any) -> Any:
    """A hashable stand-in for plain data, equal for equal data: lists become tuples; true is not 1."""
    if isinstance(value, bool):
        return ("bool", int(value))
    if isinstance(value, EdnSet):
        return frozenset(map(freeze, value))
    if isinstance(value, (list, tuple)):
        return tuple(map(freeze, value))
    if isinstance(value, dict):
        return frozenset((freeze(key), freeze(item)) for key, item in value.items())
    return value


def dumps(value: Any) -> str:
    """EDN text on one line. Raises HistoryError for what EDN has no form for."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, Keyword):
        return f":{value!s}"
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return "##NaN" if math.isnan(value) else "##Inf" if value > 0 else "##-Inf"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dumps(key)} {dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (EdnSet, set, frozenset)):
        items: Iterable[Any] = value if isinstance(value, EdnSet) else sorted(value, key=dumps)
        return "#{" + " ".join(map(dumps, items)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(dumps, value)) + "]"
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    raise HistoryError(
        f"{type(value).__name__} {value!r} in a history", expected="None, bool, number, str, list or dict"
    )
