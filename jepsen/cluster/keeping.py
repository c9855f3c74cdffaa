"""The suite's handle of the keeper process (jepsen/cluster/keeper). Any thread."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final, Self

from jepsen.errors import SetupError

REPOSITORY: Final = Path(__file__).resolve().parents[2]
_END_S: Final = 10.0


def environment() -> dict[str, str]:
    """This process's environment, in which `python -m jepsen...` works from any folder."""
    found = dict(os.environ)
    before = found.get("PYTHONPATH")
    found["PYTHONPATH"] = str(REPOSITORY) if not before else f"{REPOSITORY}{os.pathsep}{before}"
    return found


class KeeperProcess:
    """Starts the keeper; `close` ends it and its nodes. Its complaints go to `log`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jepsen.cluster.keeper"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment(),
                start_new_session=True,
            )

    def request(self, op: str, **arguments: Any) -> Any:
        """Raises SetupError with the keeper's reason, or when it is gone."""
        line = json.dumps({"op": op, **arguments}).encode() + b"\n"
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with self._lock:
            try:
                requests.write(line)
                requests.flush()
                answer = answers.readline()
            except (OSError, ValueError) as error:
                raise SetupError(f"the cluster's keeper is gone: {error}; see {self._log}") from None
        if not answer:
            raise SetupError(f"the cluster's keeper has ended; see {self._log}")
        message = json.loads(answer)
        if "error" in message:
            raise SetupError(message["error"])
        return message["ok"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it; the nodes are killed. Idempotent."""
        with self._lock:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
