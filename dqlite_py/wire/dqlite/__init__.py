"""dqlite's client protocol, version 1 and legacy: bytes to records and back, no I/O (docs/dqlite-protocol.md)."""
