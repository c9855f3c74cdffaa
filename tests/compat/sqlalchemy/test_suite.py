"""All of SQLAlchemy's compliance suite. What it does in a second schema whatever the requirements say is left out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, MetaData, inspect, testing
from sqlalchemy.testing import eq_
from sqlalchemy.testing.suite import *  # noqa: F403
from sqlalchemy.testing.suite import ComponentReflectionTest as _ComponentReflectionTest
from sqlalchemy.testing.suite import ComponentReflectionTestExtra as _ComponentReflectionTestExtra
from sqlalchemy.testing.suite import UnicodeSchemaTest as _UnicodeSchemaTest


class ComponentReflectionTest(_ComponentReflectionTest):
    @testing.combinations(True, False, argnames="views")
    def test_metadata(self, connection: Any, views: bool) -> None:
        """As the suite's, in the one schema there is."""
        found = MetaData()
        found.reflect(connection, views=views, resolve_fks=False)
        inspector = inspect(connection)
        names = inspector.get_table_names() + (inspector.get_view_names() if views else [])
        eq_(sorted(found.tables), sorted(names))


class ComponentReflectionTestExtra(_ComponentReflectionTestExtra):
    @testing.fixture()
    def use_schema_fixture(self) -> None:
        return None


class UnicodeSchemaTest(_UnicodeSchemaTest):
    @classmethod
    def define_tables(cls, metadata: MetaData) -> None:
        """Its foreign keys refer to columns that are not unique: an error where, as here, foreign keys are enforced."""
        super().define_tables(metadata)
        for table, column in (("unitable1", "\u6e2c\u8a66"), ("Unitéble2", "b")):
            Index(f"unique_{table}", metadata.tables[table].columns[column], unique=True)
