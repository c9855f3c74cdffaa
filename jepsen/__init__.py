"""The jepsen suite: real clusters, real faults, histories, and checkers that judge them.

Run as `python -m jepsen` from the repository root. Not part of the installed package.
"""
