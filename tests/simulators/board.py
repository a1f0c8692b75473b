"""A simulated board and its agent: holds everything that outlives a connection, and lets things go wrong.

What a test wants to happen it tells `faults`, `clock`, `turns` and `disk` beforehand. Bundles of the agent's own
code are not simulated.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import answering
from answering import Params, Request, Session
from behaviour import Behaviour, PowerSensor
from clock import SimulatedClock
from disk import Disk
from faults import Fault, Faults
from heat import Cooling, Heat
from processes import Machine, Worker
from trusted import Trust
from turns import Tell, Turns
from updates import Updates

from device_agent import __version__, wire
from device_agent.errors import RequestError
from pipeline.signing import PublicKey

BEGAN_AT = 1_700_000_000.0  # of the clock, in seconds since 1970
_REQUEST_S = 0.001
_REMEMBERED = 5


@dataclass(frozen=True)
class Hardware:
    """What kind of board it is, and what was provisioned with it.

    Attributes:
        runtimes: versions by name.
        sensor: of the board's power; `None`: it has none.
        bytes_per_s: what its link carries.
        quota_bytes: most that uploaded files may take; `None`: what the disk has.
    """

    cores: int = 4
    memory_bytes: int = 1_000_000_000
    disk_bytes: int = 16_000_000_000
    quota_bytes: int | None = None
    runtimes: tuple[tuple[str, str], ...] = (("onnxruntime", "1.23.0"), ("tflite", "2.1.0"))
    cooling: Cooling = field(default_factory=Cooling)
    sensor: PowerSensor | None = None
    bytes_per_s: float = 10e6


class SimulatedBoard:
    """One board. `SimulatedDevice` connects to it, as often as one likes.

    Args:
        hardware: the board.
        behaviour: of the models that are sent to it.
        keys: that it trusts; `None`: it trusts any bundle.
        revoked: ids of keys that it trusts no more.
        application_confirms_after_s: when its application confirms a model; `None`: never.
        seed: of all noise.
    """

    def __init__(
        self,
        hardware: Hardware = Hardware(),
        behaviour: Behaviour | None = None,
        *,
        keys: Sequence[PublicKey] | None = None,
        revoked: Sequence[str] = (),
        application_confirms_after_s: float | None = None,
        seed: int = 0,
    ) -> None:
        self.hardware = hardware
        self.clock = SimulatedClock()
        self.faults = Faults()
        self.trust = Trust(keys, revoked)
        self.disk = Disk(hardware.disk_bytes, hardware.quota_bytes, self._files_in_use)
        self.updates = Updates(self.disk)
        self.application_confirms_after_s = application_confirms_after_s
        heat = Heat(self.clock, hardware.cooling)
        models = behaviour or Behaviour()
        self.machine = Machine(self.clock, heat, models, hardware.memory_bytes, seed)
        self._lock = threading.RLock()
        self._sessions: list[Session] = []
        self._awaited: object = None
        self._begin()

    def connect(self, who: str) -> Session:
        """Begin a connection."""
        session = Session(who)
        self._sessions.append(session)
        return session

    def disconnect(self, session: Session, why: str) -> None:
        """End a connection; its turn goes to the next one."""
        session.broken = session.broken or why
        self.turns.release(session)

    def cut_power(self) -> None:
        """Take the power away and give it back: connections are gone, what was under way is undone."""
        for session in self._sessions:
            self.disconnect(session, "the connection broke: the board went down")
        self._begin()
        self.updates.recover()

    def serve(
        self, session: Session, method: str, params: Params, payload: bytes = b"", tell: Tell = lambda _: None
    ) -> Params:
        """Do one request; one at a time.

        Raises:
            RequestError: the agent's answer is an error.
            TransportError: there is no answer.
        """
        with self._lock:
            session.require()
            self.clock.advance(_REQUEST_S + len(payload) / self.hardware.bytes_per_s)
            fault = self.faults.at_request(method)
            if fault and not fault.served:
                self._strike(fault, session)
            session.require()
            result = answering.answer(self, method, Request(params, payload, session, tell))
            if fault:
                self._strike(fault, session)
            session.require()
            return result

    # --- for the methods --------------------------------------------------------------------------------------

    def worker(self, session: Session, timeout_s: float) -> Worker:
        """Start a process for a request."""
        return Worker(self.machine, timeout_s, session.require, dies=self.faults.worker_dies())

    def runtime(self, name: str) -> str:
        """Return a runtime's version.

        Raises:
            RequestError: `runtime_missing`.
        """
        versions = dict(self.hardware.runtimes)
        if name not in versions:
            raise RequestError("runtime_missing", f"the runtime {name!r} is not installed on this board")
        return versions[name]

    def first_use(self, runtime: str) -> bool:
        """Say whether this runtime is to be measured without a model first."""
        new = runtime not in self._used
        self._used.add(runtime)
        return new

    def remember(self, result: Params, session: Session) -> None:
        """Keep what the status tells of a measurement."""
        known = {key: result[key] for key in ("file_sha256", "runtime", "threads", "runs", "flags")}
        figures = {"p50_ms": result["latency_ms"]["p50"], "energy_mj": result["energy_mj"]}
        self._last.appendleft({**known, **figures, "at": BEGAN_AT + self.clock.now_s, "by": session.who})

    def await_confirmation(self, generation: int, seconds: float) -> None:
        """Give the application its time, and take the activation back if it lets it pass."""
        awaited = self._awaited = object()

        def meanwhile(act: Callable[[], object]) -> Callable[[], object]:
            return lambda: act() if self._awaited is awaited and self.updates.waits() else None

        bundle = self.updates.current or ""
        self.clock.after(seconds, meanwhile(lambda: self.updates.expire(generation, seconds)))
        if self.application_confirms_after_s is not None:
            confirm = meanwhile(lambda: self.updates.commit(bundle, confirmed=True))
            self.clock.after(self.application_confirms_after_s, confirm)

    def status(self) -> Params:
        """Return the answer to `status`."""
        return {
            "agent_version": __version__,
            "protocol": wire.PROTOCOL,
            "uptime_s": self.clock.now_s - self._began_s,
            "board": self._facts(),
            "runtimes": [
                {"name": name, "package": name, "version": version}
                for name, version in self.hardware.runtimes
            ],
            "sensors": ["memory", "frequency", "temperature", *self._power()],
            "conditions": self.machine.conditions(),
            "disk_free_bytes": self.disk.free_bytes(),
            "update": self.updates.describe(),
            "active": self.updates.describe_active(),
            "agent_update": Updates(self.disk).describe(),
            "trust": self.trust.describe(),
            "lease": self.turns.describe(),
            "last_measurements": list(self._last),
        }

    # --- how --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the agent: what it only has in mind is empty."""
        self._began_s = self.clock.now_s
        self._sessions.clear()
        self.turns = Turns(self.clock)
        self._used: set[str] = set()
        self._last: deque[Params] = deque(maxlen=_REMEMBERED)

    def _files_in_use(self) -> set[str]:
        return self.updates.files_in_use()

    def _strike(self, fault: Fault, session: Session) -> None:
        if fault.kind == "power":
            self.cut_power()
        else:
            self.disconnect(session, "the connection broke")
        session.require()

    def _facts(self) -> Params:
        return {
            "model": "Simulated Board",
            "soc": "simulated",
            "arch": "aarch64",
            "cores": self.hardware.cores,
            "memory_bytes": self.hardware.memory_bytes,
            "os": "Simulated Linux 1",
            "python": "3.11.0",
            "libc": "glibc 2.36",
        }

    def _power(self) -> list[str]:
        return [f"energy:{self.hardware.sensor.method}"] if self.hardware.sensor else []
