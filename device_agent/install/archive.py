"""Unpacks zip files that were made elsewhere: nothing of them may land outside the folder it is unpacked to."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from device_agent.durable import make_folder, remove_tree, sync_folder
from device_agent.errors import RequestError
from device_agent.updates.store import RESERVE_BYTES, free_bytes

_MOST_ENTRIES = 50_000
_MERGED = ("purelib", "platlib")  # of a wheel's .data folder; the rest (scripts, headers) is of no use here


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel or a package; the folder has its name only when it is whole and durable.

    Raises:
        RequestError: `bad_input` for a zip file that is damaged, or has an entry that leads out of the folder;
            `disk_full`.
        OSError: the disk cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.new")
    remove_tree(partial)
    make_folder(partial, 0o755)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = list(_entries(opened, archive.name))
            _require_room(partial, sum(entry.file_size for entry, _ in entries))
            for entry, place in entries:
                _write(opened, entry, partial / place)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        remove_tree(partial)
        raise RequestError("bad_input", f"{folder.name} cannot be unpacked: {error}") from error
    except (OSError, RequestError):
        remove_tree(partial)
        raise
    settle(partial, folder)


def settle(partial: Path, folder: Path) -> None:
    """Make a folder's content durable and give it its name.

    One sync of all disks takes a second where one of each of a thousand files would take a minute on an SD card.
    """
    os.sync()
    os.replace(partial, folder)  # noqa: PTH105
    sync_folder(folder.parent)


def _entries(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yield the files of an archive and where each belongs."""
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise RequestError("bad_input", f"{name} has more than {_MOST_ENTRIES} entries")
    seen = set()
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        parts = entry.filename.rstrip("/").split("/")
        hostile = (
            not all(parts) or {".", ".."} & set(parts) or "\\" in entry.filename or "\0" in entry.filename
        )
        if hostile or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise RequestError("bad_input", f"{name} has an entry {entry.filename[:100]!r}, which is refused")
        if entry.is_dir():
            continue
        if parts[0].endswith(".data"):
            if len(parts) < 3 or parts[1] not in _MERGED:
                continue
            parts = parts[2:]
        place = "/".join(parts)
        if place in seen:
            raise RequestError("bad_input", f"{name} has {place[:100]!r} twice")
        seen.add(place)
        yield entry, place


def _require_room(folder: Path, wanted: int) -> None:
    free = free_bytes(folder)
    if wanted + RESERVE_BYTES > free:
        raise RequestError(
            "disk_full",
            f"{wanted // 1_000_000} MB are to be unpacked to {folder.parent}, {free // 1_000_000} MB are free",
            "free some space on the board",
        )


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("xb") as sink:
        shutil.copyfileobj(source, sink, 256 * 1024)
    path.chmod(0o755 if entry.external_attr >> 16 & 0o111 else 0o644)
