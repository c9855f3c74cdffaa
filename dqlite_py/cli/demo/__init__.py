"""`dqlite-py demo`: three node processes, a killed leader, and every acknowledged row compared.

A client of the cluster like any other: it starts processes, calls their RPC methods and judges the answers.
Owns no consensus and no SQL of the engine. Runs in the command's own asyncio loop.
"""
