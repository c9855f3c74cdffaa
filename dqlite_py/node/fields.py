"""Fields of RPC bodies, checked: what every group of methods (services) needs. No state."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError, MalformedMessage
from dqlite_py.gateway import Freshness, ReadLevel, TransactionLimits
from dqlite_py.limits import FRAME_BYTES_MAX, MIB, REQUEST_TIMEOUT_MS, TRANSACTION_HOLD_MS
from dqlite_py.model import Address, NodeId
from dqlite_py.wire.address import split_address

T = TypeVar("T")
TIMEOUT_S: Final = REQUEST_TIMEOUT_MS / 1000
SECONDS_MAX: Final = 86_400.0
ID_BYTES: Final = 16
RESULTS_BYTES_MAX: Final = FRAME_BYTES_MAX - MIB  # of one answer


def field(body: Any, name: str, kind: type[T], default: T | None = None) -> T:
    """A body's field of exactly this type; raises MalformedMessage that names it."""
    value = body.get(name, default) if isinstance(body, dict) else None
    if type(value) is not kind:
        raise MalformedMessage(
            f"field {name!r} must be {kind.__name__}, not {type(value).__name__}", what=name
        )
    return value


def database_of(body: Any) -> str:
    try:
        return check_database_name(field(body, "database", str))
    except InterfaceError as error:
        raise MalformedMessage(str(error), what="database") from None


def id_of(body: Any, name: str = "id") -> bytes:
    """What a caller has named something that stays open between requests."""
    value = field(body, name, bytes)
    if len(value) != ID_BYTES:
        raise MalformedMessage(f"{name!r} must be {ID_BYTES} bytes", what=name)
    return value


def seconds_of(body: Any, name: str) -> float:
    value: Any = body.get(name) if isinstance(body, dict) else None
    if type(value) in (int, float) and 0 <= value <= SECONDS_MAX:
        return float(value)
    raise MalformedMessage(f"field {name!r} must be a number of seconds", what=name)


def limits_of(body: Any) -> TransactionLimits:
    """A transaction's, as its program wants them; none is over TRANSACTION_HOLD_MS."""
    idle_s, hold_s = seconds_of(body, "idle_s"), seconds_of(body, "hold_s")
    most_s = TRANSACTION_HOLD_MS / 1000
    return TransactionLimits(min(idle_s, most_s), min(hold_s, most_s))


def timeout_of(body: Any) -> float:
    """How long the caller waits, in seconds."""
    seconds = body.get("timeout_s", TIMEOUT_S)
    if type(seconds) not in (int, float) or not 0 < seconds <= 3600:
        raise MalformedMessage("timeout_s must be a number of seconds above 0", what="timeout_s")
    return float(seconds)


def freshness_of(body: Any) -> Freshness:
    """How fresh a state the caller wants."""
    level, index = field(body, "level", str, "linearizable"), field(body, "log_index", int, 0)
    staleness = body.get("max_staleness_s")
    try:
        known = ReadLevel(level)
    except ValueError:
        raise MalformedMessage(f"read level {level!r:.40} is not known", what="level") from None
    if not 0 <= index < 2**63:
        raise MalformedMessage("log_index must be a log index", what="log_index")
    return Freshness(known, index, None if staleness is None else seconds_of(body, "max_staleness_s"))


def member_id_of(body: Any) -> NodeId:
    value = field(body, "id", int)
    if not 0 < value < 2**63:
        raise MalformedMessage(f"member id {value} is not between 1 and 2**63 - 1", what="id")
    return NodeId(value)


def address_of(body: Any) -> Address:
    value = field(body, "address", str)
    try:
        _host, port = split_address(value)
    except InterfaceError as error:
        raise MalformedMessage(f"field 'address': {error}", what="address") from None
    if port == 0:
        raise MalformedMessage(f"address {value!r} has port 0, which nobody can dial", what="address")
    return Address(value)
