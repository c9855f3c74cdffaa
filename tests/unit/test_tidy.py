"""The style that no linter checks, as a ratchet: what is good stays good, what is excused may only shrink."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dqlite_py"

MODULE_LINES_MAX = 400
# Longer modules and their present length. Shrink an entry when the module shrinks; never raise one.
LONGER_MODULES: dict[str, int] = {}

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "xmlrpc"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
# The consensus rules get time, randomness and messages handed in; simulation drives the very same code.
IO_MODULES = {
    "asyncio",
    "os",
    "socket",
    "threading",
    "time",
    "queue",
    "selectors",
    "subprocess",
    "secrets",
    "logging",
}


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def _modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _shipped() -> list[Path]:
    return _modules("dqlite_py", "jepsen", "tests/simulation/cluster")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@pytest.fixture(scope="module", autouse=True)
def _trees_are_forgotten() -> Iterator[None]:
    """Every later test ends with a garbage collection, which a million nodes of syntax would slow down."""
    yield
    _tree.cache_clear()


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.lineno


def test_modules_are_short() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in _shipped()}
    too_long = {
        name: lines for name, lines in lengths.items() if lines > LONGER_MODULES.get(name, MODULE_LINES_MAX)
    }
    assert not too_long, f"split by responsibility (at most {MODULE_LINES_MAX} lines): {too_long}"
    stale = {name for name, lines in LONGER_MODULES.items() if lengths.get(name, 0) < lines}
    assert not stale, f"these became shorter: lower or drop their entry in LONGER_MODULES: {stale}"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        _name(path)
        for path in _modules("dqlite_py", "jepsen", "tests", "tools")
        if path.read_text().strip() and not ast.get_docstring(_tree(path))
    ]
    assert not silent, f"no module docstring: {silent}"


def test_nothing_unpickles_or_evaluates() -> None:
    found = [
        f"{_name(path)}: imports {name}"
        for path in _modules("dqlite_py")
        for name in _imports(path)
        if name.split(".")[0] in FORBIDDEN_IMPORTS
    ]
    found += [
        f"{_name(path)}:{line}: {name}()"
        for path in _modules("dqlite_py")
        for name, line in _calls(path)
        if name in FORBIDDEN_CALLS
    ]
    assert not found, found


def test_only_the_command_line_prints() -> None:
    found = [
        f"{_name(path)}:{line}"
        for path in _modules("dqlite_py")
        if not _name(path).startswith("dqlite_py/cli/")
        for name, line in _calls(path)
        if name == "print"
    ]
    assert not found, found


def test_the_consensus_core_does_no_io() -> None:
    """raft/core.py and every raft module it imports: deterministic, so that a seed replays a run."""
    pending, seen = [PACKAGE / "raft" / "core.py"], set[Path]()
    while pending:
        path = pending.pop()
        seen.add(path)
        for name in _imports(path):
            module = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("dqlite_py.") and module.is_file() and module not in seen:
                pending.append(module)
    assert len(seen) > 3
    found = [
        f"{_name(path)}: {name}"
        for path in seen
        for name in _imports(path)
        if name.split(".")[0] in IO_MODULES
    ]
    assert not found, found


def test_no_module_of_ours_uses_the_front_door() -> None:
    """`from dqlite_py import Node` inside the package would hide an import from the layers' check."""
    submodules = {path.stem for path in PACKAGE.iterdir()} | {"_native"}
    found = [
        f"{_name(path)}: {name}"
        for path in _modules("dqlite_py")
        for name in _imports(path)
        if name.count(".") == 1 and name.startswith("dqlite_py.") and name.split(".")[1] not in submodules
    ]
    assert not found, found


def test_no_unfinished_work() -> None:
    marks = re.compile(
        r"\b(?:TO"
        + r"DO|FIX"
        + r"ME|XX"
        + r"X)\b|NotImplemented"
        + r"Error|pytest\.mark\.(?:skip|xf"
        + r"ail)"
    )
    found = [
        f"{_name(path)}:{number}"
        for path in _modules("dqlite_py", "jepsen", "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not found, found


def test_nothing_names_the_machine_it_was_written_on() -> None:
    places = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users)/\w|[.]pyen" + "v")
    found = []
    for path in _tracked():
        if path.suffix in {".png", ".ico", ".db", ".seg"} or "vendor" in path.parts:
            continue
        text = path.read_text(errors="replace")
        found += [f"{_name(path)}:{n}" for n, line in enumerate(text.splitlines(), 1) if places.search(line)]
    assert not found, found


def test_every_fault_of_the_audit_has_a_test() -> None:
    marked = {
        int(number)
        for path in _modules("tests")
        for number in re.findall(r"""mark[.]rf\(["']RF-(\d+)["']\)""", path.read_text())
    }
    assert marked == set(range(1, 23))


def test_public_text_is_there() -> None:
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "docs/ARCHITECTURE.md", "jepsen/README.md"):
        assert (ROOT / name).stat().st_size > 200, name
    assert [
        section for section in ("Safety", "Performance", "Features", "Fixes") if section in _changelog()
    ] == [
        "Safety",
        "Performance",
        "Features",
        "Fixes",
    ]


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def test_links_in_the_docs_lead_somewhere() -> None:
    broken = []
    for path in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "jepsen" / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{_name(path)}: {target}")
    assert not broken, broken
