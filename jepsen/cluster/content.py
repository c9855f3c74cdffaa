"""A digest of what SQL shows of a node's database: independent of the node's own state hash."""

from __future__ import annotations

import hashlib
from typing import Final

from jepsen.cluster.client import NodeClient

_RESERVED: Final = "_dqlite_"  # the product's own tables, not readable; its state hash covers them


def content_digest(client: NodeClient) -> str:
    """sha256 over schema and all rows in rowid order, read stale: what this very node holds. Raises ClientError."""
    digest = hashlib.sha256()
    schema = client.query("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name", level="stale")
    for kind, name, sql in schema.rows:
        digest.update(repr((kind, name, sql)).encode())
        if kind != "table" or name.startswith(_RESERVED):
            continue
        quoted = '"' + name.replace('"', '""') + '"'
        for row in client.query(f"SELECT * FROM {quoted}", level="stale").rows:
            digest.update(repr(row).encode())
    return digest.hexdigest()
