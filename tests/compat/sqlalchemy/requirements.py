"""What the dialect can do and what not, in the words of SQLAlchemy's compliance suite; with a reason for each "not".

The suite asks an instance of `Requirements` for attributes; SuiteRequirements has a default for each, overridden here
by the two tables. A skip for any other reason fails the run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

_SQLITE = "SQLite has no"
_TEMPORARY = "temporary objects cannot be replicated, and are refused"
_ATTACH = "a connection has one database: ATTACH is refused, and there are no schemas but main"
_NUMERIC = "SQLite stores numbers in 8 bytes: 15 significant digits"
_COMMENT = "SQLite has no comments on tables and columns"
_TIMEZONE = "SQLite stores no time zones"
_FETCH = "SQLite has LIMIT, not FETCH FIRST"

HAS = (
    "aggregate_order_by",
    "autocommit",
    "boolean_col_expressions",
    "check_constraint_reflection",
    "computed_columns",
    "computed_columns_reflect_persisted",
    "computed_columns_stored",
    "computed_columns_virtual",
    "create_table_as",
    "ctes",
    "ctes_with_update_delete",
    "ctes_with_values",
    "date_historic",
    "datetime_historic",
    "dbapi_lastrowid",
    "deferrable_fks",
    "except_",
    "expression_server_defaults",
    "foreign_key_constraint_name_reflection",
    "foreign_key_constraint_option_reflection_ondelete",
    "foreign_key_constraint_option_reflection_onupdate",
    "fk_constraint_option_reflection_ondelete_noaction",
    "fk_constraint_option_reflection_ondelete_restrict",
    "fk_constraint_option_reflection_onupdate_restrict",
    "index_ddl_if_exists",
    "indexes_check_column_order",
    "indexes_with_expressions",
    "infinity_floats",
    "intersect",
    "isolation_level",
    "json_type",
    "legacy_unconditional_json_extract",
    "nullsordering",
    "order_by_label_with_expression",
    "percent_schema_names",
    "reflect_table_options",
    "repeated_column_foreign_keys",
    "repeated_remote_col_foreign_keys",
    "reflects_pk_names",
    "savepoints",
    "server_defaults",
    "skip_autocommit_rollback",
    "supports_bitwise_and",
    "supports_bitwise_not",
    "supports_bitwise_or",
    "supports_bitwise_shift",
    "supports_bitwise_xor",
    "table_ddl_if_exists",
    "timestamp_microseconds",
    "tuple_in",
    "tuple_in_w_empty",
    "unicode_ddl",
    "uuid_data_type",
    "update_from",
    "views",
    "window_functions",
    "window_range",
    "window_range_numeric",
    "float_or_double_precision_behaves_generically",
    "precision_numerics_enotation_small",
)
HAS_NOT = {
    "array_type": f"{_SQLITE} arrays",
    "cast_precision_numerics_many_significant_digits": _NUMERIC,
    "column_collation_reflection": f"{_SQLITE} pragma that tells a column's collation",
    "comment_reflection": _COMMENT,
    "comment_reflection_full_unicode": _COMMENT,
    "computed_columns_default_persisted": "a computed column is virtual unless it says STORED",
    "constraint_comment_reflection": _COMMENT,
    "create_or_replace_view": f"{_SQLITE} CREATE OR REPLACE VIEW",
    "create_temp_table_as": _TEMPORARY,
    "cross_schema_fk_reflection": _ATTACH,
    "ctes_on_dml": f"{_SQLITE} INSERT, UPDATE or DELETE inside WITH",
    "datetime_interval": f"{_SQLITE} type for intervals",
    "datetime_literals": f"{_SQLITE} literals for dates",
    "datetime_timezone": _TIMEZONE,
    "datetime_timezone_historic": _TIMEZONE,
    "default_schema_name_switch": _ATTACH,
    "delete_from": f"{_SQLITE} DELETE with several tables",
    "emulated_lastrowid": "the driver has lastrowid",
    "emulated_lastrowid_even_with_sequences": "the driver has lastrowid",
    "fetch_expression": _FETCH,
    "fetch_first": _FETCH,
    "fetch_no_order_by": _FETCH,
    "fetch_offset_with_options": _FETCH,
    "fetch_percent": _FETCH,
    "fetch_ties": _FETCH,
    "foreign_keys_reflect_as_index": f"{_SQLITE} indexes for foreign keys",
    "has_temp_table": _TEMPORARY,
    "identity_columns": f"{_SQLITE} IDENTITY",
    "identity_columns_standard": f"{_SQLITE} IDENTITY",
    "implicit_default_schema": _ATTACH,
    "implicitly_named_constraints": "a constraint without a name has none in SQLite",
    "index_reflects_included_columns": f"{_SQLITE} INCLUDE for indexes",
    "inline_check_constraint_reflection": "the dialect reports them among the table's constraints, as SQLAlchemy's own",
    "json_deserializer_binary": "JSON is text",
    "materialized_views": f"{_SQLITE} materialized views",
    "materialized_views_reflect_pk": f"{_SQLITE} materialized views",
    "mod_operator_as_percent_sign": "the driver does not format with %",
    "non_updating_cascade": "SQLite has ON UPDATE CASCADE",
    "nvarchar_types": f"{_SQLITE} NVARCHAR apart from VARCHAR",
    "parens_in_union_contained_select_w_limit_offset": f"{_SQLITE} parentheses around the parts of a UNION",
    "parens_in_union_contained_select_wo_limit_offset": f"{_SQLITE} parentheses around the parts of a UNION",
    "precision_numerics_many_significant_digits": _NUMERIC,
    "precision_numerics_retains_significant_digits": _NUMERIC,
    "reflect_indexes_with_ascdesc": "the direction of an index's columns is not reported, as by SQLAlchemy's own",
    "reflect_indexes_with_ascdesc_as_expression": f"{_SQLITE} expressions for the direction of an index's columns",
    "reflect_indexes_with_expressions": "SQLite's pragmas do not tell expressions of an index",
    "reflect_tables_no_columns": "a table of SQLite has columns",
    "regexp_match": "REGEXP needs a function that is not the same on all nodes by itself",
    "regexp_replace": "REGEXP needs a function that is not the same on all nodes by itself",
    "schema_create_delete": _ATTACH,
    "schema_reflection": _ATTACH,
    "schemas": _ATTACH,
    "sequences": f"{_SQLITE} sequences",
    "sequences_optional": f"{_SQLITE} sequences",
    "server_side_cursors": "the suite recognises those of its own drivers; test_aio.py has streams",
    "supports_distinct_on": f"{_SQLITE} DISTINCT ON",
    "table_value_constructor": f"{_SQLITE} names for the columns of VALUES",
    "temp_table_comment_reflection": _TEMPORARY,
    "temp_table_names": _TEMPORARY,
    "temp_table_reflect_indexes": _TEMPORARY,
    "temp_table_reflection": _TEMPORARY,
    "temporary_tables": _TEMPORARY,
    "temporary_views": _TEMPORARY,
    "time_timezone": _TIMEZONE,
    "two_phase_transactions": "a transaction is replicated as one; there is no PREPARE",
    "unique_constraints_reflect_as_index": "a unique constraint's own index is not reported, as SQLAlchemy's own",
    "unique_index_reflect_as_unique_constraints": "a unique index is reported as an index",
    "window_range_non_numeric": f"{_SQLITE} RANGE over anything but numbers",
}

HAS_ASYNC = {
    "async_dialect": "the synchronous dialect",
}
REASONS = {*HAS_NOT.values(), *HAS_ASYNC.values()}


class Requirements(SuiteRequirements):
    """By the tables above; what they do not name is as the suite has it."""

    def get_isolation_levels(self, config: Any) -> dict[str, Any]:
        return {"default": "SERIALIZABLE", "supported": ["SERIALIZABLE", "READ COMMITTED", "AUTOCOMMIT"]}

    def get_order_by_collation(self, config: Any) -> str:
        return "NOCASE"


def _constant(value: Any) -> property:
    return property(lambda self: value)


for _name in HAS:
    setattr(Requirements, _name, _constant(exclusions.open()))
for _name, _reason in HAS_NOT.items():
    setattr(Requirements, _name, _constant(exclusions.skip_if(exclusions.BooleanPredicate(True, _reason))))
for _name, _reason in HAS_ASYNC.items():
    setattr(
        Requirements,
        _name,
        _constant(exclusions.skip_if(lambda config: not config.db.dialect.is_async, _reason)),
    )


def closed() -> set[str]:
    """All that is not there, in our words or in the suite's."""
    found = Requirements()
    names = [
        name for name in dir(SuiteRequirements) if isinstance(getattr(SuiteRequirements, name), property)
    ]
    return {name for name in names if _is_closed(getattr(found, name))}


def _is_closed(found: Any) -> bool:
    """As exclusions.closed() makes it."""
    rules = found.skips if isinstance(found, exclusions.compound) else ()
    return any(isinstance(rule, exclusions.BooleanPredicate) and rule.value for rule in rules)
