"""The writer of a database in Python: the reference twin of the C extension (DQLITE_PY_IMPL=python).

Same bytes in, same results, errors, state hash and database file out, only slower. Nothing of `_native` is
imported. `native/X.c` has its counterpart in `X.py` (`bootstrap.c` in `sqlite_api.py`, `vfs_wal.c` in `vfs.py`),
function by function; what is explained there is not explained again here. `binding.py` is to this package what
`native_engine.py` is to the extension.
"""
