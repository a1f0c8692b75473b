"""The journalled update: stage → verify → check → activate → commit | roll back.

Layout of the state folder, beside the blobs:

    bundles/<digest>/                   manifest.json and its files, hard links to blobs
    generations/N/{current,previous}    symbolic links to bundles
    active → generations/N              flipped in one rename, so current and previous change together
    journal.json                        the state, written down before it is acted on

Whoever is killed between any two steps finds, on the next opening, either the old generation whole or the new
one whole: an activation that was not committed is rolled back, a half-made bundle is dropped.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from device_agent import manifest
from device_agent.durable import point, remove_tree, sync_folder, write_json
from device_agent.errors import RequestError
from device_agent.store import FileStore, digest_of

_UNCOMMITTED = ("activating", "activated", "rolling back")


@dataclass(frozen=True)
class Journal:
    """What is written down: the state, the bundle it is about, and the generation to fall back to.

    States: idle, staging, staged, checked, activating, activated, committed, rolling back.
    """

    state: str = "idle"
    bundle: Optional[str] = None
    generation: Optional[int] = None
    from_generation: Optional[int] = None


@dataclass(frozen=True)
class UpdateStatus:
    """The update's state, the active generation and the digests of its two bundles."""

    state: str
    generation: Optional[int]
    current: Optional[str]
    previous: Optional[str]


def read_status(folder: Path) -> UpdateStatus:
    """Read the update's status without changing anything (no lock is needed for it)."""
    generation = _active_generation(folder)
    return UpdateStatus(
        _read_journal(folder).state,
        generation,
        _linked_bundle(folder, generation, "current"),
        _linked_bundle(folder, generation, "previous"),
    )


class Updater:
    """The update of one state folder; its methods take turns. Opening it ends what a crash left undone."""

    def __init__(self, folder: Path, store: FileStore) -> None:
        self._folder = folder
        self._store = store
        self._turn = threading.Lock()
        for part in ("bundles", "generations"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self._journal = _read_journal(folder)
        self._recover()

    def status(self) -> UpdateStatus:
        """Return state, generation, current and previous bundle."""
        return read_status(self._folder)

    def bundle_folder(self, bundle: str) -> Path:
        """Return the folder of a bundle on the board, or raise `not_staged`."""
        folder = self._folder / "bundles" / bundle
        if not folder.is_dir():
            raise RequestError("not_staged", f"bundle {bundle} is not on the board", "stage it first")
        return folder

    def stage(self, digest: str) -> str:
        """Gather and verify a bundle whose files were all uploaded; an active generation stays as it is.

        Raises:
            RequestError: `unknown_file` (no such manifest), `bad_manifest`, `missing_files`, `bad_digest`.
        """
        with self._turn:
            self._end_activation()
            contents = manifest.parse(_read_small(self._store.path(digest)))
            absent = [name for name, file in contents.files.items() if not self._store.has(file.sha256)]
            if absent:
                raise RequestError("missing_files", f"not on the board yet: {', '.join(sorted(absent))}")
            self._write("staging", bundle=digest)
            try:
                self._gather(digest, contents)
            except (RequestError, OSError):
                self._write("idle")
                raise
            self._write("staged", bundle=digest)
            return digest

    def mark_checked(self, bundle: str, *, ok: bool) -> None:
        """Write down how the check of the staged bundle ended; only a good end allows activation."""
        with self._turn:
            if self._journal.state in ("staged", "checked") and self._journal.bundle == bundle:
                self._write("checked" if ok else "staged", bundle=bundle)

    def activate(self, bundle: str) -> int:
        """Flip `active` to a new generation with this bundle as current, to be committed or rolled back.

        Raises:
            RequestError: `not_checked`.
        """
        with self._turn:
            if self._journal != Journal("checked", bundle):
                raise RequestError(
                    "not_checked",
                    f"bundle {bundle} is not a staged bundle whose check passed",
                    "bundle.stage, then bundle.check",
                )
            status = self.status()
            previous = status.previous if status.current == bundle else status.current
            return self._flip(bundle, previous)

    def commit(self, bundle: str) -> int:
        """Make an activation final; saying it twice does no harm.

        Raises:
            RequestError: `not_activated`.
        """
        with self._turn:
            journal = self._journal
            if journal.bundle != bundle or journal.state not in ("activated", "committed"):
                raise RequestError("not_activated", f"bundle {bundle} is not the activated one")
            assert journal.generation is not None  # noqa: S101 - written with every activation
            if journal.state == "activated":
                self._write("committed", bundle=bundle, generation=journal.generation)
                self._tidy()
            return journal.generation

    def roll_back(self, *, to_previous: bool = False) -> Optional[str]:
        """Undo what is under way and return the digest of the bundle that is current then.

        An uncommitted activation is flipped back, a bundle that is only staged is let go. When nothing is
        under way, nothing happens, unless `to_previous` asks for it: then the previous bundle becomes current
        again, as a committed generation of its own.

        Raises:
            RequestError: `no_previous`.
        """
        with self._turn:
            if self._journal.state in _UNCOMMITTED:
                self._undo_activation()
            elif self._journal.state in ("staging", "staged", "checked"):
                self._write("idle")
                self._tidy()
            elif to_previous:
                self._return_to_previous()
            return self.status().current

    def files_in_use(self) -> set[str]:
        """Return the digests of all files of the current, previous and staged bundles, manifests included."""
        with self._turn:
            used = set()
            for bundle in self._bundles_in_use():
                contents = manifest.parse(_read_small(self._folder / "bundles" / bundle / "manifest.json"))
                used |= {bundle, *(file.sha256 for file in contents.files.values())}
            return used

    def _recover(self) -> None:
        if self._journal.state in _UNCOMMITTED:
            self._undo_activation()
        elif self._journal.state == "staging":
            self._write("idle")
        self._tidy()

    def _end_activation(self) -> None:
        if self._journal.state in _UNCOMMITTED:
            raise RequestError(
                "bad_request",
                f"the activation of {self._journal.bundle} is neither committed nor rolled back",
                "bundle.commit or bundle.rollback first",
            )

    def _gather(self, digest: str, contents: manifest.Manifest) -> None:
        """Make `bundles/<digest>` from verified files: complete under a temporary name, then renamed."""
        final = self._folder / "bundles" / digest
        partial = self._folder / "bundles" / f".{digest}.new"
        remove_tree(partial)
        partial.mkdir()
        parts = {"manifest.json": digest, **{name: file.sha256 for name, file in contents.files.items()}}
        for name, sha256 in parts.items():
            _link_or_copy(self._store.path(sha256), partial / name)
            self._verify(partial / name, sha256, contents)
        sync_folder(partial)
        if self._is_active(digest):
            remove_tree(partial)
        else:
            remove_tree(final)
            os.replace(partial, final)  # noqa: PTH105
        sync_folder(final.parent)

    @staticmethod
    def _verify(path: Path, sha256: str, contents: manifest.Manifest) -> None:
        named = contents.files.get(path.name)
        if named is not None and path.stat().st_size != named.size:
            raise RequestError(
                "bad_manifest", f"{path.name} is to have {named.size} bytes and has another size"
            )
        if digest_of(path) != sha256:
            raise RequestError(
                "bad_digest", f"{path.name} is not what was sent; the board's disk may be failing"
            )

    def _is_active(self, digest: str) -> bool:
        status = self.status()
        return digest in (status.current, status.previous)

    def _flip(self, bundle: str, previous: Optional[str]) -> int:
        """Write down, build the generation, point `active` at it, write down."""
        origin = _active_generation(self._folder)
        generation = (origin or 0) + 1
        self._write("activating", bundle=bundle, generation=generation, from_generation=origin)
        folder = self._folder / "generations" / str(generation)
        remove_tree(folder)
        folder.mkdir()
        point(folder / "current", f"../../bundles/{bundle}")
        if previous is not None:
            point(folder / "previous", f"../../bundles/{previous}")
        sync_folder(folder.parent)
        point(self._folder / "active", f"generations/{generation}")
        self._write("activated", bundle=bundle, generation=generation, from_generation=origin)
        return generation

    def _undo_activation(self) -> None:
        journal = self._journal
        origin = journal.from_generation
        self._write("rolling back", journal.bundle, journal.generation, origin)
        point(self._folder / "active", None if origin is None else f"generations/{origin}")
        self._write("idle", generation=origin)
        self._tidy()

    def _return_to_previous(self) -> None:
        status = self.status()
        if status.previous is None:
            raise RequestError("no_previous", "there is no earlier bundle to go back to")
        generation = self._flip(status.previous, status.current)
        self._write("committed", bundle=status.previous, generation=generation)
        self._tidy()

    def _bundles_in_use(self) -> set[str]:
        status = self.status()
        named = {status.current, status.previous, self._journal.bundle}
        return {bundle for bundle in named if bundle and (self._folder / "bundles" / bundle).is_dir()}

    def _tidy(self) -> None:
        """Remove what no state refers to any more: other generations, other bundles, half-made ones."""
        generation = str(_active_generation(self._folder))
        for folder in (self._folder / "generations").iterdir():
            if folder.name != generation:
                remove_tree(folder)
        used = self._bundles_in_use()
        for folder in (self._folder / "bundles").iterdir():
            if folder.name not in used:
                remove_tree(folder)

    def _write(
        self,
        state: str,
        bundle: Optional[str] = None,
        generation: Optional[int] = None,
        from_generation: Optional[int] = None,
    ) -> None:
        journal = Journal(state, bundle, generation, from_generation)
        write_json(self._folder / "journal.json", asdict(journal))
        self._journal = journal


def _read_journal(folder: Path) -> Journal:
    path = folder / "journal.json"
    if not path.is_file():
        return Journal()
    try:
        return Journal(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RequestError(
            "storage", f"{path} is damaged: {error}", "remove that file; the active bundle stays as it is"
        ) from error


def _active_generation(folder: Path) -> Optional[int]:
    try:
        return int(Path(os.readlink(folder / "active")).name)  # noqa: PTH115
    except (FileNotFoundError, ValueError):
        return None


def _linked_bundle(folder: Path, generation: Optional[int], which: str) -> Optional[str]:
    try:
        return Path(os.readlink(folder / "generations" / str(generation) / which)).name  # noqa: PTH115
    except FileNotFoundError:
        return None


def _read_small(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(manifest.MAX_BYTES + 1)


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link, or copy durably on a file system without hard links."""
    try:
        os.link(source, target)
    except PermissionError:
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
