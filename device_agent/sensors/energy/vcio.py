"""Asking a Raspberry Pi's firmware a text question: through /dev/vcio in this process, else by `vcgencmd`."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Optional

_TAG = 0x00030080  # get the result of a general command
_TEXT_BYTES = 1024  # as much as vcgencmd itself allows for
_HEADER = struct.Struct("=6I")  # size, request code, tag, bytes of the value, bytes of the answer, error
_IOCTL = 0xC0000000 | struct.calcsize("P") << 16 | 100 << 8  # _IOWR(100, 0, char *)
_SPAWN_TIMEOUT_S = 2.0


class Firmware:
    """Answers general commands such as "pmic_read_adc"; the device folder is injectable."""

    def __init__(self, dev: Path = Path("/dev")) -> None:
        self._device = dev / "vcio"

    @property
    def present(self) -> bool:
        """Say whether this board has such firmware."""
        return self._device.exists()

    def ask(self, command: str) -> Optional[str]:
        """Return the firmware's answer, or `None`. A spawned `vcgencmd` costs the board some milliseconds."""
        try:
            file = os.open(self._device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None  # vcgencmd would open the same file
        try:
            message = question(command)
            fcntl.ioctl(file, _IOCTL, message, True)
        except OSError:
            return _by_vcgencmd(command)
        finally:
            os.close(file)
        return answer(message)


def question(command: str) -> bytearray:
    """Return the mailbox message for a command: header, 1,024 bytes of text, end tag."""
    text = command.encode("ascii").ljust(_TEXT_BYTES, b"\0")
    size = _HEADER.size + _TEXT_BYTES + 4
    return bytearray(_HEADER.pack(size, 0, _TAG, _TEXT_BYTES, 0, 0) + text + bytes(4))


def answer(message: bytes | bytearray) -> Optional[str]:
    """Return the text of an answered mailbox message; `None` if the firmware reports an error."""
    error = _HEADER.unpack_from(message)[5]
    text = bytes(message[_HEADER.size : _HEADER.size + _TEXT_BYTES]).partition(b"\0")[0]
    return None if error else text.decode("ascii", "replace")


def _by_vcgencmd(command: str) -> Optional[str]:
    try:
        done = subprocess.run(
            ["vcgencmd", command], capture_output=True, text=True, timeout=_SPAWN_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
