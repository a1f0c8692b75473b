"""What this board is and which runtimes it has, found out once by a worker: looking makes a process grow."""

from __future__ import annotations

import threading
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.work.workers import Cancellation, Job, Workers


class Board:
    """The facts of one board; they do not change while the agent runs."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._turn = threading.Lock()
        self._found: Optional[dict[str, Any]] = None

    def facts(self) -> dict[str, Any]:
        """Return `board` and `runtimes`; the first call takes a moment."""
        with self._turn:
            if self._found is None:
                job = Job("facts", "", 1, MeasuringProtocol(timeout_s=60.0), {})
                self._found = self._workers.run(job, Cancellation(), lambda _: None)
            return self._found

    def require(self, runtime: str) -> dict[str, str]:
        """Return name, package and version of a runtime.

        Raises:
            RequestError: `runtime_missing`.
        """
        installed: list[dict[str, str]] = self.facts()["runtimes"]
        for each in installed:
            if each["name"] == runtime:
                return each
        known = ", ".join(each["name"] for each in installed) or "none"
        raise RequestError(
            "runtime_missing",
            f"the runtime {runtime!r} is not installed on this board (installed: {known})",
            "install it for the Python that runs the agent, or choose another runtime in the profile",
        )
