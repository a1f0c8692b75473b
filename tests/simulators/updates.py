"""The update of a simulated board's model: stage → check → activate → (confirm) → commit | roll back."""

from __future__ import annotations

from dataclasses import dataclass

from disk import Disk

from device_agent.errors import RequestError
from device_agent.updates import manifest
from device_agent.updates.manifest import Manifest

MOST_CRASHES = 3
STAGED = ("staged", "checking", "checked")


@dataclass(frozen=True)
class Generation:
    """What is active: a number, the current bundle and the one to go back to."""

    number: int
    current: str
    previous: str | None


class Updates:
    """Where an update stands, and everything that a board remembers of bundles. Methods raise `RequestError`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.state = "idle"
        self.bundle: str | None = None
        self.active: Generation | None = None
        self.sequence = 0
        self.bad: dict[str, str] = {}
        self._before: Generation | None = None
        self._confirm = False
        self._sequence_bundle: str | None = None
        self._crashes: dict[str, int] = {}
        self._last = ""
        self._bundles: dict[str, Manifest] = {}
        self._generations = 0

    @property
    def current(self) -> str | None:
        """Return the digest of the active bundle."""
        return self.active.current if self.active else None

    @property
    def previous(self) -> str | None:
        """Return the digest of the bundle that was active before it."""
        return self.active.previous if self.active else None

    def describe(self) -> dict[str, object]:
        """Return what the status tells."""
        return {
            "state": self.state,
            "generation": self.active.number if self.active else None,
            "current": self.current,
            "previous": self.previous,
            "waits_for_confirmation": self.waits(),
            "sequence": self.sequence,
            "bad": dict(self.bad),
            "last": self._last,
            "fault": None,
            "staged": self.bundle if self.state in STAGED else None,
        }

    def describe_active(self) -> dict[str, object] | None:
        """Return what the current bundle's manifest says of itself."""
        if self.current is None:
            return None
        contents = self._bundles[self.current]
        assert contents.model is not None
        model = {name: getattr(contents.model, name) for name in ("file", "runtime", "threads")}
        return {"name": contents.name, "sequence": contents.sequence, **model}

    def waits(self) -> bool:
        """Say whether the application has to confirm what is active."""
        return self.state == "activated" and self._confirm

    def files_in_use(self) -> set[str]:
        """Return the digests of all files of the current, previous and staged bundles."""
        used = set()
        for bundle in {self.current, self.previous, self.bundle} & set(self._bundles):
            used |= {bundle, *(file.sha256 for file in self._bundles[bundle].files.values())}
        return used

    # --- stage and check --------------------------------------------------------------------------------------

    def stage(self, digest: str, *, allow_downgrade: bool = False) -> None:
        """Put a bundle together whose files are all there."""
        if self.state == "activated":
            raise RequestError(
                "bad_request", f"the activation of {self.bundle} is neither committed nor rolled back"
            )
        contents = manifest.parse(self._disk.read(digest))
        self._require_good(digest)
        if not allow_downgrade:
            self._require_newer(digest, contents.sequence)
        absent = [name for name, file in contents.files.items() if not self._disk.has(file.sha256)]
        if absent:
            raise RequestError("missing_files", f"not on the board yet: {', '.join(sorted(absent))}")
        self._become("idle")  # for as long as it may fail
        for name, file in contents.files.items():
            if len(self._disk.read(file.sha256)) != file.size:
                raise RequestError("bad_manifest", f"{name} has another size than {file.size} bytes")
        self._bundles[digest] = contents
        self._become("staged", digest)

    def begin_check(self, bundle: str) -> Manifest:
        """Count a check as a crash until it ends; return the bundle's manifest."""
        if self.state not in STAGED or self.bundle != bundle:
            raise RequestError("not_staged", f"bundle {bundle} is not the staged one", "stage it first")
        self._require_good(bundle)
        self._crashes[bundle] = self._crashes.get(bundle, 0) + 1
        self._become("checking", bundle)
        return self._bundles[bundle]

    def end_check(self, bundle: str, *, ok: bool) -> None:
        """Note how a check ended."""
        if (self.state, self.bundle) == ("checking", bundle):
            self._crashes.pop(bundle, None)
            self._become("checked" if ok else "staged", bundle)

    def fail_check(self, bundle: str, why: str) -> None:
        """Note that the checker did not outlive the bundle."""
        if (self.state, self.bundle) == ("checking", bundle):
            self._become("staged", bundle)
            if (crashes := self._crashes[bundle]) >= MOST_CRASHES:
                self.mark_bad(bundle, f"its check failed {crashes} times; the last time: {why}")

    # --- activate and what follows ----------------------------------------------------------------------------

    def activate(self, bundle: str, *, confirm: bool = False) -> int:
        """Make a checked bundle the active one, until it is committed or rolled back."""
        if (self.state, self.bundle) != ("checked", bundle):
            raise RequestError("not_checked", f"bundle {bundle} is not a staged bundle whose check passed")
        self._require_good(bundle)
        return self._flip(bundle, self.previous if self.current == bundle else self.current, confirm)

    def commit(self, bundle: str, *, confirmed: bool = False) -> int:
        """Make an activation final."""
        if self.bundle != bundle or self.state not in ("activated", "committed") or not self.active:
            raise RequestError("not_activated", f"bundle {bundle} is not the activated one")
        if self.waits() and not confirmed:
            raise RequestError("not_confirmed", "the activation waits for the application's confirmation")
        if self.state == "activated":
            self._require_good(bundle)
        self._become("committed", bundle)
        return self.active.number

    def roll_back(self, *, to_previous: bool = False, why: str = "") -> str | None:
        """Undo what is under way, else go back to the previous bundle if that is asked for."""
        if self.state == "activated":
            self._undo(why)
            self._leave_bad("went back: the bundle before was marked bad")
        elif self.state in STAGED:
            self._become("idle")
        elif to_previous:
            self._return_to_previous()
        return self.current

    def expire(self, generation: int, seconds: float) -> None:
        """Take back an activation that was not confirmed in time."""
        if self.waits() and self.active and self.active.number == generation:
            self._undo(f"rolled back: the application did not confirm within {seconds:g} s")
            self._leave_bad("went back: the bundle before was marked bad")

    def mark_bad(self, bundle: str, why: str) -> str | None:
        """Never activate this bundle again, and go away from it where that is possible."""
        self.bad[bundle] = why[:500]
        if self.state == "activated" and self.bundle == bundle:
            self._undo(f"rolled back: {why[:200]}")
        elif self.state in STAGED and self.bundle == bundle:
            self._become("idle")
        self._leave_bad(f"went back to the previous bundle: {why[:200]}")
        return self.current

    def forgive(self, bundle: str) -> None:
        """Take back that a bundle is bad."""
        self.bad.pop(bundle, None)
        self._crashes.pop(bundle, None)

    def recover(self) -> None:
        """End what a power cut left undone."""
        if self.state == "activated":
            self._undo("rolled back: the agent ended before the activation was committed")
        elif self.state == "checking" and self.bundle:
            self.fail_check(self.bundle, "the agent or the board went down while it was checked")
        self._leave_bad("went back: the current bundle was marked bad")

    # --- how --------------------------------------------------------------------------------------------------

    def _become(self, state: str, bundle: str | None = None) -> None:
        self.state, self.bundle, self._confirm = state, bundle, False

    def _flip(self, bundle: str, previous: str | None, confirm: bool = False) -> int:
        self._before = self.active
        self._generations += 1
        self.active = Generation(self._generations, bundle, previous)
        if self._bundles[bundle].sequence > self.sequence:
            self.sequence, self._sequence_bundle = self._bundles[bundle].sequence, bundle
        self._become("activated", bundle)
        self._confirm = confirm
        return self.active.number

    def _undo(self, why: str) -> None:
        self.active = self._before
        self._last = why or self._last
        self._become("idle")

    def _return_to_previous(self, why: str = "", *, keep: bool = True) -> None:
        current, previous = self.current, self.previous
        if previous is None:
            raise RequestError("no_previous", "there is no earlier bundle to go back to")
        self._require_good(previous)
        self._flip(previous, current if keep else None)
        self._last = why or self._last
        self._become("committed", previous)

    def _leave_bad(self, why: str) -> None:
        if self.current in self.bad and self.previous is not None and self.previous not in self.bad:
            self._return_to_previous(why, keep=False)

    def _require_good(self, bundle: str) -> None:
        if bundle in self.bad:
            raise RequestError("bundle_bad", f"bundle {bundle} was marked bad: {self.bad[bundle]}")

    def _require_newer(self, digest: str, sequence: int) -> None:
        rival = sequence == self.sequence > 0 and self._sequence_bundle not in (None, digest)
        if sequence < self.sequence or rival:
            raise RequestError(
                "older_refused", f"the sequence number is {sequence}, this board has seen {self.sequence}"
            )
