"""Settings that a node is given, validated on creation. Imports errors and limits only."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dqlite_py.errors import InterfaceError


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files of mutual TLS between nodes: this node's certificate and key, and the authorities it trusts.

    The certificate names the node's advertised host (subjectAltName) and serves both sides of a connection.
    """

    cert: str
    key: str
    ca: str

    def __post_init__(self) -> None:
        for name in ("cert", "key", "ca"):
            path = getattr(self, name)
            if not isinstance(path, str) or not os.path.isfile(path):
                raise InterfaceError(f"TLS setting {name}: {path!r} is not a file")
