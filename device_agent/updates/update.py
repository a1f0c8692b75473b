"""The journalled update: stage → verify → check → activate → (confirm) → commit | roll back.

Layout of an update's folder (the state folder itself for models, `agent/` in it for the agent's own code):

    bundles/<digest>/                   manifest.json and its files, hard links to blobs
    generations/N/{current,previous}    symbolic links to bundles
    active → generations/N              flipped in one rename, so current and previous change together
    journal.json                        the state, written down before it is acted on

Whoever is killed between any two steps finds, on the next opening, either the old generation whole or the new
one whole: an activation that was not committed is rolled back, a half-made bundle is dropped. Opening never
fails for want of space or for a failing disk: the fault is kept, told in the status, and tried again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from device_agent import durable
from device_agent.durable import make_folder
from device_agent.errors import RequestError
from device_agent.updates import admission, generations, manifest, staging
from device_agent.updates import journal as journals
from device_agent.updates.journal import Journal
from device_agent.updates.store import FileStore

MOST_CRASHES = 3
_UNCOMMITTED = ("activating", "activated", "rolling back")
_STAGED = ("staging", "staged", "checking", "checked")


class UpdateStatus(NamedTuple):
    """The update's state, the active generation and the digests of its two bundles.

    `staged` is the bundle that is staged, checked or about to be. `sequence` is the highest that was activated here;
    `bad` says why bundles must not be activated; `last` is what the agent did last of its own accord, `fault` what
    keeps it from ending what was left undone.
    """

    state: str
    generation: Optional[int]
    current: Optional[str]
    previous: Optional[str]
    waits_for_confirmation: bool
    sequence: int
    bad: dict[str, str]
    last: str
    fault: Optional[str]
    staged: Optional[str]


def read_status(folder: Path, fault: Optional[str] = None) -> UpdateStatus:
    """Read the update's status without changing anything (no lock is needed for it)."""
    generation = generations.active(folder)
    try:
        journal = journals.read(folder)
    except RequestError as error:
        journal, fault = Journal("damaged"), error.message
    return UpdateStatus(
        journal.state,
        generation,
        generations.linked(folder, generation, "current"),
        generations.linked(folder, generation, "previous"),
        journal.state == "activated" and journal.confirm,
        journal.sequence,
        dict(journal.bad),
        journal.last,
        fault,
        journal.bundle if journal.state in _STAGED else None,
    )


class Updater:
    """One update's folder; its methods take turns. Opening it ends what a crash left undone.

    Args:
        folder: the update's folder.
        store: where uploaded files are.
        kind: of the bundles, "model" or "agent".
        starts: how many starts of the board's agent an uncommitted activation outlives; none for models.
        recover: whether this opening ends what was left undone.
    """

    def __init__(
        self, folder: Path, store: FileStore, kind: str = "model", starts: int = 0, *, recover: bool = True
    ) -> None:
        self._folder = folder
        self._store = store
        self._kind = kind
        self._starts = starts
        self._turn = threading.RLock()
        for part in (folder, folder / "bundles", folder / "generations"):
            make_folder(part, 0o755)  # for the application to read
        self._journal = Journal()
        self._undone = recover
        self.fault: Optional[str] = None
        self._unread = True
        with contextlib.suppress(RequestError, OSError), self._acting():
            pass

    def status(self) -> UpdateStatus:
        """Return state, generation, current and previous bundle."""
        return read_status(self._folder, self.fault)

    def folder_of(self, bundle: str) -> Path:
        """Return the folder of a bundle on the board, or raise `not_staged`."""
        folder = self.bundle_folder(bundle)
        if not folder.is_dir():
            raise RequestError("not_staged", f"bundle {bundle} is not on the board", "stage it first")
        return folder

    def bundle_folder(self, bundle: str) -> Path:
        """Return where a bundle lies if it is on the board."""
        return self._folder / "bundles" / bundle

    def contents(self, bundle: str) -> manifest.Manifest:
        """Return the manifest of a bundle on the board."""
        return manifest.parse(staging.read_manifest(self.folder_of(bundle) / manifest.FILE))

    # --- stage and check --------------------------------------------------------------------------------------

    def stage(
        self, digest: str, signatures: Sequence[Any] = (), *, allow_downgrade: bool = False
    ) -> manifest.Manifest:
        """Gather and verify a bundle whose files were all uploaded; an active generation stays as it is.

        Raises:
            RequestError: `unknown_file` (no such manifest), `bad_manifest`, `bundle_bad`, `older_refused`,
                `missing_files`, `bad_digest`.
        """
        with self._acting():
            self._require_no_activation()
            contents = staging.stored_manifest(self._store, digest)
            admission.require_kind(contents, self._kind)
            admission.require_good(self._journal, digest)
            if not allow_downgrade:
                admission.require_newer(self._journal, digest, contents.sequence)
            absent = [name for name, file in contents.files.items() if not self._store.has(file.sha256)]
            if absent:
                raise RequestError(
                    "missing_files", f"not on the board yet: {', '.join(sorted(absent))[:500]}"
                )
            self._write("staging", bundle=digest)
            try:
                staging.gather(
                    self._folder, self._store, digest, contents, signatures, self._is_active(digest)
                )
            except (RequestError, OSError):
                self._retreat()
                raise
            self._write("staged", bundle=digest)
            return contents

    def begin_check(self, bundle: str) -> manifest.Manifest:
        """Write down that a check begins, counted as a crash until it ends; returns the bundle's manifest.

        Raises:
            RequestError: `not_staged`, `bundle_bad`.
        """
        with self._acting():
            if self._journal.state not in ("staged", "checking", "checked") or self._journal.bundle != bundle:
                raise RequestError("not_staged", f"bundle {bundle} is not the staged one", "stage it first")
            admission.require_good(self._journal, bundle)
            crashes = {**self._journal.crashes, bundle: self._journal.crashes.get(bundle, 0) + 1}
            self._write("checking", bundle=bundle, crashes=crashes)
            return self.contents(bundle)

    def end_check(self, bundle: str, *, ok: bool) -> None:
        """Write down how the check of the staged bundle ended; only a good end allows activation."""
        with self._acting():
            if self._journal.state == "checking" and self._journal.bundle == bundle:
                crashes = {name: count for name, count in self._journal.crashes.items() if name != bundle}
                self._write("checked" if ok else "staged", bundle=bundle, crashes=crashes)

    def fail_check(self, bundle: str, why: str) -> None:
        """Write down that the checker did not outlive the bundle; after `MOST_CRASHES` of these it is bad."""
        with self._acting():
            if self._journal.state == "checking" and self._journal.bundle == bundle:
                self._end_crashed_check(bundle, why)

    # --- activate and what follows ----------------------------------------------------------------------------

    def activate(self, bundle: str, *, confirm: bool = False) -> int:
        """Flip `active` to a new generation with this bundle as current, to be committed or rolled back.

        Args:
            bundle: its digest.
            confirm: only the application's confirmation may commit it.

        Raises:
            RequestError: `not_checked`.
        """
        with self._acting():
            if (self._journal.state, self._journal.bundle) != ("checked", bundle):
                raise RequestError(
                    "not_checked",
                    f"bundle {bundle} is not a staged bundle whose check passed",
                    "bundle.stage, then bundle.check",
                )
            self._require_whole(bundle)
            admission.require_good(self._journal, bundle)
            status = self.status()
            previous = status.previous if status.current == bundle else status.current
            return self._flip(bundle, previous, confirm)

    def commit(self, bundle: str, *, confirmed: bool = False) -> int:
        """Make an activation final; saying it twice does no harm.

        Raises:
            RequestError: `not_activated`, `not_confirmed` (the application has the last word).
        """
        with self._acting():
            journal = self._journal
            if journal.bundle != bundle or journal.state not in ("activated", "committed"):
                raise RequestError("not_activated", f"bundle {bundle} is not the activated one")
            assert journal.generation is not None  # noqa: S101 - written with every activation
            if journal.state == "activated":
                if journal.confirm and not confirmed:
                    raise RequestError(
                        "not_confirmed",
                        "the activation waits for the application's confirmation",
                        "bundle.confirm",
                    )
                admission.require_good(self._journal, bundle)
                self._write("committed", bundle=bundle, generation=journal.generation)
                self._tidy()
            return journal.generation

    def roll_back(self, *, to_previous: bool = False, why: str = "") -> Optional[str]:
        """Undo what is under way and return the digest of the bundle that is current then.

        An uncommitted activation is flipped back, a bundle that is only staged is let go. When nothing is
        under way, nothing happens, unless `to_previous` asks for it: then the previous bundle becomes current
        again, as a committed generation of its own.

        Raises:
            RequestError: `no_previous`, `bundle_bad` (the previous one).
        """
        with self._acting():
            if self._journal.state in _UNCOMMITTED:
                self._undo_activation(why)
                self._leave_bad("went back: the bundle before was marked bad")
            elif self._journal.state in _STAGED:
                self._write("idle")
                self._tidy()
            elif to_previous:
                self._return_to_previous()
            return self.status().current

    def expire(self, generation: int, seconds: float) -> None:
        """Take back an activation that the application did not confirm in time."""
        with self._acting():
            journal = self._journal
            if journal.state == "activated" and journal.generation == generation and journal.confirm:
                self._undo_activation(f"rolled back: the application did not confirm within {seconds:g} s")
                self._leave_bad("went back: the bundle before was marked bad")

    def mark_bad(self, bundle: str, why: str) -> Optional[str]:
        """Never activate this bundle again; if it is the current one, go back. Returns the current bundle.

        A bad bundle with nothing whole and good to go back to stays, and the status says so.
        """
        with self._acting():
            self._condemn(bundle, why)
            return self.status().current

    def forgive(self, bundle: str) -> None:
        """Take back that a bundle is bad."""
        with self._acting():
            bad = {name: why for name, why in self._journal.bad.items() if name != bundle}
            crashes = {name: count for name, count in self._journal.crashes.items() if name != bundle}
            self._write_again(bad=bad, crashes=crashes)

    def audit(self) -> Optional[str]:
        """Read every byte of the current bundle again; go back if the disk spoiled it. Returns what was done."""
        current = self.status().current
        if current is None:
            return None
        spoiled = staging.spoiled_files(self._folder / "bundles" / current)
        if not spoiled:
            return None
        why = f"spoiled on the disk: {', '.join(spoiled)[:200]}"
        with self._acting():
            for sha256 in spoiled.values():
                with contextlib.suppress(OSError):
                    self._store.drop(sha256)
            uncommitted = self._journal.state in _UNCOMMITTED
            if self.status().current != current or uncommitted or self._refuge() is None:
                self._write_again(last=f"the current bundle is {why}; there is no whole one to go back to")
            else:
                self._return_to_previous(f"went back to the previous bundle; this one was {why}", keep=False)
            return self._journal.last

    def files_in_use(self) -> set[str]:
        """Return the digests of all files of the current, previous and staged bundles, manifests included.

        It takes no turn: the store asks while it holds its own lock, which whoever has the turn may wait for.
        """
        used = self._bundles_in_use()
        for bundle in list(used):
            with contextlib.suppress(RequestError, OSError):  # spoiled, or let go this moment
                used |= {file.sha256 for file in self.contents(bundle).files.values()}
        return used

    # --- how ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        """Take the turn, first ending what a crash or a full disk left undone."""
        with self._turn:
            if self._unread:
                self._journal = journals.read(self._folder)
                self._unread = False
            if self._undone:
                try:
                    self._recover()
                except OSError as error:
                    self.fault = f"the last update could not be ended: {error}"
                    raise
                self._undone, self.fault = False, None
            yield

    def _recover(self) -> None:
        journal = self._journal
        durable.keep_reserve(self._folder)
        if journal.state == "activated" and journal.starts < self._starts:
            self._write_again(starts=journal.starts + 1)
        elif journal.state in _UNCOMMITTED:
            self._undo_activation("rolled back: the agent ended before the activation was committed")
        elif journal.state == "staging":
            self._retreat()
        elif journal.state == "checking" and journal.bundle:
            self._end_crashed_check(journal.bundle, "the agent or the board went down while it was checked")
        self._leave_bad("went back: the current bundle was marked bad")
        self._tidy()

    def _end_crashed_check(self, bundle: str, why: str) -> None:
        """Let the bundle be checked once more, or never again."""
        count = self._journal.crashes.get(bundle, 0)
        if count >= MOST_CRASHES:
            self._condemn(bundle, f"its check failed {count} times; the last time: {why}")
        else:
            self._write("staged", bundle=bundle)

    def _condemn(self, bundle: str, why: str) -> None:
        """Write down that a bundle is bad and leave it; a staged one in one step, so that it cannot stay staged."""
        bad = {**self._journal.bad, bundle: why[:500]}
        own = self._journal.bundle == bundle
        if own and self._journal.state in _STAGED:
            self._write("idle", bad=bad)
        else:
            self._write_again(bad=bad)
        if own and self._journal.state in _UNCOMMITTED:
            self._undo_activation(f"rolled back: {why[:200]}")
        self._leave_bad(f"went back to the previous bundle: {why[:200]}")
        self._tidy()

    def _leave_bad(self, why: str) -> None:
        """Go back if the current bundle is bad and there is a refuge."""
        if self.status().current in self._journal.bad and self._refuge():
            self._return_to_previous(why, keep=False)

    def _refuge(self) -> Optional[str]:
        """Return the previous bundle if it is good and whole."""
        previous = self.status().previous
        if previous is None or previous in self._journal.bad:
            return None
        return None if staging.spoiled_files(self._folder / "bundles" / previous) else previous

    def _require_whole(self, bundle: str) -> None:
        spoiled = staging.spoiled_files(self.bundle_folder(bundle))
        if spoiled:
            for sha256 in spoiled.values():
                self._store.drop(sha256)
            self._retreat()
            raise RequestError(
                "bad_digest", f"spoiled on the disk: {', '.join(spoiled)[:200]}", "send and stage it again"
            )

    def _require_no_activation(self) -> None:
        if self._journal.state in _UNCOMMITTED:
            raise RequestError(
                "bad_request",
                f"the activation of {self._journal.bundle} is neither committed nor rolled back",
                "bundle.commit or bundle.rollback first",
            )

    def _is_active(self, digest: str) -> bool:
        status = self.status()
        return digest in (status.current, status.previous)

    def _flip(
        self,
        bundle: str,
        previous: Optional[str],
        confirm: bool = False,
        last: str = "",
        state: str = "activated",
    ) -> int:
        """Write down, build the generation, point `active` at it, write down that it is now `state`."""
        origin = generations.active(self._folder)
        generation = max(origin or 0, self._journal.generations) + 1
        place = {"bundle": bundle, "generation": generation, "from_generation": origin}
        sequence = max(self._journal.sequence, self.contents(bundle).sequence)
        holder = bundle if sequence > self._journal.sequence else self._journal.sequence_bundle
        seen = {"sequence": sequence, "sequence_bundle": holder, "generations": generation}
        self._write("activating", **place, **seen, confirm=confirm, last=last or self._journal.last)
        try:
            generations.build(self._folder, generation, bundle, previous)
            generations.switch(self._folder, generation)
            self._write(state, **place, confirm=confirm)
        except OSError:
            self._undone = True  # the next request, or the next start, goes back first
            with contextlib.suppress(OSError):
                self._undo_activation("rolled back: the disk failed while the bundle was activated")
            raise
        return generation

    def _undo_activation(self, why: str) -> None:
        origin = self._journal.from_generation
        self._undone = True  # until it is done
        with durable.room_from_reserve(self._folder):
            self._write_again(state="rolling back")
            generations.switch(self._folder, origin)
            self._write("idle", generation=origin, last=why or self._journal.last)
        self._undone = False
        self._tidy()

    def _retreat(self) -> None:
        """Leave a staging that failed."""
        with contextlib.suppress(OSError), durable.room_from_reserve(self._folder):
            self._write("idle")
            self._tidy()

    def _return_to_previous(self, why: str = "", *, keep: bool = True) -> None:
        """Make the previous bundle current; the current one becomes the previous one if it is to be kept."""
        status = self.status()
        if status.previous is None:
            raise RequestError("no_previous", "there is no earlier bundle to go back to")
        admission.require_good(self._journal, status.previous)
        if self._refuge() is None:
            raise RequestError("no_previous", "the previous bundle was spoiled on the disk")
        with durable.room_from_reserve(self._folder):
            self._flip(status.previous, status.current if keep else None, last=why, state="committed")
        self._tidy()

    def _bundles_in_use(self) -> set[str]:
        status = self.status()
        named = {status.current, status.previous, self._journal.bundle}
        return {bundle for bundle in named if bundle and (self._folder / "bundles" / bundle).is_dir()}

    def _tidy(self) -> None:
        """Remove what no state refers to any more; not while an activation is under way, which may be undone."""
        if self._journal.state not in _UNCOMMITTED:
            generations.tidy(self._folder, self._bundles_in_use())

    def _write(self, state: str, **place: Any) -> None:
        """Write down a state and what it is about; what outlives states is carried over."""
        fresh = {"bundle": None, "generation": None, "from_generation": None, "confirm": False, "starts": 0}
        self._write_again(state=state, **{**fresh, **place})

    def _write_again(self, **changes: Any) -> None:
        journal = self._journal._replace(**changes)
        try:
            journal.write(self._folder)
        except OSError as error:
            if error.errno not in durable.FULL:
                raise
            with durable.room_from_reserve(self._folder):
                journal.write(self._folder)
        self._journal = journal
