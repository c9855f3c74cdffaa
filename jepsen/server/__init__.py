"""A node process as the suite runs it: `python -m jepsen.server`, a small program around dqlite_py.Node.

Uses the public API of dqlite_py only, as any Python program that embeds a node would.
"""
