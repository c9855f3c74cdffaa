"""Protocols for clients on a node's address: bytes to calls of the node and back, one package per protocol."""
