"""Conducting a run: opens what a deploy needs, walks the road, and records how it ended, whatever happens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from pipeline.deploy import Record, deploy
from pipeline.device.client import BoardStatus, Device
from pipeline.errors import InfeasibleError, PipelineError
from pipeline.infeasible import measured_alike
from pipeline.method import AS_USUAL, Method
from pipeline.noise import doubt
from pipeline.profile import DeviceProfile
from pipeline.replay import Replay
from pipeline.report.summary import RunSummary, to_json
from pipeline.store import Run, Store
from pipeline.summarize import Ending, summarize
from pipeline.task import Task, task_from_record, task_record
from pipeline.watch import Watch
from pipeline.workshop import Workshop


@dataclass(frozen=True)
class Order:
    """What was asked for: all that a run needs to be resumed. `replay` names the run whose measurements are used."""

    device: str
    task: Task
    profile: DeviceProfile
    replay: str | None = None
    method: Method = AS_USUAL

    def to_config(self) -> dict[str, Any]:
        """Return the order as plain data for the store."""
        return {
            "device": self.device,
            "task": task_record(self.task),
            "profile": TypeAdapter(DeviceProfile).dump_python(self.profile, mode="json"),
            "replay": self.replay,
            "method": asdict(self.method),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Order:
        """Read an order that `to_config` wrote."""
        return cls(
            device=config["device"],
            task=task_from_record(config["task"]),
            profile=TypeAdapter(DeviceProfile).validate_python(config["profile"]),
            replay=config["replay"],
            method=Method(**config.get("method", {})),
        )


def conduct(run: Run, order: Order, device: Device, watch: Watch) -> RunSummary:
    """Walk the road of one deploy and record its end.

    Returns:
        The summary, with status "met" or "infeasible".

    Raises:
        PipelineError: a step failed; the run is recorded as failed and can be resumed.
        KeyboardInterrupt: the user stopped it; the run can be resumed.
    """
    board = device.status()
    replay = Replay(run.store, order.replay) if order.replay else None
    shop = Workshop(run, order.task, order.profile, device, watch, replay)
    record = Record()
    ending = Ending("failed", "ended unexpectedly")
    try:
        deploy(shop, record, order.method)
        ending = Ending("met", _met(record))
    except InfeasibleError as error:
        ending = Ending("infeasible", str(error))
    except PipelineError as error:
        ending = Ending("failed", error.message)
        raise
    except KeyboardInterrupt:
        ending = Ending("interrupted", "stopped by the user")
        raise
    finally:
        summary = _conclude(run, order, board, record, ending)
    shop.tidy()
    return summary


def _met(record: Record) -> str:
    """Say that all went well, and how sure that is where the device's own spread leaves doubt."""
    said = "the budgets are met as measured, and the model is active"
    if record.recovered is None:
        return said
    doubts = doubt(measured_alike(record.candidates, record.recovered), record.limits)
    return f"{said}; {doubts}" if doubts else said


def _conclude(run: Run, order: Order, board: BoardStatus, record: Record, ending: Ending) -> RunSummary:
    summary = summarize(run, order.task, order.profile, order.device, board, record, ending)
    run.finish(ending.status, ending.message, json.loads(to_json(summary)))
    return summary


def start(store: Store, order: Order) -> Run:
    """Record a new run of `order`."""
    return store.create(order.to_config())
