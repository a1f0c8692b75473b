"""What a device answers and measures: the simulator, a standalone agent, a daemon beyond a bridge, one beyond SSH.

A difference between them is a fault of the simulator, or of the agent. For updates see test_update_contract.py.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from contract_models import Bench, Simulated, code_of, differences, digest_of, shape
from device_models import QUICK

from pipeline.device.upload import CHUNK_BYTES, WINDOW
from pipeline.errors import AgentError, InputError, TransportError
from pipeline.measurement import Measurement

HOW: dict[str, Any] = {"runtime": "onnxruntime", "threads": 1, "protocol": QUICK}
PHASES = {"sending", "waiting", "warmup", "measure", "cooldown", "operators", "idle", "energy", "layers"}
SOME = "0" * 64


# --- answers ------------------------------------------------------------------------------------------------------


def test_every_answer_has_the_same_fields_as_the_simulators(bench, device, factory, tmp_path) -> None:
    """Asked on the link itself, for the client passes over what it does not know."""
    reference = Bench(Simulated(tmp_path))
    files = {"bundle": factory.bundle(), "model": factory.model()}
    expected, found = answers(reference, **files), answers(bench, **files)
    assert found.keys() == expected.keys()
    assert [each for name in found for each in differences(found[name], expected[name], name)] == []


def answers(bench: Bench, bundle: Any, model: Path) -> dict[str, Any]:
    """Return the shapes of the answers to every request that a host makes."""
    asked: dict[str, Any] = {}
    link = bench.device._link

    def ask(method: str, payload: bytes = b"", **params: Any) -> Any:
        result = link.start(method, params, payload).result(60.0)
        asked[method] = shape(result)
        return result

    how = {**HOW, "protocol": asdict(replace(QUICK, operators=True))}
    content, digest = model.read_bytes(), digest_of(model)
    ask("files.missing", files=[{"sha256": digest, "size": len(content)}], purpose="measure")
    ask("files.put", content, sha256=digest, size=len(content), offset=0, purpose="measure")
    ask("lease.acquire", hold_s=60.0, wait_s=0.0)
    ask("status")
    ask("measure", file=digest, **how)
    ask("measure_layers", files=[digest], **how)
    ask("lease.release")
    bench.device.push(bundle.files)
    ask("bundle.stage", manifest_sha256=bundle.digest, signatures=[], allow_downgrade=False)
    ask("bundle.check", bundle=bundle.digest)
    ask("bundle.activate", bundle=bundle.digest, confirm_within_s=None)
    ask("bundle.commit", bundle=bundle.digest)
    ask("bundle.confirm", bundle=bundle.digest)
    ask("bundle.rollback", to_previous=False)
    ask("bundle.mark_bad", bundle=SOME, why="it was only a test")
    ask("files.collect", keep=[])
    ask("status")
    return asked


def test_the_status_tells_of_the_board_and_of_nothing_under_way(device) -> None:
    status = device.status()
    assert status.protocol == 1
    assert status.agent_version == device.agent_version
    assert status.board.cores == len(os.sched_getaffinity(0))
    assert status.runtime("onnxruntime").version[0].isdigit()
    assert status.runtime("none such") is None
    assert status.trust == "any bundle"
    assert status.update.state in ("idle", "committed")
    assert not status.update.waits_for_confirmation
    assert status.update.fault is None
    assert (status.lease.holder, status.lease.seconds_left, status.lease.waiting) == (None, None, 0)
    assert device.status().uptime_s > status.uptime_s


def test_a_closed_connection_is_of_no_more_use(set_up) -> None:
    device = set_up().agent.connect()
    device.close()
    device.close()
    with pytest.raises(TransportError, match="closed"):
        device.status()


# --- files --------------------------------------------------------------------------------------------------------


def test_a_push_sends_every_content_once_and_tells_its_progress(device, factory) -> None:
    big = factory.file(os.urandom(700_000))
    same, empty = factory.file(big.read_bytes()), factory.file(os.urandom(0))
    device.collect()
    seen: list[tuple[int, int]] = []
    report = device.push([big, same, empty], lambda *step: seen.append(step))
    assert (report.sent_bytes, report.skipped_files) == (700_000, 0)
    assert seen == [(sent, 700_000) for sent in (262_144, 524_288, 700_000, 700_000)]
    again = device.push([big, empty], lambda *_: pytest.fail("nothing was to be sent"))
    assert (again.sent_bytes, again.skipped_files) == (0, 2)


def test_an_upload_that_was_given_up_goes_on_where_it_stopped(device, factory) -> None:
    big = factory.file(os.urandom((WINDOW + 2) * CHUNK_BYTES))

    class GivenUpError(Exception):
        pass

    def give_up(sent: int, total: int) -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        device.push([big], give_up)
    assert device.push([big]).sent_bytes == 2 * CHUNK_BYTES
    assert device.push([big]).skipped_files == 1


def test_a_file_that_is_not_there_is_named(device, tmp_path) -> None:
    with pytest.raises(InputError, match="gone cannot be sent"):
        device.push([tmp_path / "gone"])


def test_collecting_leaves_what_is_asked_for_and_what_bundles_need(bench, device, factory) -> None:
    keep, drop = factory.file(b"keep" * 100), factory.file(b"drop" * 100)
    device.collect()
    bundle = bench.staged(factory.bundle())
    device.push([keep, drop])
    report = device.collect({digest_of(keep)})
    assert (report.removed, report.freed_bytes) == (1, 400)
    assert device.push([keep, drop, *bundle.files]).sent_bytes == 400
    assert code_of(lambda: device.collect({"no digest"})) == "bad_request"


def test_what_does_not_fit_is_refused_and_what_came_before_it_stays(set_up, factory) -> None:
    device = set_up(quota_mb=1).device
    small, large = factory.file(os.urandom(600_000)), factory.file(os.urandom(1_100_000))
    assert code_of(lambda: device.push([large])) == "over_quota"
    device.push([small])
    assert device.push([small]).skipped_files == 1


def test_files_that_nobody_needs_make_room_the_one_used_longest_ago_first(set_up, factory) -> None:
    device = set_up(quota_mb=1).device
    first, second, third = (factory.file(os.urandom(400_000)) for _ in range(3))
    device.push([first])
    device.push([second])
    device.push([third])
    assert device.push([second, third]).skipped_files == 2
    assert device.push([first]).skipped_files == 0


# --- measuring ----------------------------------------------------------------------------------------------------


def test_files_of_one_push_do_not_drive_each_other_out(set_up, factory) -> None:
    device = set_up(quota_mb=1).device
    three = [factory.file(os.urandom(400_000)) for _ in range(3)]
    assert code_of(lambda: device.push(three)) == "over_quota"


def test_a_measured_file_is_taken_into_a_bundle_without_room_for_two(set_up, factory) -> None:
    device, junk = set_up(quota_mb=1).device, factory.file(os.urandom(600_000))
    assert code_of(lambda: device.measure(junk, **HOW)) == "model_refused"
    assert device.push([junk]).skipped_files == 1


def test_a_measurement_says_what_it_found_and_why_anything_is_missing(device, factory) -> None:
    model, events = factory.model(), []
    wanted = replace(QUICK, operators=True, energy=True)
    measured = device.measure(model, **{**HOW, "protocol": wanted}, on_event=events.append)
    assert (measured.file_sha256, measured.file_bytes) == (digest_of(model), model.stat().st_size)
    assert (measured.runtime, measured.threads, len(measured.cores)) == ("onnxruntime", 1, 1)
    assert measured.runtime_version == device.status().runtime("onnxruntime").version
    assert measured.runs >= QUICK.min_runs
    assert measured.duration_s > 0
    assert 1 <= measured.attempts <= wanted.max_attempts
    assert (measured.energy is None) == measured.energy_method.startswith("unavailable: ")
    assert measured.operators is None or sum(each.share for each in measured.operators) == pytest.approx(1.0)
    assert set(measured.missing) == set(absent(measured))
    assert all(measured.missing.values())
    assert set(measured.flags) <= {"unsteady", "slowed", "throttled", "disturbed", "hot"}
    assert {event["phase"] for event in events} <= PHASES
    assert all(isinstance(event["done"], int) and event["of"] >= 1 for event in events)
    assert [event["phase"] for event in events][:3] == ["sending", "warmup", "measure"]
    assert min(asdict(measured.cold_start).values()) > 0
    assert measured.process_peak_bytes > (measured.model_peak_bytes or 0)
    assert measured.replayed_from is None


def absent(measured: Measurement) -> list[str]:
    """Return the names of what a measurement owes a reason for."""
    owed = {
        **{f"latency_ms.{name}": value for name, value in asdict(measured.latency_ms).items()},
        **asdict(measured.after),
        "during.others_share": measured.during.others_share,
        "model_peak_bytes": measured.model_peak_bytes,
        "operators": measured.operators,
        "energy_mj": measured.energy_mj,
    }
    return [name for name, value in owed.items() if value is None]


def test_the_figures_of_a_latency_are_in_order_and_stated_only_with_enough_runs(device, factory) -> None:
    one_run = replace(QUICK, min_runs=1, min_duration_s=0.0, max_duration_s=0.0, warmup_max_s=0.0)
    many_runs = replace(QUICK, min_runs=700, max_duration_s=5.0)
    few, many = (
        device.measure(factory.model(), **{**HOW, "protocol": protocol}) for protocol in (one_run, many_runs)
    )
    assert (few.runs, few.latency_ms.p90, few.latency_ms.p95, few.latency_ms.p99) == (1, None, None, None)
    assert few.latency_ms.min == few.latency_ms.p50 == few.latency_ms.max
    stated = many.latency_ms
    assert 0 < stated.min <= stated.p50 <= stated.p90 <= stated.p95 <= stated.p99 <= stated.max
    assert stated.min <= stated.mean <= stated.max
    assert many.spread_ms <= stated.max - stated.min


def test_energy_and_operators_that_nobody_asked_for_are_not_there(device, factory) -> None:
    measured = device.measure(factory.model(), **HOW)
    assert (measured.energy, measured.energy_mj, measured.operators) == (None, None, None)
    assert measured.energy_method == "unavailable: not asked for"
    assert measured.missing["energy_mj"].startswith("not asked for")
    assert measured.missing["operators"] == "not asked for"


def test_the_latest_measurements_are_remembered_the_last_one_first(device, factory) -> None:
    found = [device.measure(factory.model(), **HOW) for _ in range(2)]
    remembered = device.status().last_measurements
    assert [each.file_sha256 for each in remembered[:2]] == [each.file_sha256 for each in reversed(found)]
    assert remembered[0].p50_ms == found[1].latency_ms.p50
    assert remembered[0].at >= remembered[1].at
    assert len(remembered) <= 5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"runtime": "none such"}, "runtime_missing"),
        ({"runtime": ""}, "bad_request"),
        ({"threads": 0}, "bad_request"),
        ({"threads": 4096}, "bad_request"),
        ({"protocol": replace(QUICK, min_runs=0)}, "bad_request"),
        ({"protocol": replace(QUICK, cooldown_s=-1.0)}, "bad_request"),
        ({"protocol": replace(QUICK, energy="yes")}, "bad_request"),
    ],
)
def test_what_cannot_be_measured_has_a_code(device, factory, change: dict[str, Any], code: str) -> None:
    model = factory.model()
    assert code_of(lambda: device.measure(model, **{**HOW, **change})) == code
    assert code_of(lambda: device.measure_layers([model], **{**HOW, **change})) == code


def test_a_model_that_the_runtime_refuses_is_the_agents_error(device, factory) -> None:
    junk = factory.file(b"junk")
    assert code_of(lambda: device.measure(junk, **HOW)) == "model_refused"


def test_a_measurement_that_takes_too_long_is_ended(device, factory) -> None:
    device.measure(factory.model(), **HOW)  # the runtime without a model is known from now on
    endless = replace(QUICK, min_runs=10**8, max_duration_s=100.0, timeout_s=1.0)
    assert code_of(lambda: device.measure(factory.model(), **{**HOW, "protocol": endless})) == "timed_out"


def test_a_worker_that_dies_ends_its_request_only(bench, device, factory) -> None:
    device.status()
    with bench.agent.dying_workers():
        assert code_of(lambda: device.measure(factory.model(), **HOW)) == "worker_died"
    assert device.measure(factory.model(), **HOW).runs > 0


def test_layers_are_timed_in_order_and_a_bad_one_does_not_stop_the_others(device, factory) -> None:
    first, junk, last = factory.model(), factory.file(b"junk"), factory.model()
    events: list[dict[str, Any]] = []
    timings = device.measure_layers([first, junk, last, first], **HOW, on_event=events.append)
    assert [each.file_sha256 for each in timings] == [digest_of(path) for path in (first, junk, last, first)]
    assert [each.error is None for each in timings] == [True, False, True, True]
    assert [(each.p50_ms > 0, each.runs > 0) for each in timings] == [
        (each.error is None,) * 2 for each in timings
    ]
    assert events[-1] == {"phase": "layers", "done": 4, "of": 4}
    assert device.measure_layers([], **HOW) == ()


def test_what_was_sent_to_be_measured_is_staged_only_when_it_is_sent_for_that(bench, device, factory) -> None:
    bundle = factory.bundle()
    manifest = next(path for path in bundle.files if path.name == "manifest.json")
    assert code_of(lambda: device.measure(manifest, **HOW)) == "model_refused"
    assert code_of(lambda: device.stage(bundle.digest)) == "unknown_file"
    assert device.push([manifest]).skipped_files == 1
    assert code_of(lambda: device.stage(bundle.digest)) == "missing_files"
    bench.staged(bundle)


# --- the turn -----------------------------------------------------------------------------------------------------


def test_a_lease_is_told_prolonged_and_given_back(device) -> None:
    with device.lease(hold_s=60.0, wait_s=0.0):
        held = device.status().lease
        assert held.holder
        assert 0 < held.seconds_left <= 60.0
        with device.lease(hold_s=600.0, wait_s=0.0):
            assert device.status().lease.seconds_left > 60.0
        assert device.status().lease.holder is None


@pytest.mark.parametrize(("hold_s", "wait_s"), [(-1.0, 0.0), (1e9, 0.0), ("long", 0.0), (1.0, -1.0)])
def test_a_lease_is_for_a_number_of_seconds(device, hold_s: Any, wait_s: float) -> None:
    with pytest.raises(AgentError) as caught, device.lease(hold_s=hold_s, wait_s=wait_s):
        pass
    assert caught.value.code == "bad_request"


def test_another_host_waits_for_the_turn_as_long_as_it_wants(set_up, factory) -> None:
    bench = set_up()
    with bench.agent.connect() as second:
        with bench.device.lease(hold_s=60.0, wait_s=0.0):
            with pytest.raises(AgentError) as caught, second.lease(hold_s=1.0, wait_s=0.05):
                pass
            assert caught.value.code == "busy"
            assert bench.device.measure(factory.model(), **HOW).runs > 0
        with second.lease(hold_s=1.0, wait_s=0.0):
            assert second.status().lease.holder


def test_a_lease_ends_with_its_time(set_up) -> None:
    bench = set_up()
    first_s, second_s = {"hold_s": 0.3, "wait_s": 0.0}, {"hold_s": 60.0, "wait_s": 30.0}
    with bench.agent.connect() as second, bench.device.lease(**first_s), second.lease(**second_s):
        assert second.status().lease.seconds_left > 1.0


def test_a_lease_ends_with_its_connection(set_up) -> None:
    bench = set_up()
    held = bench.device.lease(hold_s=600.0, wait_s=0.0)
    held.__enter__()
    bench.disconnect()
    with pytest.raises(TransportError):
        held.__exit__(None, None, None)
    with bench.device.lease(hold_s=1.0, wait_s=30.0):
        assert bench.device.status().lease.holder
