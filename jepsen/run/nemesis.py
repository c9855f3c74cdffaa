"""The nemesis thread: starts and stops one kind of fault at moments that the seed fixes.

Each start and stop is recorded in every history of the run. A fault that cannot be started or stopped is
recorded with its error and does not end the run; the final healing is the runner's.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

from jepsen.cluster.api import Cluster
from jepsen.history.recorder import Recorder
from jepsen.nemeses.base import NO_EFFECT

QUIET_S: Final = (1.0, 3.0)  # before each fault
FAULT_S: Final = (2.5, 6.0)  # how long one lasts


class Nemesis(Protocol):
    """What the runner needs of a nemesis; those of the suite are in jepsen/nemeses."""

    @property
    def name(self) -> str: ...
    @property
    def violations(self) -> Sequence[str]:
        """What a node did that it must not do, as seen by the nemesis itself."""
        ...

    def missing(self, cluster: Any) -> str | None:
        """What this machine lacks for it, or None."""
        ...

    def start(self, cluster: Any, rng: random.Random) -> Any: ...
    def stop(self, cluster: Any) -> Any: ...
    def final(self, cluster: Any) -> Any:
        """Undo whatever is left of it, so that every node may run again."""
        ...


class NoFaults:
    """No fault at all: what the load alone shows."""

    name = "none"
    violations: Sequence[str] = ()

    def missing(self, cluster: Any) -> str | None:
        return None

    def start(self, cluster: Any, rng: random.Random) -> Any:
        return None

    def stop(self, cluster: Any) -> Any:
        return None

    def final(self, cluster: Any) -> Any:
        return None


class NemesisThread(threading.Thread):
    """Runs until `stop` is set; what it started is stopped by then, or noted in `errors`."""

    def __init__(
        self,
        nemesis: Nemesis,
        cluster: Cluster,
        rng: random.Random,
        recorders: Sequence[Recorder],
        stop: threading.Event,
        time_s: float,
    ) -> None:
        super().__init__(name=f"nemesis-{nemesis.name}", daemon=True)
        self._nemesis = nemesis
        self._cluster = cluster
        self._rng = rng
        self._recorders = recorders
        self._stopped = stop
        # Short runs get short faults, so that even they see two cycles.
        self._scale = min(1.0, time_s / 15.0)
        self.errors: list[str] = []
        self.starts = 0
        self.is_undone = True  # nothing that it started is in force
        self.trouble: str | None = None  # what ended the thread before its time

    def run(self) -> None:
        if isinstance(self._nemesis, NoFaults):
            return
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - the run's verdict "faults" tells of it
            self.trouble = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        while not self._stopped.wait(self._rng.uniform(*QUIET_S) * self._scale):
            if self._step("start"):
                self.starts += 1
            self._stopped.wait(self._rng.uniform(*FAULT_S) * self._scale)
            self._step("stop")

    def _step(self, step: str) -> bool:
        value: Any
        try:
            if step == "start":
                self.is_undone = False
                value = self._nemesis.start(self._cluster, self._rng)
            else:
                value = self._nemesis.stop(self._cluster)
                self.is_undone = True
                if isinstance(value, dict) and NO_EFFECT in value:
                    self.starts -= 1
                    self.errors.append(f"{self._nemesis.name}: {value[NO_EFFECT]}")
        except Exception as error:  # noqa: BLE001 - recorded; the run's verdict "faults" counts them
            text = f"{step} of {self._nemesis.name}: {type(error).__name__}: {error}"
            self.errors.append(text)
            self._record(f"{step}-{self._nemesis.name}", {"error": text})
            return False
        self._record(f"{step}-{self._nemesis.name}", value)
        return True

    def _record(self, f: str, value: Any) -> None:
        for recorder in self._recorders:
            recorder.nemesis(f, value)
