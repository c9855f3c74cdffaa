"""Files that appear under their name when they are whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dqlite_py.errors import InterfaceError
from dqlite_py.offline.dump import new_file
from dqlite_py.ports import disk_error


def make(path: Path, *, replace: bool = False) -> None:
    with new_file(str(path), replace=replace) as temporary:
        Path(temporary).write_text("new")


@pytest.mark.parametrize("number", [None, errno.EPERM, errno.EOPNOTSUPP])
def test_never_over_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """Found by reading: on a file system without links no dump could be made."""

    def link(_old: str, _new: str) -> None:
        assert number is not None
        raise disk_error(number)

    if number is not None:
        monkeypatch.setattr(os, "link", link)
    target = tmp_path / "file"
    make(target)
    assert target.read_text() == "new"

    def overtaken() -> None:
        with new_file(str(tmp_path / "late"), replace=False) as temporary:
            Path(temporary).write_text("new")
            (tmp_path / "late").write_text("another's")  # it comes meanwhile

    with pytest.raises(InterfaceError, match="exists already"):
        overtaken()
    assert (tmp_path / "late").read_text() == "another's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "late"]
