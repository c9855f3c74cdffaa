"""apsw's own SQLite through ctypes: the counterpart of bootstrap.c and of SQLite's sqlite3ext.h.

SQLite hands its table of routines to every extension that it loads. `bind` lets it "load" a Python callback: a VFS
of ours, used once, answers the search for the entry point with the callback's address. So there is no second
SQLite and no compiled code. Positions in the table never change, it only grows (sqlite.org/loadext.html).

Calls that may wait, or in which SQLite reads files, release the GIL; the short ones keep it. They are made only on
a connection whose mutex is ours.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_uint, c_uint64, c_void_p
from typing import Any, Final

import apsw

from dqlite_py.errors import InternalError

SQLITE_VERSION_MIN: Final = 3_040_000
TRANSIENT: Final = -1  # SQLite copies the bytes that it is given
OK_LOAD_PERMANENTLY: Final = 256
_LOADER_VFS: Final = "dqlite-python-loader"

# name: (position in struct sqlite3_api_routines, may wait, result, arguments)
ROUTINES: Final[dict[str, tuple[int, bool, Any, tuple[Any, ...]]]] = {
    "bind_double": (3, False, c_int, (c_void_p, c_int, c_double)),
    "bind_int64": (5, False, c_int, (c_void_p, c_int, c_int64)),
    "bind_null": (6, False, c_int, (c_void_p, c_int)),
    "bind_parameter_count": (7, False, c_int, (c_void_p,)),
    "bind_parameter_name": (9, False, c_char_p, (c_void_p, c_int)),
    "column_blob": (19, False, c_void_p, (c_void_p, c_int)),
    "column_bytes": (20, False, c_int, (c_void_p, c_int)),
    "column_count": (22, False, c_int, (c_void_p,)),
    "column_decltype": (25, False, c_char_p, (c_void_p, c_int)),
    "column_double": (27, False, c_double, (c_void_p, c_int)),
    "column_int64": (29, False, c_int64, (c_void_p, c_int)),
    "column_name": (30, False, c_char_p, (c_void_p, c_int)),
    "column_text": (36, False, c_void_p, (c_void_p, c_int)),
    "column_type": (38, False, c_int, (c_void_p, c_int)),
    "errmsg": (53, False, c_char_p, (c_void_p,)),
    "exec": (55, True, c_int, (c_void_p, c_char_p, c_void_p, c_void_p, c_void_p)),
    "finalize": (57, True, c_int, (c_void_p,)),
    "get_autocommit": (60, False, c_int, (c_void_p,)),
    "last_insert_rowid": (65, False, c_int64, (c_void_p,)),
    "libversion_number": (67, False, c_int, ()),
    "progress_handler": (75, False, None, (c_void_p, c_int, c_void_p, c_void_p)),
    "reset": (77, True, c_int, (c_void_p,)),
    "result_int64": (83, False, None, (c_void_p, c_int64)),
    "set_authorizer": (91, False, c_int, (c_void_p, c_void_p, c_void_p)),
    "step": (94, True, c_int, (c_void_p,)),
    "update_hook": (100, False, c_void_p, (c_void_p, c_void_p, c_void_p)),
    "value_int64": (107, False, c_int64, (c_void_p,)),
    "clear_bindings": (118, False, c_int, (c_void_p,)),
    "file_control": (127, False, c_int, (c_void_p, c_char_p, c_int, c_void_p)),
    "mutex_enter": (131, True, None, (c_void_p,)),
    "mutex_leave": (133, False, None, (c_void_p,)),
    "result_error_nomem": (137, False, None, (c_void_p,)),
    "result_error_toobig": (138, False, None, (c_void_p,)),
    "vfs_find": (141, False, c_void_p, (c_char_p,)),
    "vfs_register": (142, False, c_int, (c_void_p, c_int)),
    "result_error_code": (146, False, None, (c_void_p, c_int)),
    "test_control": (147, False, c_int, (c_int, c_int, c_void_p)),
    "limit": (151, False, c_int, (c_void_p, c_int, c_int)),
    "create_function_v2": (162, False, c_int, (c_void_p, c_char_p, c_int, c_int, *[c_void_p] * 5)),
    "db_mutex": (164, False, c_void_p, (c_void_p,)),
    "db_status": (165, False, c_int, (c_void_p, c_int, POINTER(c_int), POINTER(c_int), c_int)),
    "extended_errcode": (166, False, c_int, (c_void_p,)),
    "errstr": (183, False, c_char_p, (c_int,)),
    "stmt_readonly": (185, False, c_int, (c_void_p,)),
    "bind_blob64": (193, False, c_int, (c_void_p, c_int, c_char_p, c_uint64, c_void_p)),
    "bind_text64": (194, False, c_int, (c_void_p, c_int, c_char_p, c_uint64, c_void_p, ctypes.c_ubyte)),
    "result_blob64": (201, False, None, (c_void_p, c_char_p, c_uint64, c_void_p)),
    "system_errno": (213, False, c_int, (c_void_p,)),
    "set_last_insert_rowid": (216, False, None, (c_void_p, c_int64)),
    "prepare_v3": (
        217,
        True,
        c_int,
        (c_void_p, c_void_p, c_int, c_uint, POINTER(c_void_p), POINTER(c_void_p)),
    ),
    "stmt_isexplain": (241, False, c_int, (c_void_p,)),
    "database_file_object": (251, False, c_void_p, (c_void_p,)),
    "changes64": (253, False, c_int64, (c_void_p,)),
    "total_changes64": (254, False, c_int64, (c_void_p,)),
}

_ENTRY_POINT: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)


class _Routines:
    """SQLite's functions without their prefix; there once `bind` was called."""

    def __init__(self) -> None:
        self.is_bound = False

    def __getattr__(self, name: str) -> Any:
        raise InternalError(f"SQLite's {name} is used before the Python engine is bound to SQLite")

    def take(self, table: int) -> None:
        pointers = ctypes.cast(table, POINTER(c_void_p))
        for name, (position, may_wait, result, arguments) in ROUTINES.items():
            kind = ctypes.CFUNCTYPE if may_wait else ctypes.PYFUNCTYPE
            setattr(self, name, kind(result, *arguments)(pointers[position]))
        self.is_bound = True


sqlite: Final = _Routines()


class _LoaderVfs(apsw.VFS):
    """Finds one Python function where SQLite looks for a shared object."""

    def __init__(self, entry_point: int) -> None:
        super().__init__(_LOADER_VFS, "unix")
        self._entry_point = entry_point

    def xDlOpen(self, filename: str) -> int:
        return 1

    def xDlSym(self, handle: int, symbol: str) -> int:
        return self._entry_point

    def xDlClose(self, handle: int) -> None:
        pass


def bind() -> None:
    """Get the routine table; the caller sees to it that this happens once."""
    tables: list[int] = []

    def entry(db: int, message: int, table: int) -> int:
        tables.append(table)
        return OK_LOAD_PERMANENTLY

    callback = _ENTRY_POINT(entry)
    address = ctypes.cast(callback, c_void_p).value
    assert address is not None
    loader = _LoaderVfs(address)
    connection = apsw.Connection(":memory:", vfs=_LOADER_VFS)
    try:
        connection.enable_load_extension(True)
        connection.load_extension("python", "entry")
    finally:
        connection.close()
        loader.unregister()
    if apsw.sqlite3_sourceid() == "" or len(tables) != 1:
        raise InternalError("SQLite did not hand over its routines")
    pointers = ctypes.cast(tables[0], POINTER(c_void_p))
    version = ctypes.PYFUNCTYPE(c_int)(pointers[ROUTINES["libversion_number"][0]] or 0)()
    if version < SQLITE_VERSION_MIN:
        raise InternalError("dqlite_py needs SQLite 3.40 or later")
    sqlite.take(tables[0])


def address_of(callback: Any) -> int:
    """The address of a callback, to store in a table; the callback must stay referenced."""
    return ctypes.cast(callback, c_void_p).value or 0
