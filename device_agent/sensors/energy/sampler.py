"""Reads a sensor on a thread of its own while something else runs."""

from __future__ import annotations

import threading
from time import monotonic, sleep, thread_time
from typing import Optional

from device_agent.sensors.energy.reading import EnergySensor, Reading, StreamingSensor

_STREAM_LOOK_S = 0.05
_GOLDEN = 0.6180339887498949


class Sampler:
    """Collects readings, each with its own time, while a `with` block runs.

    The pauses between two readings vary evenly from 0.75 to 1.25 intervals: readings in step with the inferences
    would catch each at the same phase and miss what happens in the others.

    Attributes:
        readings: in the order of time.
        misses_s: when a reading failed.
        reversals_s: the last times before the sensor's time went backwards; what is not after them is left out.
    """

    def __init__(self, sensor: EnergySensor) -> None:
        self.readings: list[Reading] = []
        self.misses_s: list[float] = []
        self.reversals_s: list[float] = []
        self._sensor = sensor
        self._stream = sensor if isinstance(sensor, StreamingSensor) else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began_s = self._ended_s = monotonic()
        self._spent_s = 0.0

    def __enter__(self) -> Sampler:
        self._began_s = monotonic()
        self._keep(self._sensor.read())  # so that a window may begin at once
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._ended_s = monotonic()

    @property
    def cost(self) -> float:
        """Return the share of one core that the reading took, once the block is over."""
        return self._spent_s / max(self._ended_s - self._began_s, 1e-9)

    def wait_beyond(self, time_s: float, longest_s: float) -> None:
        """Wait until a reading lies at or after `time_s`, but no longer than `longest_s`."""
        until_s = monotonic() + longest_s
        while monotonic() < until_s and not (self.readings and self.readings[-1].time_s >= time_s):
            sleep(0.002)

    def _run(self) -> None:
        phase = 0.0
        while not self._stop.wait(self._pause_s(phase)):
            phase = (phase + _GOLDEN) % 1.0
            self._look()
            self._spent_s = thread_time()

    def _pause_s(self, phase: float) -> float:
        return _STREAM_LOOK_S if self._stream else self._sensor.interval_s * (0.75 + 0.5 * phase)

    def _look(self) -> None:
        for reading in self._stream.take() if self._stream else [self._sensor.read()]:
            self._keep(reading)

    def _keep(self, reading: Optional[Reading]) -> None:
        if reading is None:
            self.misses_s.append(monotonic())
        elif not self.readings or reading.time_s > self.readings[-1].time_s:
            self.readings.append(reading)
        elif reading.time_s < self.readings[-1].time_s:
            self.reversals_s.append(self.readings[-1].time_s)
