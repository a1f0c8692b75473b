"""Finds, on this host, the packages that a board needs: the host's pip fetches them for the board's Python.

The board's agent itself needs none. A model runtime needs numpy and nothing else of what its package asks for (the
rest is for converting and training), and verifying signatures needs `cryptography` with cffi: so packages are named
here one by one, and what works is tried on the board before it is used.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from pipeline.device.provision.probe import BoardFacts
from pipeline.errors import InputError
from pipeline.files import sha256, storage_errors

RUNTIMES = ("onnxruntime", "tflite")
Notice = Callable[[str], None]

# ways to a runtime, the better ones first
_WAYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnxruntime": (("onnxruntime",),),
    "tflite": (("ai-edge-litert",), ("tflite-runtime",)),
}
_NUMPY, _OLD_NUMPY = "numpy", "numpy<2"  # tflite-runtime was built against the old one
_PIP_S = 900.0
_OLDEST_MANYLINUX = 17
_NONE_FITS = ("No matching distribution found", "Could not find a version")
_NO_NETWORK = ("Retrying (", "Connection", "Temporary failure in name resolution", "timed out")


@dataclass(frozen=True)
class Wheel:
    """One package's wheel on this host; `unpacked` are the bytes that it takes on the board."""

    name: str
    version: str
    path: Path
    sha256: str
    size: int
    unpacked: int


@dataclass(frozen=True)
class Selection:
    """The wheels for one board, the runtimes that they give it, and what is missing, in words."""

    wheels: tuple[Wheel, ...]
    runtimes: tuple[str, ...]
    verifies: bool
    notes: tuple[str, ...]


class _NoneFitsError(Exception):
    """There is no wheel of a package for this board."""


def select(
    board: BoardFacts,
    runtimes: Sequence[str] = (),
    folder: Path | None = None,
    notice: Notice = lambda _: None,
) -> Selection:
    """Find the wheels for a board.

    Args:
        board: what it is.
        runtimes: those that it must get; none: all that there are for it.
        folder: has wheels, and nothing is fetched from elsewhere.
        notice: is told which package is looked for.

    Raises:
        InputError: there is none of a runtime that was asked for, or no runtime at all; pip fails.
        StorageError: the cache cannot be written.
    """
    source = _Source(board, folder, notice)
    found, notes = {}, []
    for runtime in runtimes or RUNTIMES:
        try:
            found[runtime] = _first_way(source, runtime, board)
        except _NoneFitsError as error:
            if runtimes:
                raise InputError(
                    f"there is no {runtime} for this board ({board}): {error}",
                    hint="`--runtime` names another one; the profile and the deploy must use the same",
                ) from error
            notes.append(f"no {runtime}: {error}")
    if not found:
        raise InputError(f"there is no runtime for this board ({board}): {'; '.join(notes)}")
    chosen = {wheel.name: wheel for wheels in found.values() for wheel in wheels}
    chosen |= _numpy(source, chosen)
    try:
        chosen |= {wheel.name: wheel for wheel in _signatures(source, board)}
        verifies = True
    except _NoneFitsError as error:
        verifies = False
        notes.append(
            f"signatures cannot be verified, so every bundle is refused: {error}; "
            "install python3-cryptography on the board"
        )
    wheels = tuple(sorted(chosen.values(), key=lambda wheel: wheel.name))
    return Selection(wheels, tuple(found), verifies, tuple(notes))


def _first_way(source: _Source, runtime: str, board: BoardFacts) -> list[Wheel]:
    """Return the wheels of the best way to a runtime, without numpy."""
    reasons = []
    for way in _WAYS[runtime]:
        try:
            wheels = [source.find(name) for name in way]
            _require_numpy(source, board, old="tflite-runtime" in way)
        except _NoneFitsError as error:
            reasons.append(str(error))
        else:
            return wheels
    raise _NoneFitsError("; ".join(reasons))


def _require_numpy(source: _Source, board: BoardFacts, *, old: bool) -> None:
    """Raise unless there is a numpy that the runtime works with, in a wheel or on the board."""
    try:
        source.find(_OLD_NUMPY if old else _NUMPY)
    except _NoneFitsError as error:
        if not board.numpy:
            raise _NoneFitsError(f"{error}, and the board has no python3-numpy (install it there)") from error
        if old and not board.numpy.startswith("1."):
            raise _NoneFitsError(f"tflite-runtime needs numpy 1, the board has {board.numpy}") from error


def _numpy(source: _Source, chosen: dict[str, Wheel]) -> dict[str, Wheel]:
    """Return the one numpy that all chosen runtimes work with; none where the board's own is taken."""
    try:
        return {"numpy": source.find(_OLD_NUMPY if "tflite-runtime" in chosen else _NUMPY)}
    except _NoneFitsError:
        return {}


def _signatures(source: _Source, board: BoardFacts) -> list[Wheel]:
    """Return the wheels by which signatures are verified; none where the board's own packages do it."""
    try:
        return [source.find("cryptography"), source.find("cffi")]
    except _NoneFitsError:
        if board.cryptography:
            return []
        if board.cffi:
            return [source.find("cryptography")]
        raise


class _Source:
    """Wheels for one board; each package is looked for once."""

    def __init__(self, board: BoardFacts, folder: Path | None, notice: Notice) -> None:
        self._board = board
        self._folder = folder
        self._notice = notice
        self._tag = (
            f"cp{board.version[0]}{board.version[1]}-{board.arch}-glibc{board.glibc[0]}.{board.glibc[1]}"
        )
        self._cache = platformdirs.user_cache_path("pipeline") / "wheels" / self._tag
        self._found: dict[str, Wheel | _NoneFitsError] = {}

    def find(self, requirement: str) -> Wheel:
        """Return the newest wheel that fits the board.

        Raises:
            _NoneFitsError: there is none.
            InputError: pip fails for another reason.
        """
        if requirement not in self._found:
            self._notice(f"looking for {requirement} for {self._tag}")
            try:
                self._found[requirement] = self._fetch(requirement)
            except _NoneFitsError as error:
                self._found[requirement] = error
        found = self._found[requirement]
        if isinstance(found, _NoneFitsError):
            raise found
        return found

    def _fetch(self, requirement: str) -> Wheel:
        place = self._cache / requirement.replace("<", "-before-")
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        if self._folder is not None:
            return self._pip(requirement, place, ["--no-index", "--find-links", str(self._folder)])
        try:
            return self._pip(requirement, place, [])
        except _OfflineError as error:
            try:
                wheel = self._pip(requirement, place, ["--no-index", "--find-links", str(place)])
            except _NoneFitsError:
                raise InputError(
                    f"{requirement} for {self._tag} cannot be fetched: {error}",
                    hint="`--wheels DIR` takes the wheels from a folder",
                ) from error
            self._notice(f"the package index is not reached; {wheel.path.name} was fetched before")
            return wheel

    def _pip(self, requirement: str, place: Path, options: list[str]) -> Wheel:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(place), *options, *self._target(), requirement]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PIP_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"pip does not work on this host: {error}") from error
        words = f"{done.stdout}\n{done.stderr}"
        if done.returncode == 0:
            return _read(_saved(words, place))
        if "No module named pip" in words:
            raise InputError(
                f"the Python of this host has no pip: {sys.executable}",
                hint="python -m ensurepip; or `--wheels DIR`",
            )
        if not options and any(sign in words for sign in _NO_NETWORK):
            raise _OfflineError(_last_line(done.stderr))
        if any(sign in words for sign in _NONE_FITS):
            raise _NoneFitsError(f"no package {requirement} fits {self._tag}")
        raise InputError(f"pip could not fetch {requirement} for {self._tag}: {_last_line(done.stderr)}")

    def _target(self) -> list[str]:
        """Return pip's options for the board's Python and for all C libraries up to the board's."""
        board = self._board
        version = f"{board.version[0]}.{board.version[1]}"
        options = ["--python-version", version, "--implementation", "cp"]
        for abi in (f"cp{board.version[0]}{board.version[1]}", "abi3", "none"):
            options += ["--abi", abi]
        newest = board.glibc[1] if board.glibc[0] == 2 else 99
        for minor in range(newest, _OLDEST_MANYLINUX - 1, -1):
            options += ["--platform", f"manylinux_2_{minor}_{board.arch}"]
        # not linux_*: such wheels leave out libraries that only the system which built them is sure to have
        return [*options, "--platform", f"manylinux2014_{board.arch}"]


class _OfflineError(Exception):
    """The package index could not be reached."""


def _saved(words: str, place: Path) -> Path:
    """Return the wheel that pip says it saved, or found there already."""
    for line in words.splitlines():
        for sign in ("Saved ", "File was already downloaded "):
            if sign in line:
                return place / Path(line.partition(sign)[2].strip()).name
    raise InputError(f"pip does not say where it put the wheel: {words[-300:]}")


def _read(path: Path) -> Wheel:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        name, version = path.name.split("-")[:2]
        return Wheel(
            name.lower().replace("_", "-"), version, path, sha256(path), path.stat().st_size, unpacked
        )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no wheel: {error}", hint="remove it") from error


def _last_line(words: str) -> str:
    lines = [
        line for line in words.strip().splitlines() if line.startswith("ERROR")
    ] or words.strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
