"""Completion at the shell's prompt: keywords, tables, columns, dot commands and their arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from dqlite_py.cli.members import ROLES
from dqlite_py.cli.shell.dotcommands import COMMANDS
from dqlite_py.cli.shell.formats import MODES
from dqlite_py.gateway import ReadLevel

# sqlite.org/lang_keywords.html, without those that the cluster refuses (ATTACH, DETACH).
_KEYWORD_TEXT: Final = """
    ABORT ACTION ADD AFTER ALL ALTER ALWAYS ANALYZE AND AS ASC AUTOINCREMENT BEFORE BEGIN BETWEEN BY CASCADE CASE
    CAST CHECK COLLATE COLUMN COMMIT CONFLICT CONSTRAINT CREATE CROSS CURRENT CURRENT_DATE CURRENT_TIME
    CURRENT_TIMESTAMP DATABASE DEFAULT DEFERRABLE DEFERRED DELETE DESC DISTINCT DO DROP EACH ELSE END ESCAPE EXCEPT
    EXCLUDE EXCLUSIVE EXISTS EXPLAIN FAIL FILTER FIRST FOLLOWING FOR FOREIGN FROM FULL GENERATED GLOB GROUP GROUPS
    HAVING IF IGNORE IMMEDIATE IN INDEX INDEXED INITIALLY INNER INSERT INSTEAD INTERSECT INTO IS ISNULL JOIN KEY
    LAST LEFT LIKE LIMIT MATCH MATERIALIZED NATURAL NO NOT NOTHING NOTNULL NULL NULLS OF OFFSET ON OR ORDER OTHERS
    OUTER OVER PARTITION PLAN PRAGMA PRECEDING PRIMARY QUERY RAISE RANGE RECURSIVE REFERENCES REGEXP REINDEX RELEASE
    RENAME REPLACE RESTRICT RETURNING RIGHT ROLLBACK ROW ROWS SAVEPOINT SELECT SET TABLE TEMP THEN TIES TO
    TRANSACTION TRIGGER UNBOUNDED UNION UNIQUE UPDATE USING VACUUM VALUES VIEW VIRTUAL WHEN WHERE WINDOW WITH
    WITHOUT
"""
KEYWORDS: Final = tuple(_KEYWORD_TEXT.split())
_WORD: Final = re.compile(r"[A-Za-z0-9_]*$")
_SWITCH: Final = ("on", "off")
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "mode": MODES,
    "consistency": tuple(level.value for level in ReadLevel),
    **dict.fromkeys(("timer", "headers", "bail"), _SWITCH),
    "help": tuple(COMMANDS),
}
_TABLE_ARGUMENT: Final = frozenset({"schema", "indexes", "dump", "tables"})
_FILE_ARGUMENT: Final = frozenset({"read", "import", "output", "once"})


class ShellCompleter(Completer):
    """`schema`: tables and their columns, as far as they are known; must not block."""

    def __init__(self, schema: Callable[[], dict[str, list[str]]]) -> None:
        self._schema = schema
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.startswith(".") and "\n" not in before:
            yield from self._command(before, document, complete_event)
        else:
            yield from self._sql(before)

    def _command(self, before: str, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        name, blank, rest = before[1:].partition(" ")
        if not blank:
            yield from _matching(name, COMMANDS)
        elif name in _CHOICES:
            yield from _matching(rest, _CHOICES[name])
        elif name in _TABLE_ARGUMENT:
            yield from _matching(rest, self._schema())
        elif name == "import" and " " in rest.strip():
            yield from _matching(rest.rpartition(" ")[2], self._schema())
        elif name in _FILE_ARGUMENT:
            yield from self._files.get_completions(Document(rest), event)
        elif name == "assign" and " " in rest:
            yield from _matching(rest.rpartition(" ")[2], ROLES)
        elif name == "watch":
            yield from self._sql(rest)

    def _sql(self, before: str) -> Iterator[Completion]:
        found = _WORD.search(before)
        word = found.group() if found else ""
        schema = self._schema()
        ahead = before[: len(before) - len(word)]
        if ahead.endswith("."):
            owner = _WORD.search(ahead[:-1])
            table = owner.group().lower() if owner else ""
            own = [c for name, columns in schema.items() if name.lower() == table for c in columns]
            yield from _matching(word, own or _columns(schema))
            return
        if not word:
            return
        yield from _matching(word, schema, "table")
        yield from _matching(word, _columns(schema), "column")
        capitals = not word.islower()
        yield from _matching(word, KEYWORDS if capitals else [k.lower() for k in KEYWORDS])


def _columns(schema: dict[str, list[str]]) -> list[str]:
    return sorted({column for columns in schema.values() for column in columns})


def _matching(word: str, names: Iterable[str], meta: str = "") -> Iterator[Completion]:
    start = word.lower()
    for name in names:
        if name.lower().startswith(start):
            yield Completion(name, start_position=-len(word), display_meta=meta)
