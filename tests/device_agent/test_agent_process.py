import dataclasses
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from agent_process import QUICK, AgentProcess, onnx_model
from pydantic import TypeAdapter

from device_agent import __version__
from pipeline.measurement import LayerTiming, Measurement

GONE = hashlib.sha256(b"never sent").hexdigest()


@pytest.fixture
def agent(tmp_path):
    process = AgentProcess(tmp_path / "state")
    yield process
    process.process.kill()
    process.process.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One agent for the tests that leave nothing behind."""
    process = AgentProcess(tmp_path_factory.mktemp("shared"))
    yield process
    process.close()


def how(**changes):
    return {"runtime": "onnxruntime", "threads": 1, "protocol": QUICK, **changes}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def workers_of(pid):
    """The children of a process that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it ended while we looked
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(condition, what):
    for _ in range(2000):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


def upload_bundle(agent, *, model=None, golden=None, runtime="onnxruntime"):
    values = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    files = {
        "model.onnx": model or onnx_model(),
        "golden_input.npy": npy(values),
        "golden_output.npy": npy(np.maximum(values * 0.5, 0)) if golden is None else golden,
    }
    document = {
        "format": 1,
        "name": "chain",
        "model": {"file": "model.onnx", "runtime": runtime, "threads": 1},
        "files": {name: {"sha256": agent.put(data), "size": len(data)} for name, data in files.items()},
        "golden": {
            "inputs": ["golden_input.npy"],
            "outputs": ["golden_output.npy"],
            "tolerance": {"rtol": 1e-3, "atol": 1e-3},
        },
    }
    return agent.put(json.dumps(document, sort_keys=True).encode())


def test_hello_states_the_protocol(shared):
    assert shared.hello == {"hello": {"protocol": 1, "agent_version": __version__}}


def test_status_tells_board_runtimes_and_update(shared):
    status = shared.result("status")
    assert set(status) == {
        "agent_version",
        "protocol",
        "board",
        "runtimes",
        "sensors",
        "conditions",
        "disk_free_bytes",
        "update",
        "active",
        "agent_update",
        "trust",
        "uptime_s",
        "lease",
        "last_measurements",
    }
    assert "onnxruntime" in [runtime["name"] for runtime in status["runtimes"]]
    assert status["board"]["cores"] >= 1
    assert status["update"]["current"] is None
    assert status["active"] is None


def test_a_measurement_has_exactly_the_fields_that_the_host_reads(shared):
    model = shared.put(onnx_model())
    shared.events.clear()
    found = shared.result("measure", how(file=model))
    assert set(found) == {field.name for field in dataclasses.fields(Measurement)} - {"replayed_from"}
    measurement = TypeAdapter(Measurement).validate_python(found)
    assert measurement.file_sha256 == model
    assert measurement.file_bytes == len(onnx_model())
    assert measurement.runs >= QUICK["min_runs"]
    assert measurement.latency_ms.min <= measurement.latency_ms.p50 <= measurement.latency_ms.max
    assert len(measurement.cores) == 1
    assert 0 < measurement.model_peak_bytes < measurement.process_peak_bytes
    assert min(dataclasses.astuple(measurement.cold_start)) > 0
    assert {event["phase"] for event in shared.events} >= {"warmup", "measure"}


def test_a_model_with_more_weights_has_a_greater_peak(shared):
    peaks = [
        shared.result("measure", how(file=shared.put(onnx_model(width))))["model_peak_bytes"]
        for width in (16, 2048)
    ]
    assert peaks[1] - peaks[0] > 2048 * 2048 * 4 * 0.9


def test_layers_are_timed_in_order_and_one_that_fails_does_not_end_the_batch(shared):
    files = [shared.put(data) for data in (onnx_model(8), b"no model", onnx_model(512), b"")]
    found = shared.result("measure_layers", how(files=files))
    timings = TypeAdapter(tuple[LayerTiming, ...]).validate_python(found["timings"])
    assert [timing.file_sha256 for timing in timings] == files
    small, broken, large, empty = timings
    assert small.error is None
    assert 0 < small.p50_ms < large.p50_ms
    assert broken.error
    assert empty.error
    assert broken.runs == 0
    assert found["runtime_version"]
    assert shared.events[-1] == {"phase": "layers", "done": 4, "of": 4}


def test_two_hundred_small_models_come_back(shared):
    files = [shared.put(onnx_model(width)) for width in range(4, 204)]
    timings = shared.result("measure_layers", how(files=files))["timings"]
    assert len(timings) == 200
    assert all(timing["error"] is None and timing["runs"] >= 10 for timing in timings)


def test_a_tflite_model_is_measured(shared):
    pytest.importorskip("ai_edge_litert")
    from tflite_file import tflite_add

    found = shared.result("measure", how(file=shared.put(tflite_add()), runtime="tflite"))
    assert found["latency_ms"]["p50"] > 0
    timings = shared.result("measure_layers", how(files=[shared.put(tflite_add())], runtime="tflite"))[
        "timings"
    ]
    assert timings[0]["error"] is None


@pytest.mark.parametrize(
    ("method", "change", "code"),
    [
        ("measure", {"file": GONE}, "unknown_file"),
        ("measure", {"runtime": "tensorrt"}, "runtime_missing"),
        ("measure", {"threads": 4096}, "bad_request"),
        ("measure", {"threads": 0}, "bad_request"),
        ("measure", {"file": "../../etc/passwd"}, "bad_request"),
        ("measure", {"protocol": {"min_runs": "many"}}, "bad_request"),
        ("measure_layers", {"files": [GONE]}, "unknown_file"),
        ("measure_layers", {"files": [1]}, "bad_request"),
        ("files.put", {"sha256": "../x", "size": 1, "offset": 0}, "bad_request"),
        ("files.put", {"sha256": GONE, "size": -1, "offset": 0}, "bad_request"),
        ("files.missing", {"files": [GONE]}, "bad_request"),
        ("bundle.stage", {"manifest_sha256": GONE}, "unknown_file"),
        ("bundle.check", {"bundle": GONE}, "not_staged"),
        ("bundle.activate", {"bundle": GONE}, "not_checked"),
        ("bundle.commit", {"bundle": GONE}, "not_activated"),
        ("shutdown", {}, "bad_request"),
    ],
)
def test_a_request_that_cannot_be_served_has_its_code(shared, method, change, code):
    model = shared.put(onnx_model())
    error = shared.error(method, {**how(file=model, files=[model]), **change})
    assert error["code"] == code
    assert error["message"]


def test_a_file_that_is_no_model_is_refused_in_one_line(shared):
    error = shared.error("measure", how(file=shared.put(b"no model")))
    assert error["code"] == "model_refused"
    assert "\n" not in error["message"]


def test_what_is_missing_is_told_with_the_bytes_already_there(shared):
    data = os.urandom(5000)
    sha256 = hashlib.sha256(data).hexdigest()
    put = {"sha256": sha256, "size": 5000}
    asked = {"files": [{"sha256": sha256, "size": 5000}, {"sha256": shared.put(b"here"), "size": 4}]}
    assert shared.result("files.missing", asked) == {"missing": [{"sha256": sha256, "offset": 0}]}
    shared.ask("files.put", {**put, "offset": 0}, data[:3000])
    assert shared.result("files.missing", asked) == {"missing": [{"sha256": sha256, "offset": 3000}]}
    assert shared.ask("files.put", {**put, "offset": 3000}, data[3000:])["result"] == {"received": 5000}
    assert shared.result("files.missing", asked) == {"missing": []}


def test_chunks_sent_without_waiting_arrive_in_order(shared):
    data = os.urandom(64 * 1000)
    sha256 = hashlib.sha256(data).hexdigest()
    numbers = [
        shared.begin("files.put", {"sha256": sha256, "size": len(data), "offset": at}, data[at : at + 1000])
        for at in range(0, len(data), 1000)
    ]
    answers = [shared.answer(number) for number in numbers]
    assert answers[-1]["result"] == {"received": len(data)}


def test_a_measurement_can_be_cancelled_and_the_agent_goes_on(agent):
    model = agent.put(onnx_model())
    number = agent.begin(
        "measure", how(file=model, protocol={**QUICK, "min_duration_s": 60, "max_duration_s": 60})
    )
    while agent.read().get("event", {}).get("phase") != "measure":
        pass
    waiting = agent.begin("measure", how(file=model))
    agent.send({"cancel": waiting})
    agent.send({"cancel": number})
    codes = set()
    while len(codes) < 2:
        header = agent.read()
        if "error" in header:
            codes.add((header["id"], header["error"]["code"]))
    assert codes == {(waiting, "cancelled"), (number, "cancelled")}
    assert agent.result("measure", how(file=model))["runs"] > 0
    assert not workers_of(agent.process.pid)


def test_status_is_answered_while_a_measurement_runs(agent):
    model = agent.put(onnx_model())
    number = agent.begin(
        "measure", how(file=model, protocol={**QUICK, "min_duration_s": 60, "max_duration_s": 60})
    )
    while agent.read().get("event", {}).get("phase") != "measure":
        pass
    status = agent.begin("status")
    while (header := agent.read()).get("id") != status:
        pass
    assert header["result"]["protocol"] == 1
    agent.send({"cancel": number})
    assert agent.answer(number)["error"]["code"] == "cancelled"


def test_a_worker_that_takes_too_long_is_ended(agent):
    model = agent.put(onnx_model())
    agent.result("measure", how(file=model))
    protocol = {**QUICK, "min_duration_s": 60, "max_duration_s": 60, "timeout_s": 1.0}
    assert agent.error("measure", how(file=model, protocol=protocol))["code"] == "timed_out"
    assert not workers_of(agent.process.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_told_with_its_signal(agent, number):
    model = agent.put(onnx_model())
    request = agent.begin(
        "measure", how(file=model, protocol={**QUICK, "min_duration_s": 60, "max_duration_s": 60})
    )
    while agent.read().get("event", {}).get("phase") != "measure":
        pass
    os.kill(workers_of(agent.process.pid)[0], number)
    error = agent.answer(request)["error"]
    assert error["code"] == "worker_died"
    assert signal.Signals(number).name in error["message"]
    assert agent.result("status")["protocol"] == 1


def test_a_table_survives_a_worker_that_dies(agent):
    files = [agent.put(onnx_model(width)) for width in range(4, 54)]
    number = agent.begin("measure_layers", how(files=files))
    while agent.read().get("event", {}).get("phase") != "layers":
        pass
    os.kill(workers_of(agent.process.pid)[0], signal.SIGKILL)
    timings = agent.answer(number)["result"]["timings"]
    assert [timing["file_sha256"] for timing in timings] == files
    errors = [timing["error"] for timing in timings if timing["error"]]
    assert len(errors) == 1
    assert "SIGKILL" in errors[0]


@pytest.mark.parametrize("how_it_ends", ["eof", "term", "kill"])
def test_no_worker_outlives_the_agent(agent, how_it_ends):
    model = agent.put(onnx_model())
    agent.begin("measure", how(file=model, protocol={**QUICK, "min_duration_s": 60, "max_duration_s": 60}))
    while agent.read().get("event", {}).get("phase") != "measure":
        pass
    (worker,) = workers_of(agent.process.pid)
    if how_it_ends == "eof":
        assert agent.close() == 0
    elif how_it_ends == "term":
        agent.process.terminate()
        assert agent.process.wait(timeout=20) == 0
    else:
        agent.process.kill()

    def gone():
        try:
            return Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    wait_for(gone, "the worker's end")


def test_an_interrupt_is_left_to_the_host(agent):
    agent.process.send_signal(signal.SIGINT)
    assert agent.result("status")["protocol"] == 1


def test_a_second_agent_on_the_same_folder_is_told_who_holds_it(agent, tmp_path):
    second = AgentProcess(tmp_path / "state")
    error = second.hello["error"]
    assert error["code"] == "locked"
    assert str(agent.process.pid) in error["message"]
    assert second.process.wait(timeout=20) == 4
    assert agent.close() == 0
    third = AgentProcess(tmp_path / "state")
    assert "hello" in third.hello
    third.close()


def test_a_host_of_another_protocol_is_refused(tmp_path):
    agent = AgentProcess(tmp_path, hello=False)
    agent.send({"hello": {"protocols": [99], "client": "tests"}})
    assert agent.read()["error"]["code"] == "protocol_mismatch"
    assert agent.process.wait(timeout=20) == 3


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n", struct.pack(">II", 2, 0) + b"[]"])
def test_bytes_that_are_no_frames_end_the_connection_with_a_word(tmp_path, data):
    agent = AgentProcess(tmp_path, hello=False)
    agent.process.stdin.write(data)
    agent.process.stdin.flush()
    assert agent.read()["error"]["code"] == "bad_frame"
    assert agent.process.wait(timeout=20) == 3


def test_a_bundle_is_staged_checked_activated_and_committed(agent, tmp_path):
    bundle = upload_bundle(agent)
    assert agent.result("bundle.stage", {"manifest_sha256": bundle}) == {"bundle": bundle, "signed_by": None}
    assert agent.error("bundle.activate", {"bundle": bundle})["code"] == "not_checked"
    check = agent.result("bundle.check", {"bundle": bundle})
    assert check["ok"] is True
    assert check["max_abs_error"] < 1e-6
    assert check["tolerance"] == {"rtol": 1e-3, "atol": 1e-3}
    assert check["latency_p50_ms"] > 0
    assert agent.result("status")["update"]["staged"] == bundle
    assert agent.result("bundle.activate", {"bundle": bundle}) == {"generation": 1}
    assert agent.result("bundle.commit", {"bundle": bundle}) == {"generation": 1}
    status = agent.result("status")
    assert status["active"]["file"] == "model.onnx"
    assert status["update"] == {
        "state": "committed",
        "generation": 1,
        "current": bundle,
        "previous": None,
        "waits_for_confirmation": False,
        "sequence": 0,
        "bad": {},
        "last": "",
        "fault": None,
        "staged": None,
    }
    assert (tmp_path / "state/active/current/model.onnx").read_bytes() == onnx_model()
    stray = agent.put(b"stray")
    assert agent.result("files.collect", {"keep": []}) == {"removed": 1, "freed_bytes": 5}
    assert agent.result("files.missing", {"files": [{"sha256": stray, "size": 5}]})["missing"]


def test_an_activation_is_rolled_back_when_the_agent_is_killed_before_the_commit(agent, tmp_path):
    bundle = upload_bundle(agent)
    agent.result("bundle.stage", {"manifest_sha256": bundle})
    agent.result("bundle.check", {"bundle": bundle})
    agent.result("bundle.activate", {"bundle": bundle})
    agent.process.kill()
    agent.process.wait()
    again = AgentProcess(tmp_path / "state")
    assert again.result("status")["update"]["current"] is None
    again.close()
    assert not (tmp_path / "state/active").exists()


@pytest.mark.parametrize(
    "golden",
    [np.ones((1, 16), np.float32), np.zeros((1, 4), np.float32), np.full((1, 16), np.nan, np.float32)],
)
def test_a_bundle_whose_outputs_differ_fails_its_check_and_cannot_be_activated(shared, golden):
    bundle = upload_bundle(shared, golden=npy(golden))
    shared.result("bundle.stage", {"manifest_sha256": bundle})
    assert shared.result("bundle.check", {"bundle": bundle})["ok"] is False
    assert shared.error("bundle.activate", {"bundle": bundle})["code"] == "not_checked"
    assert shared.result("bundle.rollback") == {"current": None}


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"model": b"no model"}, "model_refused"),
        ({"golden": b"\x93NUMPY rubbish"}, "bad_manifest"),
        ({"golden": b""}, "bad_manifest"),
        ({"runtime": "tensorrt"}, "runtime_missing"),
    ],
)
def test_a_bundle_that_cannot_be_run_says_why(shared, parts, code):
    bundle = upload_bundle(shared, **parts)
    shared.result("bundle.stage", {"manifest_sha256": bundle})
    assert shared.error("bundle.check", {"bundle": bundle})["code"] == code
    shared.result("bundle.rollback")


def test_a_pickle_in_place_of_an_array_is_not_opened(shared):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    bundle = upload_bundle(shared, golden=stream.getvalue())
    shared.result("bundle.stage", {"manifest_sha256": bundle})
    assert shared.error("bundle.check", {"bundle": bundle})["code"] == "bad_manifest"
    shared.result("bundle.rollback")


def test_the_command_prints_version_and_status(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "device_agent", *arguments], capture_output=True, text=True, check=False
        )

    assert run("--version").stdout == f"device-agent {__version__}\n"
    assert json.loads(run("status", "--json", "--state", str(tmp_path)).stdout)["update"]["state"] == "idle"
    assert run("no-such-command").returncode == 2
    (tmp_path / "file").write_text("")
    wrong = run("status", "--state", str(tmp_path / "file"))
    assert wrong.returncode == 4
    assert "Traceback" not in wrong.stderr
