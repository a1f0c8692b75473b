"""What an update writes down before it acts: one small JSON file, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from device_agent.durable import write_json
from device_agent.errors import RequestError

FILE = "journal.json"
STATES = (
    "idle",
    "staging",
    "staged",
    "checking",
    "checked",
    "activating",
    "activated",
    "committed",
    "rolling back",
)


class Journal(NamedTuple):
    """Everything about one update that must outlive a power cut.

    Args:
        state: one of `STATES`.
        bundle: digest of the bundle that the state is about.
        generation: the generation that is being made, or was made.
        from_generation: the one to fall back to.
        confirm: the application has to confirm the activation.
        starts: how often the board's agent was started since the activation (updates of the agent only).
        generations: the highest generation number that was ever given; none is given twice.
        sequence: the highest sequence number that was ever activated here.
        sequence_bundle: the bundle that had it.
        crashes: by bundle, how often its check killed the checker.
        bad: by bundle, why it must not be activated again.
        last: in words, what the update did last of its own accord.
    """

    state: str = "idle"
    bundle: Optional[str] = None
    generation: Optional[int] = None
    from_generation: Optional[int] = None
    confirm: bool = False
    starts: int = 0
    generations: int = 0
    sequence: int = 0
    sequence_bundle: Optional[str] = None
    crashes: Mapping[str, int] = {}
    bad: Mapping[str, str] = {}
    last: str = ""

    def write(self, folder: Path) -> None:
        """Replace the journal of an update's folder by this one, durably."""
        write_json(folder / FILE, self._asdict())


def read(folder: Path) -> Journal:
    """Read an update's journal; a folder without one is idle.

    Raises:
        RequestError: `storage`, if it is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        journal = Journal(**{name: value for name, value in found.items() if name in Journal._fields})
        _check(journal)
    except FileNotFoundError:
        return Journal()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            "storage", f"{path} is damaged: {error}", "remove that file; the active bundle stays as it is"
        ) from error
    return journal


def _check(journal: Journal) -> None:
    kinds: dict[str, Any] = {"bundle": str, "generation": int, "from_generation": int}
    for name, kind in kinds.items():
        value = getattr(journal, name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}")
    if journal.state not in STATES:
        raise ValueError(f"state is {journal.state!r}")
    if not isinstance(journal.sequence, int) or not isinstance(journal.starts, int):
        raise ValueError("sequence and starts are not whole numbers")
    if not isinstance(journal.crashes, dict) or not isinstance(journal.bad, dict):
        raise ValueError("crashes and bad are not objects")
    if not all(isinstance(count, int) for count in journal.crashes.values()):
        raise ValueError("crashes are not counted")
    if not all(isinstance(why, str) for why in journal.bad.values()):
        raise ValueError("bad says no reasons")
