import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from agent_process import QUICK, onnx_model
from daemon_process import (
    COMMAND,
    Daemon,
    Signer,
    activate,
    deploy,
    manifest_of,
    model_files,
    send_bundle,
    until,
    write_keys,
)

import device_agent
from device_agent import wire
from device_agent.errors import RequestError
from device_agent.serve.updating import too_slow
from device_agent.updates.manifest import Model

STRANGER = 65534


@pytest.fixture
def daemon(tmp_path):
    made = Daemon(tmp_path).start()
    yield made
    made.process.kill()
    made.process.wait()


def how(**changes):
    return {"runtime": "onnxruntime", "threads": 1, "protocol": QUICK, **changes}


def run(daemon, *arguments, **options):
    place = ["--socket", str(daemon.socket)]
    return subprocess.run(
        [*COMMAND, *arguments, *place],
        capture_output=True,
        text=True,
        check=False,
        env=daemon.environment,
        cwd="/",
        **options,
    )


def test_the_socket_is_for_its_owner_and_its_group(daemon):
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_it_ends_in_good_order_and_takes_its_socket_with_it(daemon):
    assert daemon.stop() == 0
    assert not daemon.socket.exists()


def test_a_killed_one_leaves_a_socket_that_the_next_one_replaces(daemon):
    daemon.stop(signal.SIGKILL)
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.ask("status")["update"]["state"] == "idle"


def test_a_second_one_is_refused(daemon, tmp_path):
    done = subprocess.run(daemon.command, capture_output=True, text=True, env=daemon.environment, check=False)
    assert done.returncode == 4
    assert "uses the state folder" in done.stderr
    elsewhere = [part.replace(str(daemon.state), str(tmp_path / "other")) for part in daemon.command]
    done = subprocess.run(elsewhere, capture_output=True, text=True, env=daemon.environment, check=False)
    assert done.returncode == 4
    assert "another agent listens" in done.stderr


def test_systemd_hears_that_it_is_ready_and_alive_and_stops(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        daemon = Daemon(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="90000").start()
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        daemon.stop()
        heard = [b""]
        while heard[-1] != b"STOPPING=1":
            heard.append(manager.recv(100))


def test_the_bridge_carries_requests_and_ends_with_its_host(daemon):
    frames = wire.encode_frame({"hello": {"protocols": [1]}}) + wire.encode_frame(
        {"id": 1, "method": "status"}
    )
    command = [*COMMAND, "stdio", "--socket", str(daemon.socket)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=daemon.environment
    ) as bridge:
        bridge.stdin.write(frames)
        bridge.stdin.flush()
        assert wire.read_frame(bridge.stdout).header["hello"]["protocol"] == 1
        assert wire.read_frame(bridge.stdout).header["result"]["uptime_s"] > 0
        bridge.stdin.close()
        assert bridge.wait(timeout=20) == 0


def test_the_bridge_says_that_no_daemon_runs(tmp_path):
    done = subprocess.run(
        [*COMMAND, "stdio", "--socket", str(tmp_path / "none")], input=b"", capture_output=True, check=False
    )
    assert done.returncode == 4
    assert b'"code":"no_agent"' in done.stdout
    assert b"no agent answers at" in done.stderr


# --- who may do what ------------------------------------------------------------------------------------------


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changing users takes root")


BECOME = """
import os, sys
from device_agent import cli  # while it still may read its files
from device_agent.serve import bridge, client, look  # while it still may read its files
os.setgroups([int(group) for group in sys.argv[1].split(",") if group])
os.setgid({stranger}), os.setuid({stranger})
sys.exit(cli.main(sys.argv[2:]))
"""


def as_stranger(daemon, groups, *arguments):
    """Call the agent as a user of its own who is in some groups."""
    for folder in (daemon.socket.parent, *daemon.socket.parent.parents):
        folder.chmod(folder.stat().st_mode | 0o111)
    code = BECOME.format(stranger=STRANGER)
    named = ",".join(map(str, groups))
    return subprocess.run(
        [sys.executable, "-c", code, named, "call", *arguments, "--socket", str(daemon.socket)],
        capture_output=True,
        text=True,
        check=False,
        env=daemon.environment,
    )


@ROOT_ONLY
def test_roles_are_given_by_groups(tmp_path):
    import grp

    readers, operators, applications = (grp.getgrnam(name).gr_gid for name in ("games", "news", "mail"))
    options = ("--group", "games", "--operators", "news", "--applications", "mail")
    daemon = Daemon(tmp_path, *options).start()
    try:
        bundle = send_bundle(daemon)
        activate(daemon, bundle, confirm_within_s=600)
        refused = as_stranger(daemon, [], "status")
        assert refused.returncode == 4
        assert "may not open" in refused.stderr
        assert as_stranger(daemon, [readers], "status").returncode == 0
        for method in ("measure", "bundle.rollback", "bundle.confirm", "lease.acquire", "files.collect"):
            refused = as_stranger(daemon, [readers], method)
            assert refused.returncode == 4
            assert f"may not call {method}" in refused.stderr, refused.stderr
        assert (
            "needs the role operator"
            in as_stranger(daemon, [readers, applications], "bundle.rollback").stderr
        )
        assert as_stranger(daemon, [readers, applications], "bundle.confirm").returncode == 0
        assert as_stranger(daemon, [readers, operators], "bundle.rollback").returncode == 0
    finally:
        daemon.stop()


def test_an_unknown_group_is_said_at_the_start(tmp_path):
    daemon = Daemon(tmp_path, "--operators", "no-such-group").start(wait=False)
    assert daemon.process.wait(timeout=20) == 4
    assert "no group 'no-such-group'" in daemon.log.read_text()


# --- leases ---------------------------------------------------------------------------------------------------


def test_a_lease_keeps_others_waiting_until_it_is_given_back(daemon):
    model = daemon.put(onnx_model(), "measure")
    order = []
    with daemon.client() as first:
        first.ask("lease.acquire", {"hold_s": 600})
        second = threading.Thread(
            target=lambda: order.append(("second", daemon.ask("measure", **how(file=model))))
        )
        second.start()
        until(lambda: first.ask("status")["lease"]["waiting"] == 1, "the second one waits")
        order.append(("first", first.ask("measure", how(file=model))))
        first.ask("lease.release")
        second.join(timeout=60)
    assert [who for who, _ in order] == ["first", "second"]


def test_a_lease_ends_with_its_connection_and_with_its_time(daemon):
    with daemon.client() as first:
        first.ask("lease.acquire", {"hold_s": 600})
        assert "busy" in daemon.error("lease.acquire", wait_s=0.1)
    daemon.ask("lease.acquire", wait_s=20)
    with daemon.client() as first:
        first.ask("lease.acquire", {"hold_s": 0.2})
        daemon.ask("lease.acquire", wait_s=20)


def test_those_who_wait_are_served_in_the_order_they_came(daemon):
    served = []

    def wait(number):
        with daemon.client() as client:
            client.ask("lease.acquire", {"hold_s": 600})
            served.append(number)

    with daemon.client() as first:
        first.ask("lease.acquire", {"hold_s": 600})
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            until(lambda n=number: first.ask("status")["lease"]["waiting"] == n + 1, "it waits")
    for thread in threads:
        thread.join(timeout=30)
    assert served == [0, 1, 2, 3]


def test_a_measurement_of_a_host_that_is_gone_does_not_hold_the_turn(daemon):
    model = daemon.put(onnx_model(), "measure")
    client = daemon.client()
    slow = how(file=model, protocol={**QUICK, "min_duration_s": 300.0, "max_duration_s": 300.0})
    client._socket.sendall(wire.encode_frame({"id": 7, "method": "measure", "params": slow}))
    until(lambda: daemon.ask("status")["lease"]["holder"], "it measures")
    client.close()
    daemon.ask("lease.acquire", wait_s=30)


# --- the update as a host sees it -----------------------------------------------------------------------------


def test_a_bundle_goes_its_way_and_the_application_sees_it(daemon):
    assert device_agent.active_model(daemon.state) is None
    first = send_bundle(daemon, name="first")
    deploy(daemon, first)
    model = device_agent.active_model(daemon.state)
    assert (model.bundle, model.generation, model.manifest["name"]) == (first, 1, "first")
    assert model.path.read_bytes() == onnx_model()
    seen = device_agent.watch(daemon.state, interval_s=0.01)
    assert next(seen).bundle == first
    second = send_bundle(daemon, name="second")
    deploy(daemon, second)
    assert next(seen).bundle == second
    assert model.path.read_bytes() == onnx_model()


def test_a_watch_answers_when_another_model_is_active(daemon):
    bundle = send_bundle(daemon)
    found = []
    watcher = threading.Thread(target=lambda: found.append(daemon.ask("watch", generation=None)))
    watcher.start()
    deploy(daemon, bundle)
    watcher.join(timeout=30)
    assert found[0]["bundle"] == bundle


def test_without_the_applications_confirmation_the_old_model_returns_by_itself(daemon):
    old, new = send_bundle(daemon, name="old"), send_bundle(daemon, name="new")
    deploy(daemon, old)
    activate(daemon, new, confirm_within_s=0.5)
    assert daemon.ask("active")["bundle"] == new
    assert daemon.error("bundle.commit", bundle=new) == "not_confirmed"
    until(lambda: daemon.ask("active")["bundle"] == old, "it returns")
    assert "did not confirm within 0.5 s" in daemon.ask("status")["update"]["last"]


def test_with_the_applications_confirmation_the_new_model_stays(daemon):
    bundle = send_bundle(daemon)
    activate(daemon, bundle, confirm_within_s=600)
    assert run(daemon, "call", "bundle.confirm").returncode == 0
    assert daemon.ask("status")["update"]["state"] == "committed"


def test_a_model_that_the_application_marks_bad_is_left(daemon):
    old, new = send_bundle(daemon, name="old"), send_bundle(daemon, name="new")
    deploy(daemon, old)
    deploy(daemon, new)
    assert daemon.ask("bundle.mark_bad", bundle=new, why="sees cats everywhere")["current"] == old
    assert daemon.error("bundle.stage", manifest_sha256=new) == "bundle_bad"


def test_a_wrong_answer_is_not_activated(daemon):
    bundle = send_bundle(daemon, scale=1.5)
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    report = daemon.ask("bundle.check", bundle=bundle)
    assert not report["ok"]
    assert "golden" in report["why"]
    assert daemon.error("bundle.activate", bundle=bundle) == "not_checked"


def test_a_model_that_is_too_slow_is_not_activated(daemon):
    settings = {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1}
    slow = send_bundle(daemon, model={**settings, "expected_p50_ms": 1e-6, "margin": 0.5})
    daemon.ask("bundle.stage", manifest_sha256=slow)
    report = daemon.ask("bundle.check", bundle=slow)
    assert not report["ok"]
    assert "were expected" in report["why"]
    fine = send_bundle(daemon, model={**settings, "expected_p50_ms": 1e3})
    deploy(daemon, fine)


@pytest.mark.parametrize(
    ("took_ms", "slowdown", "said"),
    [
        (1.5, 1.0, ""),
        (1.6, 1.0, "it takes 1.600 ms, 1.000 were expected (margin 50%)"),
        (2.9, 2.0, ""),
        (
            3.1,
            2.0,
            "it takes 3.100 ms, with the processor slowed 2.0 times, 1.000 were expected (margin 50%)",
        ),
        (
            9.0,
            9.0,
            "it takes 9.000 ms, with the processor slowed 9.0 times, 1.000 were expected (margin 50%)",
        ),
    ],
)
def test_a_slowed_processor_excuses_as_much_as_it_explains_up_to_a_limit(took_ms, slowdown, said):
    names = {"file": "m", "runtime": "onnxruntime", "threads": 1, "rtol": 0.0, "atol": 0.0}
    model = Model(**names, expected_p50_ms=1.0, margin=0.5, golden_inputs=(), golden_outputs=())
    assert too_slow(model, took_ms, slowdown) == said


def test_only_what_a_trusted_key_signed_is_staged(tmp_path):
    ours, other = Signer(), Signer()
    daemon = Daemon(tmp_path, "--keys", str(write_keys(tmp_path / "keys.json", ours))).start()
    try:
        manifest = manifest_of(model_files())
        bundle = send_bundle(daemon)
        for signatures in ([], [other.sign(manifest)]):
            with pytest.raises(RequestError) as caught:
                daemon.ask("bundle.stage", manifest_sha256=bundle, signatures=signatures)
            assert caught.value.code == "untrusted"
        both = [other.sign(manifest), ours.sign(manifest)]
        assert daemon.ask("bundle.stage", manifest_sha256=bundle, signatures=both)["signed_by"] == ours.id
    finally:
        daemon.stop()


def test_a_model_spoiled_on_the_disk_is_left_at_the_next_start(daemon):
    old, new = send_bundle(daemon, name="old"), send_bundle(daemon, name="new", sequence=2)
    deploy(daemon, old)
    deploy(daemon, new)
    daemon.stop()
    path = daemon.state / "bundles" / new / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"new"', b'"neW"'))
    daemon.start()
    until(lambda: daemon.ask("status")["update"]["current"] == old, "it goes back")
    assert "spoiled" in daemon.ask("status")["update"]["last"]


# --- for people -----------------------------------------------------------------------------------------------


def test_status_and_predict_read_well(daemon):
    deploy(daemon, send_bundle(daemon, io={"labels": [f"class {n}" for n in range(16)]}))
    daemon.ask("measure", **how(file=daemon.put(onnx_model(), "measure")))
    status = run(daemon, "status")
    assert status.returncode == 0
    assert re.search(r"^model +\w{12}, generation 1 \(committed\)$", status.stdout, re.MULTILINE)
    assert re.search(r"^measured +\w{12} onnxruntime: [\d.]+ ms", status.stdout, re.MULTILINE)
    tried = run(daemon, "predict", "--golden", "--state", str(daemon.state))
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.splitlines()[1].split(maxsplit=1)[1] == "class 15"


def test_what_cannot_be_done_is_one_line_and_exit_status_4(daemon, tmp_path):
    for arguments in (["predict", "--golden", "--state", str(tmp_path / "none")], ["call", "no.such"]):
        done = run(daemon, *arguments)
        assert done.returncode == 4
        assert done.stderr.startswith("device-agent: ")
        assert "Traceback" not in done.stderr
    assert run(daemon, "call", "status", "{").returncode == 2


def test_metrics_are_prometheus_text(daemon):
    daemon.ask("status")
    daemon.error("measure")
    lines = run(daemon, "metrics").stdout.splitlines()
    sample = re.compile(r'device_agent_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? -?[\d.e+-]+')
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines), lines
    assert 'device_agent_errors_total{code="bad_request"} 1' in lines
    assert any(line.startswith("device_agent_resident_bytes ") for line in lines)


def test_the_boards_application_is_stopped_while_it_measures(tmp_path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("before-measure", "after-measure"):
        hook = hooks / name
        hook.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/said\n")
        hook.chmod(0o755)
    daemon = Daemon(tmp_path, "--hooks", str(hooks)).start()
    try:
        daemon.ask("measure", **how(file=daemon.put(onnx_model(), "measure")))
        assert (tmp_path / "said").read_text().split() == ["before-measure", "after-measure"]
        (hooks / "before-measure").chmod(0o777)
        assert daemon.error("measure", **how(file=daemon.put(onnx_model(), "measure"))) == "hook_failed"
    finally:
        daemon.stop()
