"""How often a link that broke is opened again, and how long to wait in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Notice = Callable[[str], None]  # is told what happens, for people


@dataclass(frozen=True)
class Patience:
    """Tries in all, and the waits between them: twice as long each time, a random part of it left out.

    The random part keeps a fleet's hosts from coming back all at once (exponential backoff with jitter).
    """

    tries: int
    first_s: float = 0.5
    longest_s: float = 8.0

    def waits(self) -> Iterator[float]:
        """Yield the seconds to wait before each further try."""
        for number in range(self.tries - 1):
            yield min(self.longest_s, self.first_s * 2**number) * random.uniform(0.5, 1.0)  # noqa: S311


ONCE = Patience(tries=1)
PATIENT = Patience(tries=11)  # three quarters of a minute in all: a board that reboots is back by then
