"""Several devices at once: each has its own outcome, canaries go first, an interrupt ends all."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from device import SimulatedBoard
from named_devices import Shelf, simulated

from pipeline.device.client import DeviceClient
from pipeline.device.registry import open_device
from pipeline.errors import AgentError, DeviceError, TransportError
from pipeline.fleet import FleetStopped, NotTriedError, Outcome, StoppedError, run
from pipeline.measurement import MeasuringProtocol

NAMES = ("a", "b", "c")


def boards(names: tuple[str, ...] = NAMES) -> dict[str, SimulatedBoard]:
    return {name: SimulatedBoard() for name in names}


def fails_on(*names: str):
    def work(name: str, device: DeviceClient) -> str:
        if name in names:
            raise DeviceError(f"{name} broke")
        return device.status().board.arch

    return work


def summary(outcomes: tuple[Outcome[object], ...]) -> dict[str, str]:
    return {each.device: type(each.error).__name__ if each.error else "ok" for each in outcomes}


def test_real_agents_and_a_dead_one_have_their_own_outcomes(shelf: Shelf) -> None:
    names = (*shelf.add("one", "two"), shelf.add_dead("dead"), *shelf.add("three"))
    outcomes = run(names, lambda _, device: device.status().update.state)
    assert [each.device for each in outcomes] == ["one", "two", "dead", "three"]
    assert [each.value for each in outcomes] == ["idle", "idle", None, "idle"]
    assert isinstance(outcomes[2].error, DeviceError)
    assert "state folder" in outcomes[2].error.message
    for name in ("one", "two", "three"):  # every agent has ended, and let go of its folder
        open_device(name).close()


def test_they_work_at_the_same_time() -> None:
    together = threading.Barrier(len(NAMES), timeout=10)
    outcomes = run(NAMES, lambda *_: together.wait() >= 0, connect=simulated(boards()))
    assert all(each.value for each in outcomes)


def test_no_more_than_asked_for_at_once() -> None:
    inside, most, turn = 0, 0, threading.Lock()

    def work(name: str, device: DeviceClient) -> None:
        nonlocal inside, most
        with turn:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with turn:
            inside -= 1

    names = tuple(f"device-{number}" for number in range(8))
    run(names, work, at_once=3, connect=simulated(boards(names)))
    assert most == 3


def test_a_name_that_comes_twice_counts_once() -> None:
    outcomes = run(["a", "b", "a"], fails_on(), connect=simulated(boards()))
    assert [each.device for each in outcomes] == ["a", "b"]


def test_a_canary_that_fails_stops_the_rest() -> None:
    worked = []

    def work(name: str, device: DeviceClient) -> None:
        worked.append(name)
        raise DeviceError("no")

    outcomes = run(NAMES, work, canary=1, connect=simulated(boards()))
    assert worked == ["a"]
    assert summary(outcomes) == {"a": "DeviceError", "b": "NotTriedError", "c": "NotTriedError"}
    assert [each.tried for each in outcomes] == [True, False, False]
    assert "the canary 'a' failed" in str(outcomes[1].error)


def test_one_canary_of_two_is_enough_to_stop_the_rest() -> None:
    outcomes = run(NAMES, fails_on("b"), canary=2, connect=simulated(boards()))
    assert summary(outcomes) == {"a": "ok", "b": "DeviceError", "c": "NotTriedError"}


def test_the_rest_begins_after_the_canary_is_done() -> None:
    began, ended = {}, {}

    def work(name: str, device: DeviceClient) -> None:
        began[name] = time.monotonic()
        time.sleep(0.02)
        ended[name] = time.monotonic()

    run(NAMES, work, canary=1, connect=simulated(boards()))
    assert min(began["b"], began["c"]) >= ended["a"]


def test_more_canaries_than_devices_are_all_of_them() -> None:
    assert set(summary(run(NAMES, fails_on(), canary=9, connect=simulated(boards()))).values()) == {"ok"}


def test_outcomes_are_told_as_they_come() -> None:
    told: list[str] = []
    first = threading.Event()

    def work(name: str, device: DeviceClient) -> None:
        if name == "a":
            assert first.wait(10)

    def note(outcome: Outcome[None]) -> None:
        told.append(outcome.device)
        first.set()

    run(("a", "b"), work, on_outcome=note, connect=simulated(boards()))
    assert told == ["b", "a"]


def test_a_device_that_takes_too_long_is_given_up() -> None:
    late = threading.Event()

    def work(name: str, device: DeviceClient) -> str:
        if name == "b":
            late.wait(20)
        return "done"

    start = time.monotonic()
    outcomes = run(NAMES, work, deadline_s=0.2, at_once=1, connect=simulated(boards()))
    late.set()
    assert time.monotonic() - start < 5
    assert summary(outcomes) == {"a": "ok", "b": "TransportError", "c": "ok"}  # b's place went to c
    assert "no answer within 0.2 s" in str(outcomes[1].error)


def test_a_device_that_hangs_while_it_is_connected_to_is_given_up() -> None:
    late, known = threading.Event(), boards()

    def connect(name: str) -> DeviceClient:
        if name == "a":
            late.wait(20)
        return simulated(known)(name)

    outcomes = run(("a", "b"), fails_on(), deadline_s=0.2, connect=connect)
    late.set()
    assert summary(outcomes) == {"a": "TransportError", "b": "ok"}


@pytest.mark.parametrize(
    "error", [AgentError("no", code="busy"), TransportError("gone"), OSError(113, "No route to host")]
)
def test_what_a_device_can_cause_is_its_outcome(error: Exception) -> None:
    def connect(name: str) -> DeviceClient:
        raise error

    (outcome,) = run(["a"], fails_on(), connect=connect)
    assert isinstance(outcome.error, DeviceError)


def test_what_fails_when_a_connection_ends_is_no_outcome() -> None:
    def connect(name: str) -> DeviceClient:
        device = simulated(boards())(name)

        def close() -> None:
            raise EOFError

        device.close = close  # type: ignore[method-assign]
        return device

    assert set(summary(run(NAMES, fails_on("b"), connect=connect)).values()) == {"ok", "DeviceError"}


def test_a_bug_is_raised_and_no_outcome() -> None:
    with pytest.raises(ZeroDivisionError):
        run(NAMES, lambda name, _: 1 / (name != "b"), connect=simulated(boards()))


def test_an_interrupt_ends_all_and_says_what_was_reached(shelf: Shelf) -> None:
    """Two agents measure for a minute when Ctrl-C comes; a third is done, a fourth waits behind the gate."""
    names = shelf.add("quick", "slow-1", "slow-2", "later")
    model = shelf.profile.with_name("net.onnx")
    from agent_process import onnx_model

    model.write_bytes(onnx_model())
    endless = MeasuringProtocol(min_runs=10**8, max_duration_s=60.0, timeout_s=120.0)
    measuring: set[str] = set()

    def work(name: str, device: DeviceClient) -> str:
        def heard(event: dict[str, object]) -> None:
            if event.get("phase") == "measure":
                measuring.add(name)
                if len(measuring) == 2:
                    os.kill(os.getpid(), signal.SIGINT)

        if name != "quick":
            device.measure(model, runtime="onnxruntime", threads=1, protocol=endless, on_event=heard)
        return name

    start = time.monotonic()
    with pytest.raises(FleetStopped) as caught:
        run(names, work, at_once=2)
    assert time.monotonic() - start < 30
    assert isinstance(caught.value, KeyboardInterrupt)
    found = {each.device: each for each in caught.value.outcomes}
    assert found["quick"].value == "quick"
    assert isinstance(found["slow-1"].error, StoppedError)
    assert isinstance(found["slow-2"].error, StoppedError)
    assert isinstance(found["later"].error, NotTriedError)
    with open_device("slow-1") as device:  # its agent has ended, and nothing measures there any more
        assert device.status().lease.holder is None
