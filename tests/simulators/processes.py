"""Processes on a simulated board: they take simulated time, warm the board, and may die."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from behaviour import Behaviour, Model
from clock import SimulatedClock
from heat import Heat

from device_agent.errors import RequestError

RUNTIME_BYTES = 40_000_000
FREQUENCY_MHZ = 1500.0
SPAWN_S = 0.3
LOAD_BYTES_PER_S = 50e6
_COOLING_STEP_S = 0.5


class Machine:
    """What processes run on: time, heat, memory, and noise.

    Args:
        clock: of the board.
        heat: of the board.
        behaviour: of the models.
        memory_bytes: of the board.
        seed: of the noise.
    """

    def __init__(
        self, clock: SimulatedClock, heat: Heat, behaviour: Behaviour, memory_bytes: int, seed: int
    ) -> None:
        self.clock = clock
        self.heat = heat
        self.behaviour = behaviour
        self.memory_bytes = memory_bytes
        self.random = np.random.default_rng(seed)

    def conditions(self) -> dict[str, Any]:
        """Return the state of the board now."""
        return {
            "governor": "performance",
            "frequency_mhz": FREQUENCY_MHZ / self.heat.slowdown(),
            "temperature_c": self.heat.temperature_c(),
            "throttled": self.heat.throttled(),
            "load_1min": 0.1,
        }

    def during(self, looks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what happened between the first and the last of these looks."""
        frequencies = [look["frequency_mhz"] for look in looks]
        return {
            "frequency_min_mhz": min(frequencies),
            "frequency_max_mhz": max(frequencies),
            "temperature_max_c": max(look["temperature_c"] for look in looks),
            "throttled": any(look["throttled"] for look in looks),
            "others_share": self.behaviour.others_share,
            "slowed_share": 0.0,
            "slowdown": None,
        }


class Worker:
    """A fresh process whose time is limited.

    Args:
        machine: what it runs on.
        timeout_s: how long it may take.
        alive: raises the error that the request ends with when the board is gone.
        dies: it dies as soon as it has started.

    Raises:
        RequestError: `worker_died`; from every method also `timed_out`.
    """

    def __init__(
        self, machine: Machine, timeout_s: float, alive: Callable[[], None], *, dies: bool = False
    ) -> None:
        self.machine = machine
        self._alive = alive
        self._timeout_s = timeout_s
        self._end_s = machine.clock.now_s + timeout_s
        self.work(SPAWN_S)
        if dies:
            raise RequestError("worker_died", "the worker was killed by SIGKILL")

    def work(self, seconds: float) -> None:
        """Take time that warms the board."""
        self._pass(seconds, self.machine.heat.work)

    def rest(self, seconds: float) -> None:
        """Take time that does not."""
        self._pass(seconds, self.machine.clock.advance)

    def cool(self, to_c: float | None, least_s: float, longest_s: float) -> None:
        """Rest for `least_s`, and on until the board is cool or `longest_s` is over."""
        self.rest(least_s)
        waited_s = least_s
        while to_c is not None and self.machine.heat.temperature_c() > to_c and waited_s < longest_s:
            step_s = min(_COOLING_STEP_S, longest_s - waited_s)
            self.rest(step_s)
            waited_s += step_s

    def load(self, model: Model) -> None:
        """Load a model.

        Raises:
            RequestError: `model_refused`, `out_of_memory`.
        """
        self.work(len(model.content) / LOAD_BYTES_PER_S)
        behaviour = self.machine.behaviour
        if why := behaviour.refused(model.content, model.runtime):
            raise RequestError("model_refused", f"the runtime refused the model: {why}")
        if RUNTIME_BYTES + behaviour.memory_bytes(model.content) > self.machine.memory_bytes:
            raise RequestError("out_of_memory", "the board's memory did not suffice", "use a smaller model")

    def infer(self, model: Model, seconds: float) -> list[float]:
        """Run inferences for some time, at least one; return the nanoseconds of each."""
        behaviour, machine = self.machine.behaviour, self.machine
        took_ns = behaviour.latency_ns(model) * machine.heat.slowdown()
        runs = max(1, int(np.ceil(seconds * 1e9 / took_ns)))
        samples = took_ns * np.exp(behaviour.noise * machine.random.standard_normal(runs))
        self.work(float(samples.sum()) / 1e9)
        return list(samples.tolist())

    def _pass(self, seconds: float, take: Callable[[float], None]) -> None:
        left_s = self._end_s - self.machine.clock.now_s
        take(min(seconds, left_s))
        self._alive()
        if seconds > left_s:
            raise RequestError(
                "timed_out", f"the worker took longer than {self._timeout_s:g} s and was ended"
            )
