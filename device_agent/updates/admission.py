"""Which bundles an update lets in: of the right kind, not marked bad, not older than what was active."""

from __future__ import annotations

from device_agent.errors import RequestError
from device_agent.updates.journal import Journal
from device_agent.updates.manifest import Manifest


def require_kind(contents: Manifest, kind: str) -> None:
    """Raise `bad_manifest` for a bundle of another kind."""
    if contents.kind != kind:
        raise RequestError("bad_manifest", f"a bundle of kind {contents.kind} cannot become the {kind}")


def require_good(journal: Journal, bundle: str) -> None:
    """Raise `bundle_bad` for a bundle that was marked bad."""
    if bundle in journal.bad:
        raise RequestError(
            "bundle_bad", f"bundle {bundle} was marked bad: {journal.bad[bundle]}", "bundle.forgive"
        )


def require_newer(journal: Journal, digest: str, sequence: int) -> None:
    """Raise `older_refused` for a bundle whose sequence number was passed, or taken by another one.

    Who does not number bundles gives all of them 0, and any may follow any.
    """
    highest, holder = journal.sequence, journal.sequence_bundle
    if sequence < highest or (sequence == highest > 0 and holder not in (None, digest)):
        raise RequestError(
            "older_refused",
            f"the bundle's sequence number is {sequence}, this board has seen {highest}",
            "build it again, or ask for the downgrade (allow_downgrade)",
        )
