"""CPython's tests of sqlite3 that do not hold here, each with the reason (docs/differences-from-sqlite3.md).

A name with * stands for tests of which all or nearly all fail for the same reason. The others are run and must fail:
one that passes has to leave this table.
"""

from __future__ import annotations

from typing import Final

_FUNCTION = "functions and collations in Python cannot be the same on every node"
_AUTHORIZER = "statements are prepared on the nodes, which have an authorizer of their own"
_BLOB = "no incremental blobs: blobs are values of SQL"
_COPY = "no copies through the API: databases are copied by the cluster"
_NAMES = "databases have names in a cluster, not files and URIs"
_LIMITS = "limits are fixed and the same on all nodes; the test lowers one"
_CALL = "no statement objects: a connection cannot be called"
_TRACEBACKS = "enable_callback_tracebacks() is not there; a trace callback's exceptions are dropped"
_NO_ROWS = "PEP 249 asks for an Error when the last statement returned no rows; its public suite checks it"
_UNICODE = "text that is no UTF-8 is a DataError, as other values that cannot be stored"
_REINIT = "a connection cannot be initialised a second time"

NOT_APPLICABLE: Final[dict[str, str]] = {
    "test_backup.BackupTests.*": _COPY,
    "test_dbapi.SerializeTests.*": _COPY,
    "test_dbapi.BlobTests.*": _BLOB,
    "test_userfunctions.FunctionTests.*": _FUNCTION,
    "test_userfunctions.WindowFunctionTests.*": _FUNCTION,
    "test_userfunctions.AggregateTests.*": _FUNCTION,
    "test_userfunctions.Authorizer*": _AUTHORIZER,
    "test_hooks.CollationTests.*": _FUNCTION,
    "test_hooks.ProgressTests.*": "statements run in the nodes: `timeout` and interrupt() end them",
    "test_regression.RegressionTests.test_collation": _FUNCTION,
    "test_regression.RegressionTests.test_executescript_step_through_select": _FUNCTION,
    "test_regression.RegressionTests.test_table_lock_cursor_non_readonly_select": _FUNCTION,
    "test_regression.RegressionTests.test_bpo37347": "the progress handler, the authorizer and others are not there",
    "test_dbapi.ModuleTests.test_disallow_instantiation": _CALL,
    "test_dbapi.ClosedConTests.test_closed_call": _CALL,
    "test_regression.RegressionTests.test_surrogates": _CALL,
    "test_dbapi.ModuleTests.test_error_code_on_exception": _NAMES,
    "test_dbapi.ModuleTests.test_shared_cache_deprecated": "enable_shared_cache() was deprecated, and is not there",
    "test_dbapi.ConnectionTests.test_connection_bad_limit_category": _LIMITS,
    "test_dbapi.ConnectionTests.test_connection_limits": _LIMITS,
    "test_dbapi.CursorTests.test_execute_too_many_params": _LIMITS,
    "test_dbapi.ExtensionTests.test_cursor_executescript_too_large_script": _LIMITS,
    "test_regression.RegressionTests.test_large_sql": _LIMITS,
    "test_dbapi.ConnectionTests.test_connection_bad_reinit": _REINIT,
    "test_dbapi.ConnectionTests.test_connection_reinit": _REINIT,
    "test_dbapi.ConnectionTests.test_failed_open": _NAMES,
    "test_dbapi.OpenTests.test_open_undecodable_uri": _NAMES,
    "test_dbapi.OpenTests.test_open_unquoted_uri": _NAMES,
    "test_dbapi.OpenTests.test_open_uri": _NAMES,
    "test_dbapi.OpenTests.test_open_uri_readonly": _NAMES,
    "test_dbapi.OpenTests.test_open_with_path_like_object": _NAMES,
    "test_dbapi.OpenTests.test_open_with_undecodable_path": _NAMES,
    "test_dbapi.MultiprocessTests.test_ctx_mgr_rollback_if_commit_failed": _NAMES,
    "test_dbapi.CursorTests.test_execute_with_appended_comments": (
        "a comment behind the statement must be closed: the text goes to several nodes as it is"
    ),
    "test_regression.RegressionTests.test_error_msg_decode_error": "the message of text that is no UTF-8 is another",
    "test_dbapi.CursorTests.test_fetchone_no_statement": _NO_ROWS,
    "test_dbapi.SqliteOnConflictTests.test_on_conflict_fail": _NO_ROWS,
    "test_dbapi.CursorTests.test_rowcount_vaccuum": "VACUUM is refused: it would not be the same on every node",
    "test_dbapi.ExtensionTests.test_cursor_executescript_with_surrogates": _UNICODE,
    "test_types.SqliteTypeTests.test_string_with_surrogates": _UNICODE,
    "test_dump.DumpTests.test_dump_virtual_tables": (
        "a dump makes virtual tables by CREATE VIRTUAL TABLE and fills them: writable_schema is refused"
    ),
    "test_factory.TextFactoryTests.test_optimized_unicode": "OptimizedUnicode was deprecated, and is not there",
    "test_hooks.TraceCallbackTests.test_trace_bad_handler": _TRACEBACKS,
    "test_hooks.TraceCallbackTests.test_trace_too_much_expanded_sql": _TRACEBACKS,
    "test_hooks.TraceCallbackTests.test_trace_expanded_sql": "a trace callback gets SQL without the values",
}

# Beside these, on a real node:
ON_A_NODE: Final[dict[str, str]] = {
    "test_transactions.SpecialCommandTests.test_pragma": "count_changes is refused: nodes set their connections up",
}
