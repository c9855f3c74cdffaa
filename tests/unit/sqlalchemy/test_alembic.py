"""Alembic: upgrade and downgrade, batch mode, autogenerate, a migration that fails halfway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, inspect, text
from sqlalchemy.exc import IntegrityError

ENV = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=context.config.attributes["transactional_ddl"])
with context.begin_transaction():
    context.run_migrations()
"""
MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {before!r}

def upgrade():
{upgrade}

def downgrade():
{downgrade}
"""
STEPS = [
    (
        ['op.create_table("note", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(9)))',
         'op.execute("INSERT INTO note (text) VALUES (\'first\'), (\'second\')")'],
        ['op.drop_table("note")'],
    ),
    (
        ['op.add_column("note", sa.Column("author", sa.String(20), server_default="nobody"))',
         'op.create_index("note_author", "note", ["author"])'],
        ['op.drop_index("note_author")', 'op.drop_column("note", "author")'],
    ),
    (
        ['with op.batch_alter_table("note") as batch:',
         '    batch.alter_column("text", nullable=False, new_column_name="body")',
         'with op.batch_alter_table("note") as batch:',
         '    batch.create_unique_constraint("one_body", ["body"])'],
        ['with op.batch_alter_table("note") as batch:',
         '    batch.drop_constraint("one_body", type_="unique")',
         '    batch.alter_column("body", nullable=True, new_column_name="text")'],
    ),
]  # fmt: skip


class Migrations:
    def __init__(self, folder: Path, engine: Engine) -> None:
        self.transactional_ddl: bool | None = None
        self._engine = engine
        self._versions = folder / "versions"
        self._versions.mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text("")
        self._config = Config()
        self._config.set_main_option("script_location", str(folder))
        self._config.set_main_option("path_separator", "os")

    def add(self, number: int, upgrade: list[str], downgrade: list[str]) -> None:
        parts = ["\n".join(f"    {line}" for line in lines) for lines in (upgrade, downgrade)]
        text = MIGRATION.format(
            revision=str(number),
            before=str(number - 1) if number else None,
            upgrade=parts[0],
            downgrade=parts[1],
        )
        (self._versions / f"{number}.py").write_text(text)

    def run(self, what: Callable[[Config, str], object], revision: str) -> None:
        with self._engine.connect() as connection:
            self._config.attributes |= {"connection": connection, "transactional_ddl": self.transactional_ddl}
            what(self._config, revision)
            connection.commit()

    def current(self) -> str | None:
        with self._engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()


@pytest.fixture
def migrations(tmp_path: Path, engine: Engine) -> Migrations:
    found = Migrations(tmp_path / "migrations", engine)
    for number, (upgrade, downgrade) in enumerate(STEPS):
        found.add(number, upgrade, downgrade)
    return found


def columns(engine: Engine) -> list[str]:
    return [column["name"] for column in inspect(engine).get_columns("note")]


def test_up_and_down_again(migrations: Migrations, engine: Engine) -> None:
    migrations.run(command.upgrade, "head")
    assert migrations.current() == "2"
    assert columns(engine) == ["id", "body", "author"]
    assert inspect(engine).get_unique_constraints("note")[0]["name"] == "one_body"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT body, author FROM note ORDER BY id")).all() == [
            ("first", "nobody"),
            ("second", "nobody"),
        ]
    migrations.run(command.downgrade, "0")
    assert columns(engine) == ["id", "text"]
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT text FROM note ORDER BY id")).all() == ["first", "second"]
    migrations.run(command.downgrade, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_a_migration_that_fails_leaves_nothing_behind(migrations: Migrations, engine: Engine) -> None:
    broken = ['op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))',
              'op.execute("UPDATE note SET body = \'same\'")']  # fmt: skip
    migrations.add(3, broken, ["pass"])
    with pytest.raises(IntegrityError):
        migrations.run(command.upgrade, "head")
    assert migrations.current() == "2", "the steps before it stay"
    assert not inspect(engine).has_table("half")


def test_autogenerate_sees_only_what_is_the_users(migrations: Migrations, engine: Engine) -> None:
    migrations.run(command.upgrade, "0")
    wanted = MetaData()
    Table(
        "note",
        wanted,
        Column("id", Integer, primary_key=True),
        Column("text", String(9)),
        Column("more", Integer),
    )
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), wanted)
    assert [(entry[0], entry[3].name) for entry in found] == [("add_column", "more")]


def test_changes_in_place_and_one_transaction_for_all(migrations: Migrations, engine: Engine) -> None:
    """Renaming and dropping columns needs no batch mode; with transactional_ddl a failing step undoes all."""
    in_place = ['op.alter_column("note", "body", new_column_name="content")',
                'op.drop_column("note", "author")', 'op.rename_table("note", "memo")']  # fmt: skip
    migrations.add(3, ['op.drop_index("note_author")', *in_place], ["pass"])
    migrations.add(4, ["op.execute(\"UPDATE memo SET content = 'same'\")"], ["pass"])
    migrations.transactional_ddl = True
    with pytest.raises(IntegrityError):
        migrations.run(command.upgrade, "head")
    assert inspect(engine).get_table_names() == []
    migrations.run(command.upgrade, "3")
    assert [column["name"] for column in inspect(engine).get_columns("memo")] == ["id", "content"]


REFERRED = [
    'op.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT)")',
    "op.execute(\"INSERT INTO parent VALUES (1, 'p')\")",
    'op.execute("CREATE TABLE child (parent_id INTEGER REFERENCES parent {action})")',
    'op.execute("INSERT INTO child VALUES (1)")',
]
BATCH = ['with op.batch_alter_table("parent") as batch:', '    batch.alter_column("name", nullable=False)']


@pytest.mark.parametrize(("action", "children"), [("", None), ("ON DELETE CASCADE", 0)])
def test_batch_mode_on_a_table_that_others_refer_to(
    tmp_path: Path, engine: Engine, action: str, children: int | None
) -> None:
    """docs/sqlalchemy.md warns of it: the old table is dropped, which deletes its rows."""
    migrations = Migrations(tmp_path / "migrations", engine)
    migrations.add(0, [line.format(action=action) for line in REFERRED], ["pass"])
    migrations.add(1, BATCH, ["pass"])
    migrations.run(command.upgrade, "0")
    if children is None:
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            migrations.run(command.upgrade, "1")
        assert migrations.current() == "0"
    else:
        migrations.run(command.upgrade, "1")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM parent")) == 1
        assert connection.scalar(text("SELECT count(*) FROM child")) == (1 if children is None else children)
