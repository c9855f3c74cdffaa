"""Every fault RF-1 to RF-22 has one file that shows it on stock pysyncobj and proves it closed in ours."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

IDS = [f"RF-{number}" for number in range(1, 23)]
FILES = {
    f"RF-{int(match[1])}": path
    for path in sorted(Path(__file__).parent.glob("test_rf*.py"))
    if (match := re.match(r"test_rf(\d\d)_", path.name))
}


def test_one_file_per_fault() -> None:
    assert sorted(FILES) == sorted(IDS)
    assert len(list(Path(__file__).parent.glob("test_rf*.py"))) == len(IDS)


@pytest.mark.parametrize("rf", IDS)
def test_fault_is_shown_and_closed(rf: str) -> None:
    tree = ast.parse(FILES[rf].read_text())
    tests = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }
    assert "test_ours_is_closed" in tests
    assert "test_stock_has_the_fault" in tests
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert docstring.startswith(f"{rf}: ")
    assert "Ours" in docstring  # which rule closes it
    marks = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rf"
    ]
    assert set(marks) == {rf}
