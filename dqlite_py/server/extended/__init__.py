"""The extension of dqlite's protocol, for our own programs: the node's methods, many calls at once."""

from dqlite_py.server.extended.server import ExtendedServer

__all__ = ["ExtendedServer"]
