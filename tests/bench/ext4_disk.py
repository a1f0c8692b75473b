"""A small real ext4 file system in a file, whose power can be cut; needs root, loop devices and mkfs.ext4."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import BinaryIO

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSHING = 2
_MEGABYTES = 24


class Ext4:
    """One file system; a context manager that mounts it at `place` below `folder`.

    Args:
        folder: for the image and the mount point.
    """

    def __init__(self, folder: Path) -> None:
        self._image = folder / "ext4.img"
        self.place = folder / "mounted"
        self.place.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def is_possible() -> bool:
        """Say whether this machine lets us mount one."""
        return (
            os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None and Path("/dev/loop-control").exists()
        )

    def __enter__(self) -> Ext4:
        self._image.unlink(missing_ok=True)
        with self._image.open("wb") as stream:
            stream.truncate(_MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)], check=True)
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def cut_power(self) -> None:
        """Stop at once: what was not written by now, the file system's own journal included, is lost."""
        descriptor = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        os.close(descriptor)

    def come_back(self) -> None:
        """Mount what a power cut left, as the next start of the board does."""
        self._unmount()
        self._mount()

    def write_back(self) -> None:
        """Have everything written that the kernel still holds, as it does by itself every few seconds."""
        descriptor = os.open(self.place, os.O_RDONLY)
        ctypes.CDLL(None).syncfs(descriptor)
        os.close(descriptor)

    def fill(self) -> None:
        """Leave no free block."""
        self.write_back()
        with (self.place / "filler").open("wb", buffering=0) as stream:
            for size in (1 << 20, 4096, 1):
                _write_until_full(stream, size)
        self.write_back()

    def empty(self) -> None:
        """Give back what `fill` took."""
        (self.place / "filler").unlink()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.place)], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)


def _write_until_full(stream: BinaryIO, size: int) -> None:
    while True:
        try:
            stream.write(bytes(size))
        except OSError:
            return
