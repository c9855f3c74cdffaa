"""apsw's exceptions to the classes of errors.py, by the table in resultcodes.py."""

from __future__ import annotations

import apsw

from dqlite_py.errors import Error, InternalError, ProgrammingError
from dqlite_py.resultcodes import error_class
from dqlite_py.sqlite_codes import RANGE


def error_from_apsw(error: apsw.Error) -> Error:
    """Translate what apsw raised; `code` is the extended result code."""
    if isinstance(error, apsw.BindingsError):
        return ProgrammingError(str(error), code=RANGE)
    code = getattr(error, "extendedresult", None)
    if not isinstance(code, int) or code == 0:
        return InternalError(f"{type(error).__name__}: {error}")
    return error_class(code)(str(error), code=code)
