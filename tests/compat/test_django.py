"""The recipe of docs/django.md: its code, taken from there, in a process of its own. Only where Django is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("django", reason='Django is not installed: pip install "django>=5.2,<6"')

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_the_recipe(tmp_path: Path) -> None:
    [backend] = re.findall(
        r"```python\n# mysite/dqlite_backend/base\.py.*?\n(.*?)```",
        (ROOT / "docs" / "django.md").read_text(),
        re.DOTALL,
    )
    package = tmp_path / "dqlite_backend"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(backend)
    script = Path(__file__).parent / "django_site.py"
    done = subprocess.run(
        [sys.executable, str(script), str(ROOT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is as docs/django.md says\n")
