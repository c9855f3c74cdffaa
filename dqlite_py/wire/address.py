"""host:port text to its parts. Shared by the handshake and the transport."""

from __future__ import annotations

import ipaddress

from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address

ADDRESS_LENGTH_MAX = 300


def split_address(address: str) -> tuple[str, int]:
    """(host, port); IPv6 hosts come in brackets and leave without. Raises InterfaceError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    valid = (
        bool(colon)
        and 0 < len(address) <= ADDRESS_LENGTH_MAX
        and bool(host)
        and (bracketed or ":" not in host)
        and not any(ch.isspace() or not ch.isprintable() for ch in address)
        and port.isascii()
        and port.isdigit()
        and len(port) <= 5
        and int(port) <= 65_535
    )
    if not valid:
        raise InterfaceError(f"{address!r:.320} is not an address: write host:port, IPv6 hosts in brackets")
    return host, int(port)


def join_address(host: str, port: int) -> Address:
    return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def is_unspecified(host: str) -> bool:
    """0.0.0.0 and ::, which one can listen on but not dial."""
    numeric = _numeric(host)
    return numeric is not None and numeric.is_unspecified


def same_host(pattern: str, host: str) -> bool:
    """Whether a certificate's name covers `host`: equal addresses, or DNS names with one leading wildcard."""
    numeric = _numeric(host)
    if numeric is not None:
        return _numeric(pattern) == numeric
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return pattern == host


def _numeric(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
