"""What only the simulator can show: time that nobody waits for, heat, and things that go wrong on order."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from device import Behaviour, Cooling, Hardware, PowerSensor, SimulatedBoard, SimulatedDevice
from small_bundles import checked, pushed

from pipeline.device.client import Device
from pipeline.errors import AgentError, TransportError
from pipeline.measurement import Measurement, MeasuringProtocol

MINUTE = MeasuringProtocol(min_duration_s=60.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"m" * 400_000)
    return path


def measured(device: Device, model: Path, protocol: MeasuringProtocol | None = None) -> Measurement:
    return device.measure(model, runtime="onnxruntime", threads=1, protocol=protocol or MeasuringProtocol())


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(AgentError) as caught:
        act()
    return caught.value.code


def live(device: Device, folder: Path, name: str, sequence: int = 0) -> str:
    """Deploy a bundle and return its digest."""
    digest = checked(device, folder, name, sequence)
    device.activate(digest)
    device.commit(digest)
    return digest


# --- time, noise and heat -----------------------------------------------------------------------------------------


def test_a_models_latency_is_what_the_test_says_and_its_time_passes(model: Path) -> None:
    def latency_ms(content: bytes, runtime: str, threads: int) -> float:
        return len(content) / {"onnxruntime": 1e5, "tflite": 2e5}[runtime] / threads

    device = SimulatedDevice(SimulatedBoard(behaviour=Behaviour(latency_ms)))
    found = {
        (runtime, threads): device.measure(model, runtime=runtime, threads=threads, protocol=MINUTE)
        for runtime, threads in (("onnxruntime", 1), ("onnxruntime", 4), ("tflite", 1))
    }
    p50 = {how: round(each.latency_ms.p50, 1) for how, each in found.items()}
    assert p50 == {("onnxruntime", 1): 4.0, ("onnxruntime", 4): 1.0, ("tflite", 1): 2.0}
    assert all(each.duration_s >= 60.0 and not each.flags for each in found.values())
    assert device.status().uptime_s > 180.0


def test_noise_has_a_seed(model: Path) -> None:
    first, again, other = (
        measured(SimulatedDevice(SimulatedBoard(seed=seed)), model).latency_ms for seed in (1, 1, 2)
    )
    assert first == again
    assert first.p50 != other.p50
    assert first.p50 == pytest.approx(other.p50, rel=0.01)
    silent = SimulatedBoard(behaviour=Behaviour(noise=0.0))
    exact = measured(SimulatedDevice(silent), model).latency_ms
    assert exact.min == exact.max == pytest.approx(0.5)


def test_a_board_warms_up_while_it_measures_and_cools_down_while_it_rests(model: Path) -> None:
    device = SimulatedDevice()
    found = measured(device, model, MINUTE)
    assert found.before.temperature_c + 10 < found.after.temperature_c == found.during.temperature_max_c
    warm = device.status().conditions.temperature_c
    device.board.clock.advance(60.0)
    assert 30.0 < device.status().conditions.temperature_c < warm - 10


def test_over_its_limit_a_board_is_slower_and_says_so_until_it_has_cooled_down(model: Path) -> None:
    board = SimulatedBoard(Hardware(cooling=Cooling(limit_c=50.0, slowdown=2.0)))
    device = SimulatedDevice(board)
    cool, hot = measured(device, model), measured(device, model, replace(MINUTE, max_attempts=1))
    assert (cool.flags, cool.attempts) == ((), 1)
    assert {"throttled", "unsteady"} <= set(hot.flags)
    assert hot.latency_ms.max > 1.9 * cool.latency_ms.p50
    assert hot.during.frequency_min_mhz == hot.during.frequency_max_mhz / 2
    tried_again = measured(device, model, MeasuringProtocol(cooldown_s=30.0))
    assert (tried_again.flags, tried_again.attempts) == ((), 2)


def test_a_board_that_is_to_be_cool_waits_for_that_or_is_flagged(model: Path) -> None:
    device = SimulatedDevice()
    measured(device, model, MINUTE)
    cooled = measured(device, model, MeasuringProtocol(max_temperature_c=35.0))
    assert (cooled.flags, cooled.before.temperature_c < 36.0) == ((), True)
    assert "hot" in measured(device, model, MeasuringProtocol(max_temperature_c=20.0)).flags


def test_other_programs_disturb(model: Path) -> None:
    board = SimulatedBoard(behaviour=Behaviour(others_share=0.2))
    found = measured(SimulatedDevice(board), model)
    assert (found.flags, found.attempts, found.during.others_share) == (("disturbed",), 3, 0.2)


# --- memory, disk and energy --------------------------------------------------------------------------------------


def test_a_model_that_is_too_large_for_the_memory_is_refused(model: Path, tmp_path: Path) -> None:
    device = SimulatedDevice(SimulatedBoard(Hardware(memory_bytes=41_000_000)))
    assert code_of(lambda: measured(device, model)) == "out_of_memory"
    assert measured(SimulatedDevice(), model).model_peak_bytes == 1_600_000


def test_a_full_disk_takes_nothing_more_and_keeps_what_it_has(model: Path, tmp_path: Path) -> None:
    device = SimulatedDevice(SimulatedBoard(Hardware(disk_bytes=9_000_000)))
    bundle = live(device, tmp_path, "small")
    large = tmp_path / "large"
    large.write_bytes(bytes(2_000_000))
    assert code_of(lambda: device.push([large])) == "disk_full"
    assert device.push([model]).sent_bytes == 400_000
    assert device.status().update.current == bundle


def test_energy_is_the_sensors_power_for_as_long_as_an_inference_takes(model: Path) -> None:
    sensor = PowerSensor(idle_mw=1000.0, busy_mw=3000.0)
    device = SimulatedDevice(SimulatedBoard(Hardware(sensor=sensor), Behaviour(lambda *_: 2.0)))
    assert "energy:hwmon:ina226" in device.status().sensors
    asked = measured(device, model, MeasuringProtocol(energy=True))
    assert asked.energy_mj == asked.energy.gross_mj == pytest.approx(6.0, rel=0.01)
    assert asked.energy.net_mj == pytest.approx(4.0, rel=0.01)
    assert (asked.energy_method, len(asked.energy.windows)) == ("hwmon:ina226", 5)
    unasked = measured(device, model)
    assert (unasked.energy, unasked.energy_mj) == (None, None)
    assert "energy_mj" in unasked.missing


def test_an_estimate_must_be_allowed(model: Path) -> None:
    board = SimulatedBoard(Hardware(sensor=PowerSensor("estimated:pmic", estimated=True)))
    device = SimulatedDevice(board)
    refused = measured(device, model, MeasuringProtocol(energy=True))
    assert (refused.energy, "estimate" in refused.energy_method) == (None, True)
    allowed = measured(device, model, MeasuringProtocol(energy=True, energy_estimates=True))
    assert allowed.energy.estimated


# --- the link -----------------------------------------------------------------------------------------------------


def test_a_link_breaks_at_the_request_that_was_chosen_and_stays_broken(model: Path) -> None:
    board = SimulatedBoard()
    device = SimulatedDevice(board)
    board.faults.break_link(nth=2, method="measure")
    measured(device, model)
    for _ in range(2):
        with pytest.raises(TransportError, match="the connection broke"):
            measured(device, model)
    again = SimulatedDevice(board)
    assert len(again.status().last_measurements) == 1
    measured(again, model)


def test_an_answer_that_is_lost_had_its_effect_on_the_board(tmp_path: Path) -> None:
    board = SimulatedBoard()
    device = SimulatedDevice(board)
    bundle = checked(device, tmp_path, "new")
    device.activate(bundle)
    board.faults.break_link(method="bundle.commit", served=True)
    with pytest.raises(TransportError):
        device.commit(bundle)
    assert SimulatedDevice(board).status().update.state == "committed"


def test_an_upload_whose_link_broke_goes_on_over_the_next_one(tmp_path: Path) -> None:
    board = SimulatedBoard()
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1_000_000))
    board.faults.break_upload(after_bytes=600_000)
    with pytest.raises(TransportError):
        SimulatedDevice(board).push([path])
    assert SimulatedDevice(board).push([path]).sent_bytes == 400_000
    assert SimulatedDevice(board).push([path]).skipped_files == 1


def test_a_part_of_an_upload_that_was_spoiled_is_sent_anew(tmp_path: Path) -> None:
    board = SimulatedBoard()
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1_000_000))
    board.faults.break_upload(after_bytes=600_000)
    with pytest.raises(TransportError):
        SimulatedDevice(board).push([path])
    board.disk.spoil_parts()
    assert SimulatedDevice(board).push([path]).sent_bytes == 1_000_000


def test_an_interrupt_on_the_host_leaves_the_board_free(model: Path) -> None:
    device = SimulatedDevice()

    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.measure(
            model, runtime="onnxruntime", threads=1, protocol=MeasuringProtocol(), on_event=interrupt
        )
    assert device.status().lease.holder is None
    measured(device, model)


# --- workers, power and the application ---------------------------------------------------------------------------


def test_layers_go_on_in_a_new_worker_when_one_dies(tmp_path: Path) -> None:
    device = SimulatedDevice()
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text(path.name)
    device.board.faults.kill_workers(times=1)
    how = {"runtime": "onnxruntime", "threads": 1, "protocol": MeasuringProtocol()}
    assert [each.error is None for each in device.measure_layers(paths, **how)] == [False, True, True]
    device.board.faults.kill_workers(times=9)
    many = [tmp_path / f"layer{number}" for number in range(12)]
    for path in many:
        path.write_text(path.name)
    assert code_of(lambda: device.measure_layers(many, **how)) == "worker_died"


@pytest.mark.parametrize("served", [False, True])
def test_power_that_is_cut_before_the_commit_brings_the_old_model_back(tmp_path: Path, served: bool) -> None:
    board = SimulatedBoard()
    device = SimulatedDevice(board)
    old, new = live(device, tmp_path, "old"), checked(device, tmp_path, "new")
    device.activate(new)
    board.faults.cut_power(method="bundle.commit", served=served)
    with pytest.raises(TransportError, match="the board went down"):
        device.commit(new)
    update = SimulatedDevice(board).status().update
    assert (update.state, update.current) == (("committed", new) if served else ("idle", old))
    assert update.last.startswith("rolled back") is not served


def test_a_bundle_under_whose_check_the_board_goes_down_three_times_is_bad(tmp_path: Path) -> None:
    board = SimulatedBoard()
    digest = pushed(SimulatedDevice(board), tmp_path, "heavy")
    SimulatedDevice(board).stage(digest)
    for _ in range(3):
        board.clock.after(1.0, board.cut_power)
        with pytest.raises(TransportError):
            SimulatedDevice(board).check(digest)
    assert list(SimulatedDevice(board).status().update.bad) == [digest]
    assert code_of(lambda: SimulatedDevice(board).stage(digest)) == "bundle_bad"


def test_an_application_confirms_after_a_while_or_never(tmp_path: Path) -> None:
    for confirms_after_s, ends in ((20.0, "committed"), (40.0, "idle"), (None, "idle")):
        board = SimulatedBoard(application_confirms_after_s=confirms_after_s)
        device = SimulatedDevice(board)
        device.activate(checked(device, tmp_path, "new"), confirm_within_s=30.0)
        board.clock.advance(15.0)
        assert device.status().update.waits_for_confirmation
        board.clock.advance(30.0)
        assert device.status().update.state == ends


def test_a_wrong_answer_and_a_slow_one_are_reported_by_the_check(tmp_path: Path) -> None:
    board = SimulatedBoard(behaviour=Behaviour(lambda *_: 3.0))
    device = SimulatedDevice(board)
    digest = checked(device, tmp_path, "in time", expected_p50_ms=2.5, margin=0.5)
    board.faults.wrong_answer(0.25)
    report = device.check(digest)
    assert (report.ok, report.max_abs_error) == (False, 0.25)
    assert device.check(digest).ok
    slow = pushed(device, tmp_path, "too slow", expected_p50_ms=1.0, margin=0.5)
    device.stage(slow)
    assert "1.000 were expected" in device.check(slow).why


# --- the turn -----------------------------------------------------------------------------------------------------


def test_the_turn_comes_to_those_who_wait_in_the_order_they_came() -> None:
    device = SimulatedDevice()
    turns, clock = device.board.turns, device.board.clock
    turns.imagine("one", hold_s=100.0)
    turns.imagine("two", hold_s=50.0)
    clock.after(10.0, lambda: turns.imagine("too late", hold_s=1000.0))
    began_s = clock.now_s
    assert (device.status().lease.holder, device.status().lease.waiting) == ("one", 1)
    assert code_of(lambda: device.lease(hold_s=5.0, wait_s=5.0).__enter__()) == "busy"
    with device.lease(hold_s=5.0, wait_s=3600.0):
        assert clock.now_s - began_s == pytest.approx(150.0)
        assert device.status().lease.holder == "a host"
        assert device.status().lease.waiting == 1
    assert device.status().lease.holder == "too late"


def test_who_measures_waits_for_the_turn_too_and_is_told_so(model: Path) -> None:
    board = SimulatedBoard()
    board.turns.imagine("somebody", hold_s=100.0)
    events: list[dict[str, Any]] = []
    SimulatedDevice(board).measure(
        model, runtime="onnxruntime", threads=1, protocol=MeasuringProtocol(), on_event=events.append
    )
    assert next(event for event in events if event["phase"] != "sending") == {
        "phase": "waiting",
        "ahead": 1,
        "holder": "somebody",
    }
    assert board.clock.now_s > 100.0
