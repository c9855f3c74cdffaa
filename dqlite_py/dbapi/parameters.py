"""Parameters of a statement, checked against it as sqlite3 does: count, names, types; adapted where that is needed.

Errors come with sqlite3's class and words, before anything is sent. Calls user code (adapters, `__conform__`,
`__getitem__` of what was passed) on the caller's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from dqlite_py.dbapi import adapting
from dqlite_py.errors import DataError, IntegerTooLarge, ProgrammingError

_INTEGER_END: Final = 2**63
_STORED: Final = frozenset({type(None), int, float, str, bytes})
_SEQUENCES: Final = frozenset({list, tuple})


def bind(parameters: tuple[str | None, ...], values: Any) -> Any:
    """The values to send for a statement with `parameters`: a list or tuple in their order, or a dict of names."""
    kind = type(values)
    if (kind is tuple or kind is list) and not adapting.adapts_base_types():
        if len(values) != len(parameters):
            raise _wrong_count(parameters, len(values))
        for value in values:
            kind = type(value)
            if kind is int:
                if not -_INTEGER_END <= value < _INTEGER_END:
                    break
            elif kind is str:
                if not value.isascii():
                    break
            elif value is not None and kind is not bytes and kind is not float:
                break
        else:
            return values
    return _bind(parameters, values)


def bind_many(parameters: tuple[str | None, ...], sets: Sequence[Any]) -> Sequence[Any]:
    """`bind` for each of the sets; in few steps where there is nothing to do."""
    if (
        not adapting.adapts_base_types()
        and _SEQUENCES.issuperset(map(type, sets))
        and {len(parameters)}.issuperset(map(len, sets))
    ):
        kinds = set(map(type, chain.from_iterable(sets)))
        if _STORED.issuperset(kinds) and int not in kinds:
            return sets  # the encoder refuses text that is no UTF-8
    return [bind(parameters, values) for values in sets]


def _bind(parameters: tuple[str | None, ...], values: Any) -> Any:
    if isinstance(values, Mapping):
        return _bind_names(parameters, values)
    if not isinstance(values, (str, bytes, Sequence)) and not hasattr(values, "__getitem__"):
        raise ProgrammingError("parameters are of unsupported type")
    count = len(values)
    if count != len(parameters):
        raise _wrong_count(parameters, count)
    return [_value(values[number], number, None) for number in range(count)]


def _bind_names(parameters: tuple[str | None, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    for number, name in enumerate(parameters):
        if name is None:
            raise ProgrammingError(
                f"Binding {number + 1} has no name, but you supplied a dictionary (which has only names)."
            )
        try:
            value = values[name]
        except LookupError:
            raise ProgrammingError(f"You did not supply a value for binding parameter :{name}.") from None
        bound[name] = _value(value, number, name)
    return bound


def _value(value: Any, number: int, name: str | None) -> Any:
    kind = type(value)
    if kind in adapting.BASE:
        if adapting.adapts_base_types():
            value = adapting.adapt(value, adapting.PrepareProtocol, value)
    elif value is not None and kind is not bytes:
        value = adapting.adapt(value, adapting.PrepareProtocol, value)
    if value is None:
        return None
    if isinstance(value, int):
        if not -_INTEGER_END <= value < _INTEGER_END:
            raise IntegerTooLarge("Python int too large to convert to SQLite INTEGER")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return bytes(value)
    try:
        return bytes(memoryview(value))
    except (TypeError, BufferError):
        place = number + 1 if name is None else f":{name}"
        raise ProgrammingError(
            f"Error binding parameter {place}: type '{type(value).__name__}' is not supported"
        ) from None


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"string parameter is not valid UTF-8: {error.reason}") from None
    return str(value)


def _wrong_count(parameters: tuple[str | None, ...], count: int) -> ProgrammingError:
    return ProgrammingError(
        f"Incorrect number of bindings supplied. The current statement uses {len(parameters)}, "
        f"and there are {count} supplied."
    )
