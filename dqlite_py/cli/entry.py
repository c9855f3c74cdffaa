"""Where the installed program `dqlite-py` begins: a Ctrl-C that comes before the commands are loaded is one, too."""

from __future__ import annotations

import sys


def run() -> None:
    """Load the program and run it; what click does with Ctrl-C from then on, done here until then."""
    try:
        from dqlite_py.cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("Aborted!\n")
        sys.exit(1)
    main()
