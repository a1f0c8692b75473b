"""Layer timings that a board gave before: one JSON file for all that the times depend on, shared by all runs.

A file's name is made of the facts (board, runtime and its version, threads, precision, governor, measuring protocol)
and its entries are found by the digest of the small model file that was timed; so a time is only used again for the
very same bytes under the same conditions. Two processes may write at once: each takes in what the other wrote.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.files import storage_errors, write_text

VERSION = 1
NOISY = 0.05  # relative standard deviation: a timing with more is made again
MOST_TRIES = 3  # on a board that is always noisy the best of so many is kept

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class CachedTiming:
    """One layer's time: `again_ms` where it was timed twice in one batch, `noise` the batch's relative deviation."""

    shape: str
    p50_ms: Positive
    runs: int
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    at: str
    again_ms: Positive | None = None
    tries: int = 1

    @property
    def settled(self) -> bool:
        """Whether it need not be timed again."""
        return self.noise <= NOISY or self.tries >= MOST_TRIES

    def scaled(self, factor: float) -> CachedTiming:
        """Return what it would be on a device whose times are `factor` times these."""
        again_ms = None if self.again_ms is None else self.again_ms * factor
        return replace(self, p50_ms=self.p50_ms * factor, again_ms=again_ms)


@dataclass(frozen=True)
class _File:
    version: int
    facts: dict[str, str]
    entries: dict[str, CachedTiming] = field(default_factory=dict)


_CODEC = TypeAdapter(_File)


class TableCache:
    """The timings known under some `facts`, in a file of their own within `folder`.

    Args:
        folder: of all such files; made when something is written.
        facts: all that the times depend on.
        tell: takes one sentence when a file is damaged.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self.facts = dict(sorted(facts.items()))
        self.path = folder / f"{_name(self.facts)}.json"
        self._tell = tell

    def entries(self) -> dict[str, CachedTiming]:
        """Return what is known: digest of the model file → timing. A damaged file is set aside.

        Raises:
            StorageError: the file cannot be read.
        """
        with storage_errors(self.path):
            try:
                found = _CODEC.validate_json(self.path.read_bytes())
            except FileNotFoundError:
                return {}
            except ValidationError:
                return self._set_aside("is damaged")
        if (found.version, found.facts) != (VERSION, self.facts):
            return self._set_aside("is of another version")
        return found.entries

    def add(self, entries: Mapping[str, CachedTiming]) -> None:
        """Keep timings beside those that are there already.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._alone():
            known = _File(VERSION, self.facts, {**self.entries(), **entries})
            write_text(self.path, json.dumps(_CODEC.dump_python(known, mode="json"), indent=1))

    def _set_aside(self, why: str) -> dict[str, CachedTiming]:
        aside = self.path.with_suffix(".damaged")
        self.path.replace(aside)
        self._tell(
            f"the layer timings in {self.path.name} cannot be used: it {why} (now {aside.name}); timing anew"
        )
        return {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield


def now() -> str:
    """Return the moment as entries state it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _name(facts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(facts)).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-z0-9.]+", "-", f"{facts.get('board', '')} {facts.get('runtime', '')}".lower())
    return f"{words.strip('-.')[:60]}-{digest}".lstrip("-")
