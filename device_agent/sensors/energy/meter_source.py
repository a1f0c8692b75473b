"""Where a meter's bytes come from: stdin, a FIFO, a growing file or a serial port."""

from __future__ import annotations

import os
import select
import stat
import termios
import tty
from time import sleep

from device_agent.errors import RequestError

_SERIAL = "serial:"
_USUAL_BAUD = "115200"
_FILE_TAIL_BYTES = 65536  # of a file that has grown already only the end can be about now
_CHUNK_BYTES = 65536


class MeterSource:
    """An open stream of bytes that is never waited for longer than asked."""

    def __init__(self, name: str) -> None:
        """Open it.

        Raises:
            RequestError: `no_meter` if it cannot be opened or has no such speed.
        """
        port, _, baud = name[len(_SERIAL) :].partition("@") if name.startswith(_SERIAL) else (name, "", "")
        self.name = "stdin" if name == "-" else port
        try:
            self._file = 0 if name == "-" else os.open(port, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise self._unusable(str(error)) from error
        try:
            if os.isatty(self._file):
                _make_raw(self._file, baud or _USUAL_BAUD)
            if stat.S_ISREG(os.fstat(self._file).st_mode):
                _skip_to_tail(self._file)
        except (OSError, termios.error) as error:
            self.close()
            raise self._unusable(str(error)) from error

    def take(self, longest_s: float) -> bytes:
        """Return what has come, waiting up to `longest_s` if nothing has; empty if nothing came or it ended."""
        if not select.select([self._file], [], [], longest_s)[0]:
            return b""
        try:
            chunk = os.read(self._file, _CHUNK_BYTES)
        except OSError:  # a serial port that was pulled out, a FIFO between two writers
            chunk = b""
        if not chunk and longest_s:
            sleep(min(longest_s, 0.005))  # at its end a file or a FIFO is always ready
        return chunk

    def close(self) -> None:
        """Close it."""
        if self._file:
            os.close(self._file)

    def _unusable(self, reason: str) -> RequestError:
        return RequestError(
            "no_meter",
            f"the meter {self.name} cannot be opened: {reason}",
            "name a FIFO, a file, or a serial port as serial:/dev/ttyUSB0@115200, that the agent's user may read",
        )


def _skip_to_tail(file: int) -> None:
    size = os.fstat(file).st_size
    if size > _FILE_TAIL_BYTES:
        os.lseek(file, size - _FILE_TAIL_BYTES, os.SEEK_SET)
        rest = os.read(file, _FILE_TAIL_BYTES).partition(b"\n")[2]
        os.lseek(file, size - len(rest), os.SEEK_SET)


def _make_raw(file: int, baud: str) -> None:
    """Turn off all that a terminal does to bytes, and set the speed."""
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise OSError(f"a serial port has no speed of {baud} baud")
    tty.setraw(file, termios.TCSANOW)
    attributes = termios.tcgetattr(file)
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(file, termios.TCSANOW, attributes)
