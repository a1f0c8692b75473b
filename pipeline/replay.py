"""Replaying measurements: the numbers come from an earlier run's records instead of the device.

With the same task, profile and measurements a deploy makes the same model bit for bit; so a run can be reproduced on
a machine whose own timings differ. Everything else (push, check, activate) is really done. A replayed measurement
says so in `replayed_from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RunError
from pipeline.files import sha256
from pipeline.measurement import LayerTiming, Measurement, TimedLayers
from pipeline.store import Store

T = TypeVar("T")


class Replay:
    """The measurements that run `source` recorded.

    Raises:
        RunError: there is no such run.
    """

    def __init__(self, store: Store, source: str) -> None:
        self.source = store.row(source).id
        self._steps = {step.name: step for step in store.steps(self.source)}

    def measurement(self, step: str, file: Path) -> Measurement:
        """Return what `step` measured.

        Raises:
            RunError: it was not done then, was recorded by another version, or measured another file.
        """
        found = self._recorded(step, Measurement)
        self._expect(step, [found.file_sha256], [file])
        return replace(found, replayed_from=self.source)

    def timings(self, step: str, files: Sequence[Path]) -> tuple[LayerTiming, ...]:
        """Return the layer timings that `step` recorded.

        Raises:
            RunError: it was not done then, was recorded by another version, or for other layers.
        """
        found = self._recorded(step, TimedLayers).timings
        self._expect(step, [timing.file_sha256 for timing in found], files)
        return found

    def threads(self, step: str) -> int:
        """Return the number of threads that the host worked with; other counts round differently.

        Raises:
            RunError: it was not settled then.
        """
        return self._recorded(step, int)

    def _recorded(self, step: str, kind: type[T]) -> T:
        if step not in self._steps:
            raise RunError(
                f"run {self.source} has no step {step!r} to replay", hint="replay a run that went as far"
            )
        try:
            return TypeAdapter(kind).validate_json(self._steps[step].value)
        except ValidationError as error:
            raise RunError(
                f"step {step!r} of run {self.source} cannot be replayed: another version recorded it",
                hint="replay a run of this version",
            ) from error

    def _expect(self, step: str, digests: list[str], files: Sequence[Path]) -> None:
        if digests != [sha256(file) for file in files]:
            raise RunError(
                f"step {step!r} of run {self.source} measured other files than this run made",
                hint="a replay needs the same task, profile, budgets and library versions",
            )
