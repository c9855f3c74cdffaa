"""Python values to SQL values and back: `register_adapter`, `register_converter`, `adapt`, and the usual ones.

As in sqlite3: an adapter makes one of int, float, str, bytes, None of a value on its way in; a converter makes a value
of the bytes of a column on its way out, chosen by the column's declared type (PARSE_DECLTYPES) or by a `[type]` behind
its name (PARSE_COLNAMES). The registries are this package's, shared by all its connections; sqlite3's are left alone.
Registered beyond sqlite3's date and datetime: time, Decimal, UUID; bool is stored as 0 or 1, as anywhere in SQLite.
Calls user code on the caller's thread.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

from dqlite_py.errors import ProgrammingError

Adapter = Callable[[Any], Any]
Converter = Callable[[bytes], Any]

PARSE_DECLTYPES: Final = 1
PARSE_COLNAMES: Final = 2


class PrepareProtocol:
    """What `__conform__(protocol)` is asked for: a value that SQLite can store."""


# By exact type; int, float, str and bytearray are looked up only once somebody has registered for one of them.
adapters: dict[tuple[type, type], Adapter] = {}
converters: dict[str, Converter] = {}
BASE: Final = (int, float, str, bytearray)
_adapts_base = False
_MISSING: Final = object()


def register_adapter(kind: type, adapter: Adapter, /) -> None:
    """Store values whose type is exactly `kind` as what `adapter(value)` returns."""
    global _adapts_base
    if kind in BASE:
        _adapts_base = True
    adapters[(kind, PrepareProtocol)] = adapter


def register_converter(typename: str, converter: Converter, /) -> None:
    """Read columns of the declared type `typename`, in any case, through `converter(bytes)`."""
    converters[typename.upper()] = converter


def adapts_base_types() -> bool:
    return _adapts_base


def adapt(value: Any, protocol: Any = PrepareProtocol, alternative: Any = _MISSING, /) -> Any:
    """What `value` is stored as: by a registered adapter, `protocol.__adapt__`, or `value.__conform__`.

    Raises ProgrammingError ("can't adapt") without an `alternative` when there is no way.
    """
    adapter = adapters.get((type(value), protocol))
    if adapter is not None:
        return adapter(value)
    for owner, method, argument in ((protocol, "__adapt__", value), (value, "__conform__", protocol)):
        found = getattr(owner, method, None)
        if found is not None:
            try:
                adapted = found(argument)
            except TypeError:
                continue
            if adapted is not None:
                return adapted
    if alternative is not _MISSING:
        return alternative
    raise ProgrammingError("can't adapt")


def _date(value: bytes) -> datetime.date:
    return datetime.date(*map(int, value.split(b"-")))


def _timestamp(value: bytes) -> datetime.datetime:
    """`YYYY-MM-DD HH:MM:SS[.ffffff]`, with a T for the space too, and an offset where one was stored."""
    text = value.decode()
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        whole, _, fraction = text.partition(".")  # microseconds of another length than 3 or 6
        moment = datetime.datetime.fromisoformat(whole)
        return moment.replace(microsecond=int(f"{fraction:0<6.6}"))


def _boolean(value: bytes) -> bool:
    return bool(int(value))


def _register_defaults() -> None:
    register_adapter(datetime.date, datetime.date.isoformat)
    register_adapter(datetime.datetime, lambda value: value.isoformat(" "))
    register_adapter(datetime.time, datetime.time.isoformat)
    register_adapter(decimal.Decimal, str)
    register_adapter(uuid.UUID, str)
    register_converter("date", _date)
    register_converter("timestamp", _timestamp)
    register_converter("datetime", _timestamp)
    register_converter("time", lambda value: datetime.time.fromisoformat(value.decode()))
    register_converter("decimal", lambda value: decimal.Decimal(value.decode()))
    register_converter("decimal_text", lambda value: decimal.Decimal(value.decode()))
    register_converter("uuid", lambda value: uuid.UUID(value.decode()))
    register_converter("boolean", _boolean)
    register_converter("bool", _boolean)


_register_defaults()
