"""A meter at the other end of a FIFO, a serial line or a growing file, that can be made to misbehave."""

from __future__ import annotations

import os
import threading
import time

EPOCH_S = 1000.0  # what the meter's clock is ahead of ours


class MeterStream:
    """Sends "seconds,volts,amperes" lines a hundred times a second on a thread until the block ends."""

    def __init__(self, file: int, line: str = "{time:.6f},{volts},{amperes}\n", power_w: float = 2.5) -> None:
        self.file = file
        self.line = line
        self.power_w = power_w
        self.silent = threading.Event()
        self.shift_s = 0.0
        self.sent: list[float] = []  # our clock
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MeterStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def send(self, text: str) -> None:
        os.write(self.file, text.encode())

    def _run(self) -> None:
        while not self._end.wait(0.01):
            if self.silent.is_set():
                continue
            now_s = time.monotonic()
            self.sent.append(now_s)
            meter_s = now_s + EPOCH_S + self.shift_s
            self.send(self.line.format(time=meter_s, volts=5.0, amperes=self.power_w / 5))
