"""How models behave on a simulated board: what a test decides in a runtime's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Answer = Callable[[bytes, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Model:
    """A model as a board sees it: the file's content, the runtime, the number of threads."""

    content: bytes
    runtime: str
    threads: int


def by_size(content: bytes, runtime: str, threads: int) -> float:
    """Return 0.1 ms and 1 ms for each megabyte, shared by the threads."""
    return 0.1 + len(content) / 1e6 / threads


def four_times_the_file(content: bytes) -> int:
    """Return the bytes that a model may take when it is loaded."""
    return 4 * len(content)


def accepted(content: bytes, runtime: str) -> str:
    """Refuse nothing."""
    return ""


@dataclass(frozen=True)
class Behaviour:
    """What a test knows of the models that it sends.

    Attributes:
        latency_ms: how long an inference takes on the cool board, from a file's content, the runtime and the threads.
        memory_bytes: what a model adds to the runtime's own memory, from its content.
        refused: why a runtime refuses a file; empty if it does not.
        answer: what a model answers to arrays, from its content; `None`: always what its bundle expects.
        noise: the spread of single inferences, as a share of the latency.
        others_share: the share of the cores' time that other programs take.
    """

    latency_ms: Callable[[bytes, str, int], float] = by_size
    memory_bytes: Callable[[bytes], int] = four_times_the_file
    refused: Callable[[bytes, str], str] = accepted
    answer: Answer | None = None
    noise: float = 0.01
    others_share: float = 0.0

    def latency_ns(self, model: Model) -> float:
        """Return how long an inference of a model takes on the cool board, in nanoseconds."""
        return self.latency_ms(model.content, model.runtime, model.threads) * 1e6


@dataclass(frozen=True)
class PowerSensor:
    """A sensor of the whole board's power, and what it sees."""

    method: str = "hwmon:ina226"
    estimated: bool = False
    rate_hz: float = 100.0
    idle_mw: float = 2000.0
    busy_mw: float = 3500.0
