"""One thing that is left to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """What it is, for people, and how it is done: whole, or not at all."""

    what: str
    do: Callable[[], object]
