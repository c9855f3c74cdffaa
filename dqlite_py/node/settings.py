"""What a node is told by its host program or the command line, checked before anything starts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError, MalformedMessage
from dqlite_py.limits import COMPACT_LOG_BYTES, DISK_RESERVE_BYTES, LOG_TAIL_BYTES
from dqlite_py.model import Address
from dqlite_py.raft.settings import RaftSettings
from dqlite_py.wire.address import split_address


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Raises InterfaceError (naming the setting) for what cannot work."""

    directory: str
    listen: Address
    advertise: Address | None = None
    join: tuple[Address, ...] = ()
    tls: TlsSettings | None = None
    insecure: bool = False
    raft: RaftSettings = field(default_factory=RaftSettings)
    compact_log_bytes: int = COMPACT_LOG_BYTES
    log_tail_bytes: int = LOG_TAIL_BYTES
    disk_reserve_bytes: int = DISK_RESERVE_BYTES
    keep_changes: int | None = None  # bytes, of every database; None: of those that are followed

    def __post_init__(self) -> None:
        host = check_address("listen", self.listen)
        if self.advertise is not None:
            advertised = check_address("advertise", self.advertise)
        else:
            advertised = host
        if advertised in ("0.0.0.0", "::", ""):
            raise InterfaceError(
                f"listen address {self.listen!r} is not one that others can dial: give the address to advertise"
            )
        for address in self.join:
            check_address("join", address)
            if address in (self.listen, self.advertise) and not address.endswith(":0"):
                raise InterfaceError(f"join address {address} is this node's own: name another member")
        if self.tls is None and not self.insecure and not _is_loopback(host):
            raise InterfaceError(
                f"listening on {self.listen} without TLS would let anyone on the network read and change the data: "
                "give tls (--tls-cert, --tls-key, --tls-ca), or insecure=True (--insecure) on a trusted network"
            )
        for name in ("compact_log_bytes", "log_tail_bytes", "disk_reserve_bytes"):
            if getattr(self, name) < 0:
                raise InterfaceError(f"{name} must not be negative")
        if self.keep_changes is not None and self.keep_changes <= 0:
            raise InterfaceError("keep_changes is a number of bytes above 0, or None")


def check_address(name: str, address: str) -> str:
    """Return the host part; raises InterfaceError that names the setting."""
    try:
        host, _port = split_address(address)
    except (InterfaceError, MalformedMessage, ValueError) as error:
        raise InterfaceError(f"{name} address {address!r} is not host:port: {error}") from None
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def node_settings(
    *,
    directory: str | os.PathLike[str],
    listen: str,
    join: Sequence[str],
    advertise: str | None,
    tls: TlsSettings | None,
    insecure: bool,
    raft: RaftSettings | None = None,
    compact_log_bytes: int = COMPACT_LOG_BYTES,
    log_tail_bytes: int = LOG_TAIL_BYTES,
    disk_reserve_bytes: int = DISK_RESERVE_BYTES,
    keep_changes: int | None = None,
) -> NodeSettings:
    """Build checked settings from what a caller wrote; raises InterfaceError."""
    if isinstance(join, str):
        raise InterfaceError("join is a list of addresses, not one string")
    return NodeSettings(
        directory=os.path.abspath(os.fspath(directory)),
        listen=Address(listen),
        advertise=None if advertise is None else Address(advertise),
        join=tuple(Address(a) for a in join),
        tls=tls,
        insecure=insecure,
        raft=raft or RaftSettings(),
        compact_log_bytes=compact_log_bytes,
        log_tail_bytes=log_tail_bytes,
        disk_reserve_bytes=disk_reserve_bytes,
        keep_changes=keep_changes,
    )
