"""Every log line is an event with fields, and docs/log-lines.md knows it; what it knows exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dqlite_py"
CATALOGUE = ROOT / "docs/log-lines.md"
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# The functions behind `event` and the demo's screen, which is no log.
THEMSELVES = {"dqlite_py/logs.py", "dqlite_py/raft/quietlog.py"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", node


def events() -> dict[str, str]:
    """Event -> where, of all literal ones; a name that is computed is looked for where it is assigned."""
    found: dict[str, str] = {}
    for where, call in calls():
        if isinstance(call.func, ast.Name) and call.func.id == "event":
            names = [n.value for n in ast.walk(call.args[2]) if isinstance(n, ast.Constant)]
            found |= {str(name): where for name in names}
            assert names or isinstance(call.args[2], ast.Name), f"{where}: the event's name is computed"
    return found


def catalogue() -> set[str]:
    text = re.sub(r"```.*?```", "", CATALOGUE.read_text(), flags=re.DOTALL)
    return {re.sub(r"\s+", " ", name) for name in re.findall(r"`([^`]+)`", text)}


def test_every_line_is_an_event() -> None:
    direct = [
        where
        for where, call in calls()
        if where.rpartition(":")[0] not in THEMSELVES
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in METHODS
        and re.fullmatch(r"(self\.)?_?(log|logger|quiet|quiet_log)", ast.unparse(call.func.value))
    ]
    assert direct == [], "log through logs.event, with fields"


def test_every_event_is_explained() -> None:
    missing = {name: where for name, where in events().items() if name not in catalogue()}
    assert missing == {}, f"add them to {CATALOGUE.name}"


def test_the_catalogue_explains_no_more() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    said = {
        name
        for name in catalogue()
        if " " in name and not name.startswith(("name=", "--", "dqlite-py ", "cluster "))
    }
    assert [name for name in sorted(said) if name not in source] == []


def test_nothing_happens_without_events() -> None:
    assert len(events()) > 80
