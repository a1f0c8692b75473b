"""How long work tells a person where it stands. The command line draws it; tests and scripts stay silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Says how far a step has come."""

    def __call__(self, *, done: int, of: int, note: str = "") -> None:
        """Report that `done` of `of` parts are finished; `note` is shown beside the bar."""


class Watch(Protocol):
    """What a deploy tells while it works."""

    def step(self, title: str) -> AbstractContextManager[Advance]:
        """Begin a step; leaving the context ends it."""

    def say(self, text: str) -> None:
        """Tell one fact that is worth a line."""


class Silent:
    """A watch for scripts (`--quiet`) and tests."""

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's name
        """Begin a step without a word."""
        yield ignore

    def say(self, text: str) -> None:
        """Say nothing."""


def ignore(*, done: int, of: int, note: str = "") -> None:
    """Take a progress report and drop it."""
