"""What the journal must not use."""

from __future__ import annotations

from pathlib import Path

import pytest

from dqlite_py.raft import journal


@pytest.mark.rf("RF-17")
def test_no_memory_maps() -> None:
    """A store into a map of a full or failing disk is SIGBUS, which no code can handle."""
    sources = sorted(Path(journal.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    assert not [path.name for path in sources if "import mmap" in path.read_text()]


def test_the_disk_is_reached_through_ports_only() -> None:
    """Else the fault disk would not see it."""
    for path in Path(journal.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "import os" not in text, path.name
        assert "open(" not in text.replace(".open(", "").replace("def open(", ""), path.name
