"""The client against the real agent: one agent process for most tests, one of their own where it must die."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device_models import LONG, QUICK, weights_of, write_model

from pipeline.bundle import Bundle, build
from pipeline.data.preprocess import Preprocess
from pipeline.device.client import DeviceClient
from pipeline.device.local import LocalTransport
from pipeline.errors import AgentError, InputError, TransportError


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceClient]:
    with DeviceClient(LocalTransport(tmp_path_factory.mktemp("state"))) as client:
        yield client


def bundle_of(folder: Path, seed: int, *, wrong: bool = False) -> Bundle:
    model = write_model(folder / f"model{seed}.onnx", seed)
    question = np.ones((1, 4), dtype=np.float32)
    return build(
        folder / f"bundle{seed}",
        model_file=model,
        name="product",
        run="r1",
        runtime="onnxruntime",
        threads=1,
        preprocess=Preprocess(),
        labels=None,
        golden_input=question,
        golden_output=(question @ weights_of(model) + (1.0 if wrong else 0.0)).astype(np.float32),
    )


def put_live(device: DeviceClient, bundle: Bundle) -> int:
    device.push(bundle.files)
    device.stage(bundle.digest)
    assert device.check(bundle.digest).ok
    return device.activate(bundle.digest)


def test_status_tells_the_board_and_its_runtimes(device: DeviceClient) -> None:
    status = device.status()
    assert status.board.cores >= 1
    assert status.disk_free_bytes > 0
    assert status.agent_version == device.agent_version
    onnxruntime = status.runtime("onnxruntime")
    assert onnxruntime is not None
    assert onnxruntime.version[0].isdigit()
    assert status.runtime("none such") is None


def test_a_file_is_sent_once(device: DeviceClient, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(700_000))
    (tmp_path / "same").write_bytes((tmp_path / "big").read_bytes())
    (tmp_path / "empty").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    report = device.push(
        [tmp_path / "big", tmp_path / "same", tmp_path / "empty"], lambda *step: seen.append(step)
    )
    assert (report.sent_bytes, report.skipped_files) == (700_000, 0)
    assert seen[-1] == (700_000, 700_000)
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)
    again = device.push([tmp_path / "big", tmp_path / "empty"])
    assert (again.sent_bytes, again.skipped_files) == (0, 2)


@pytest.mark.parametrize(("there", "sent"), [(b"first half ", 11), (b"first half second half", 0)])
def test_an_upload_that_broke_off_goes_on_where_it_stopped(tmp_path: Path, there: bytes, sent: int) -> None:
    content = b"first half second half"
    (tmp_path / "file").write_bytes(content)
    incoming = tmp_path / "state" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / hashlib.sha256(content).hexdigest()).write_bytes(there)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        assert device.push([tmp_path / "file"]).sent_bytes == sent
        assert device.push([tmp_path / "file"]).skipped_files == 1


def test_a_spoiled_part_of_an_upload_is_sent_anew(tmp_path: Path) -> None:
    content = b"first half second half"
    (tmp_path / "file").write_bytes(content)
    incoming = tmp_path / "state" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / hashlib.sha256(content).hexdigest()).write_bytes(b"\0" * 11)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        assert device.push([tmp_path / "file"]).sent_bytes == len(content)


def test_a_file_that_is_not_there_is_named(device: DeviceClient, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone cannot be sent"):
        device.push([tmp_path / "gone"])


def test_measuring_pushes_the_file_and_tells_how_it_was_done(device: DeviceClient, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", seed=1)
    phases: list[object] = []
    measured = device.measure(
        model, runtime="onnxruntime", threads=1, protocol=QUICK, on_event=lambda e: phases.append(e["phase"])
    )
    assert measured.file_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert measured.file_bytes == model.stat().st_size
    assert measured.runs >= QUICK.min_runs
    assert 0 < measured.latency_ms.min <= measured.latency_ms.p50 <= measured.latency_ms.max
    assert measured.replayed_from is None
    assert "measure" in phases


def test_layer_times_come_in_the_order_asked_for_and_a_bad_layer_does_not_stop_the_others(
    device: DeviceClient, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    layers = [write_model(tmp_path / "a.onnx", 2), junk, write_model(tmp_path / "b.onnx", 3, width=64)]
    timings = device.measure_layers(layers, runtime="onnxruntime", threads=1, protocol=QUICK)
    assert [t.file_sha256 for t in timings] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in layers]
    assert [timing.error is None for timing in timings] == [True, False, True]
    assert timings[0].p50_ms > 0


def test_what_the_runtime_refuses_is_the_agents_error(device: DeviceClient, tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(AgentError) as caught:
        device.measure(tmp_path / "junk.onnx", runtime="onnxruntime", threads=1, protocol=QUICK)
    assert caught.value.code == "model_refused"
    assert device.status().board.cores >= 1


def test_a_bundle_goes_live_in_steps_and_an_uncommitted_one_is_undone(tmp_path: Path) -> None:
    first, second = bundle_of(tmp_path, 1), bundle_of(tmp_path, 2)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        generation = put_live(device, first)
        assert device.commit(first.digest) == generation
        assert device.status().update.current == first.digest
        assert put_live(device, second) > generation
        assert device.status().update.current == second.digest
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        assert device.status().update.current == first.digest
        put_live(device, second)
        assert device.rollback() == first.digest
        assert device.collect().removed >= 0
        put_live(device, second)
        device.commit(second.digest)
        update = device.status().update
        assert (update.current, update.previous) == (second.digest, first.digest)


def test_a_model_that_answers_otherwise_is_not_activated(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, 5, wrong=True)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        device.push(bundle.files)
        device.stage(bundle.digest)
        report = device.check(bundle.digest)
        assert not report.ok
        assert report.max_abs_error == pytest.approx(1.0, abs=1e-3)
        with pytest.raises(AgentError) as caught:
            device.activate(bundle.digest)
        assert caught.value.code == "not_checked"
        assert device.status().update.current is None


def test_collecting_frees_what_nothing_refers_to(tmp_path: Path) -> None:
    for name in ("keep", "drop"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        device.push([tmp_path / "keep", tmp_path / "drop"])
        report = device.collect({hashlib.sha256(b"keep" * 100).hexdigest()})
        assert (report.removed, report.freed_bytes) == (1, 400)


def test_an_agent_killed_during_a_measurement_is_a_transport_error_not_a_hang(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "state", "bench")
    with DeviceClient(transport) as device:
        model = write_model(tmp_path / "m.onnx")

        def kill(event: dict[str, object]) -> None:
            if event["phase"] == "measure":
                os.kill(transport.pid or 0, signal.SIGKILL)

        with pytest.raises(
            TransportError, match=r"device 'bench'.*'measure'; the agent was killed by SIGKILL"
        ) as caught:
            device.measure(model, runtime="onnxruntime", threads=1, protocol=LONG, on_event=kill)
        assert caught.value.exit_code == 4
        with pytest.raises(TransportError, match="killed by SIGKILL"):
            device.status()


def test_closing_ends_the_agent_and_what_it_was_doing(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "state")
    device = DeviceClient(transport)
    measuring = threading.Event()
    failures: list[Exception] = []

    def measure() -> None:
        try:
            device.measure(
                write_model(tmp_path / "m.onnx"),
                runtime="onnxruntime",
                threads=1,
                protocol=LONG,
                on_event=lambda event: measuring.set(),
            )
        except (TransportError, AgentError) as error:
            failures.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    assert measuring.wait(30)
    device.close()
    thread.join(30)
    assert not thread.is_alive()
    assert len(failures) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(transport.pid or 0, 0)
    with DeviceClient(LocalTransport(tmp_path / "state")) as again:
        assert again.status().board.cores >= 1


def test_a_state_folder_serves_one_host_at_a_time(device: DeviceClient, tmp_path: Path) -> None:
    with DeviceClient(LocalTransport(tmp_path / "state")) as first:
        with pytest.raises(AgentError, match="uses the state folder") as caught:
            DeviceClient(LocalTransport(tmp_path / "state"))
        assert caught.value.code == "locked"
        assert first.status().board.cores >= 1


def test_the_agent_leads_a_process_group_of_its_own(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "state")
    with DeviceClient(transport):
        assert os.getpgid(transport.pid or 0) == transport.pid != os.getpgid(0)


def test_an_agent_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(TransportError, match="the agent cannot be started"):
        DeviceClient(LocalTransport(tmp_path / "state"))


def test_what_the_agent_printed_last_is_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 5\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with pytest.raises(TransportError, match="the agent ended with exit status 5: no such module"):
        DeviceClient(LocalTransport(tmp_path / "state"))


def test_a_folder_that_shadows_modules_does_not_reach_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device_agent.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    with DeviceClient(LocalTransport(tmp_path / "state")) as device:
        assert device.status().protocol == 1
