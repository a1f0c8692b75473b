"""An external power meter that sends lines of time, voltage and current."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite
from time import monotonic
from typing import Optional

from device_agent.errors import RequestError
from device_agent.sensors.energy.meter_source import MeterSource
from device_agent.sensors.energy.reading import Reading

_SETTLE_S = 0.5  # how long arrivals are compared before the offset of the clocks is fixed
_SILENT_AFTER_S = 3.0
_LONGEST_LINE = 4096


class Meter:
    """A meter's stream of "seconds,volts,amperes" lines; every sample it sends is used.

    The columns may be parted by comma, semicolon or blanks, and further ones may follow. Lines before the first
    sample may say anything, as may lines that begin with "#" later on. The meter's clock is mapped to the
    monotonic one by the sample that took the least time to arrive while the stream was first heard (as in network
    time protocols, whatever delays a message only ever adds to its age), then the offset stays fixed.
    """

    estimated = False

    def __init__(self, name: str) -> None:
        """Open the stream and hear it for half a second.

        Args:
            name: "-" for stdin, "serial:/dev/ttyUSB0@115200", or the path of a FIFO, file or serial port.

        Raises:
            RequestError: `no_meter` if it cannot be opened or sends no sample within three seconds.
        """
        self._source = MeterSource(name)
        self.method = f"meter:{self._source.name}"
        self._rest = b""
        self._last: Optional[Reading] = None
        self._offset_s = inf
        self.interval_s = self._listen()

    def read(self) -> Optional[Reading]:
        """Return the newest sample so far."""
        self.take()
        return self._last

    def take(self) -> list[Optional[Reading]]:
        """Return the samples that came since the last call; `None` for a line that is no sample."""
        taken = [
            None if sample is None else Reading(sample[0] + self._offset_s, sample[1] * 1000, None)
            for sample in self._samples(self._source.take(0.0))
        ]
        known = [reading for reading in taken if reading is not None]
        self._last = known[-1] if known else self._last
        return taken

    def close(self) -> None:
        """Let go of the stream."""
        self._source.close()

    def _listen(self) -> float:
        """Fix the offset between the clocks; return the usual time between two samples."""
        times: list[float] = []
        begin_s = now_s = monotonic()
        while now_s < begin_s + (_SETTLE_S if len(times) > 1 else _SILENT_AFTER_S):
            chunk = self._source.take(0.05)
            now_s = monotonic()
            for sample in filter(None, self._samples(chunk)):
                times.append(sample[0])
                self._offset_s = min(self._offset_s, now_s - sample[0])
                self._last = Reading(sample[0] + self._offset_s, sample[1] * 1000, None)
        steps = sorted(after - before for before, after in zip(times, times[1:]) if after > before)
        if not steps:
            self._source.close()
            raise RequestError(
                "no_meter",
                f"the meter {self._source.name} sent no two samples within {_SILENT_AFTER_S:g} s",
                "it must send lines of seconds,volts,amperes",
            )
        return steps[len(steps) // 2]

    def _samples(self, chunk: bytes) -> Iterator[Optional[tuple[float, float]]]:
        """Yield time (s) and power (W) of every whole line; `None` for one that is no sample."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-_LONGEST_LINE:]
        for line in lines:
            text = line.strip()
            if text and not text.startswith(b"#"):
                yield parse(text)


def parse(line: bytes) -> Optional[tuple[float, float]]:
    """Return time (s) and power (W) of a line, or `None`; with semicolons a comma is a decimal point."""
    columns = line.replace(b",", b".").split(b";") if b";" in line else line.replace(b",", b" ").split()
    try:
        time_s, volts, amperes = (float(column) for column in columns[:3])
    except ValueError:
        return None
    return (time_s, volts * amperes) if isfinite(time_s) and isfinite(volts * amperes) else None
