"""dqlite's client protocol on a node: connections, sessions, the 20 requests (docs/dqlite-protocol.md)."""
