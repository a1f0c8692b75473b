"""The timings of one latency table while workers come and go."""

from __future__ import annotations

from pathlib import Path

from device_agent.serve.request import Params, Request
from device_agent.work.workers import WorkerDiedError

_MOST_CRASHES = 8  # of models of one table, before the runtime itself is to blame


class LayerTable:
    """Collects timings by position while workers come and go; relative to the files that are still open."""

    def __init__(self, paths: list[Path], request: Request) -> None:
        self._paths = paths
        self._tell = request.tell
        self._found: dict[int, Params] = {}
        self._open: list[int] = []
        self._opening = 0
        self._crashes = 0

    def open_paths(self) -> list[str]:
        """Return the files without a timing, for the next worker."""
        self._open = [index for index in range(len(self._paths)) if index not in self._found]
        return [str(self._paths[index]) for index in self._open]

    def listen(self, message: Params) -> None:
        """Take one line of the worker."""
        if "timing" in message:
            position, timing = message["timing"]
            self._found[self._open[position]] = timing
        elif "opening" in message["event"]:
            self._opening = message["event"]["opening"]
        else:
            done = len(self._paths) - len(self._open) + message["event"]["done"]
            self._tell({**message["event"], "done": done, "of": len(self._paths)})

    def blame(self, error: WorkerDiedError) -> None:
        """Mark the model that was opened last; raises the error again when too many did it."""
        self._crashes += 1
        if self._crashes > _MOST_CRASHES or not self._open:
            raise error
        self._found[self._open[self._opening]] = {"p50_ms": 0.0, "runs": 0, "error": error.message}

    def timings(self) -> list[Params]:
        """Return all timings in the order of the files."""
        return [{"file_sha256": path.name, **self._found[index]} for index, path in enumerate(self._paths)]
