"""apsw's exceptions to the classes of errors.py; and the table for it (resultcodes.py), under storage's name."""

from __future__ import annotations

import apsw

from dqlite_py.errors import Error, InternalError, ProgrammingError
from dqlite_py.resultcodes import AUTH as AUTH
from dqlite_py.resultcodes import BY_PRIMARY_CODE as BY_PRIMARY_CODE
from dqlite_py.resultcodes import FULL as FULL
from dqlite_py.resultcodes import NEVER_APPLIED as NEVER_APPLIED
from dqlite_py.resultcodes import RANGE as RANGE
from dqlite_py.resultcodes import SESSION_EXPIRED as SESSION_EXPIRED
from dqlite_py.resultcodes import SESSION_SUPERSEDED as SESSION_SUPERSEDED
from dqlite_py.resultcodes import TRANSACTION_DIVERGED as TRANSACTION_DIVERGED
from dqlite_py.resultcodes import environment_error as environment_error
from dqlite_py.resultcodes import error_class as error_class
from dqlite_py.resultcodes import error_from_code as error_from_code


def error_from_apsw(error: apsw.Error) -> Error:
    """Translate what apsw raised; `code` is the extended result code."""
    if isinstance(error, apsw.BindingsError):
        return ProgrammingError(str(error), code=RANGE)
    code = getattr(error, "extendedresult", None)
    if not isinstance(code, int) or code == 0:
        return InternalError(f"{type(error).__name__}: {error}")
    return error_class(code)(str(error), code=code)
