import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from agent_process import QUICK, onnx_model
from evil_runtime import Peak, put_on_path, run, strays

from device_agent.errors import RequestError
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.work import cgroup, offspring, workers, workplace
from device_agent.work.pipes import MOST_LINE_BYTES, Pipes, TooMuchError
from device_agent.work.workers import Cancellation, Job, Workers

ROOT = Path(workplace.__file__).parents[2]
MIB = 1024 * 1024


def at_once(kind, **details):
    return Job(kind, "", 1, MeasuringProtocol(timeout_s=60.0), details)


# --- the kinds of jobs


def test_facts_come_from_a_worker(tmp_path):
    found = Workers(tmp_path).run(at_once("facts"), Cancellation(), lambda _: None)
    assert set(found) == {"runtimes", "board", "sensors"}
    assert "onnxruntime" in [runtime["name"] for runtime in found["runtimes"]]
    assert found["board"]["cores"] >= 1


def test_facts_do_not_wait_for_a_measurement(tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, "time.sleep(1000)")
    workers = Workers(tmp_path / "state")
    cancellation, under_way, ended = Cancellation(), threading.Event(), []

    def measure():
        under_way.set()
        try:
            workers.run(Job("empty", "onnxruntime", 1, MeasuringProtocol(), {}), cancellation, lambda _: None)
        except RequestError as error:
            ended.append(error.code)

    measuring = threading.Thread(target=measure)
    measuring.start()
    under_way.wait()
    for _ in range(3):
        assert workers.run(at_once("facts"), Cancellation(), lambda _: None)["board"]
    assert measuring.is_alive()
    cancellation.cancel()
    measuring.join()
    assert ended == ["cancelled"]


def test_verify_is_answered_by_a_worker(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    details = {
        "manifest": str(tmp_path / "manifest.json"),
        "signatures": [],
        "keys": str(tmp_path / "no-keys"),
    }
    with pytest.raises(RequestError) as caught:
        Workers(tmp_path).run(at_once("verify", **details), Cancellation(), lambda _: None)
    assert caught.value.code in ("no_trust", "untrusted")


def test_a_measurement_says_what_confined_its_worker(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model())
    job = Job("measure", "onnxruntime", 1, MeasuringProtocol(**QUICK), {"path": str(path)})
    found = Workers(tmp_path / "state").run(job, Cancellation(), lambda _: None)
    assert {"memory", "files", "no-new-privileges"} <= set(found["confinement"])


def test_the_pace_of_the_last_workers_is_told_to_the_next(tmp_path, monkeypatch):
    said = iter([2000.0, 1000.0, None, "fast", -1.0, *[1500.0] * 10])
    given = []

    class Running:
        def __init__(self, *_):
            pass

        def result(self, command, *_):
            given.append(command["pace_ns"])
            return {"ok": True, "pace_ns": next(said)}

    monkeypatch.setattr(workers, "_Running", Running)
    started = Workers(tmp_path / "state")
    job = Job("empty", "onnxruntime", 1, MeasuringProtocol(), {})
    for _ in range(15):
        assert started.run(job, Cancellation(), lambda _: None) == {"ok": True}, "it is for workers only"
    assert given == [None, 2000.0, *[1000.0] * 12, 1500.0]


def test_a_cancelled_job_is_not_even_started(tmp_path):
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(RequestError) as caught:
        Workers(tmp_path).run(at_once("facts"), cancellation, lambda _: None)
    assert caught.value.code == "cancelled"


def test_a_listener_that_fails_ends_the_worker(tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, "answers().line(event={}); time.sleep(1000)")
    before = offspring.processes()

    def listen(_):
        raise OSError("the host is gone")

    with pytest.raises(OSError, match="the host is gone"):
        run(tmp_path / "state", listen=listen)
    assert strays(before) == []


def test_workers_have_no_thread_that_outlives_them(tmp_path):
    before = threading.active_count()
    Workers(tmp_path).run(at_once("facts"), Cancellation(), lambda _: None)
    assert threading.active_count() == before


def test_the_daemon_s_side_is_small():
    code = (
        "from device_agent.sensors.memory import MemorySensor as M\n"
        "import dataclasses, json, re, subprocess, threading\n"
        "a = M().process_bytes(); import device_agent.work.workers; print(M().process_bytes() - a)\n"
        "import sys; print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    grown, names = done.splitlines()
    assert int(grown) < 3 * MIB
    heavy = {"importlib.metadata", "platform", "shutil", "tempfile", "logging", "hashlib", "ctypes", "numpy"}
    assert not heavy & set(names.split())


# --- the folder of a worker


def test_what_a_killed_agent_s_workers_left_is_removed(tmp_path):
    left = tmp_path / "workers" / "left"
    (left / "a/b").mkdir(parents=True)
    (left / "a/b/file").write_text("x")
    (tmp_path / "kept").write_text("x")
    Workers(tmp_path)
    assert list((tmp_path / "workers").iterdir()) == []
    assert (tmp_path / "kept").exists()


def test_a_folder_with_many_entries_costs_no_memory_to_remove(tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    for number in range(1200):
        (folder / f"{number:0200}").mkdir()
        (folder / f"f{number:0200}").touch()
    with Peak() as peak:
        workplace.remove(folder)
    assert not folder.exists()
    assert peak.grown < 4 * MIB


def test_links_in_a_removed_folder_are_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "kept")
    workplace.remove(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    assert (tmp_path / "kept/file").exists()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    workplace.remove(tmp_path / "link")
    assert (tmp_path / "kept/file").exists()


# --- pipes


def program(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, start_new_session=True, **options
    )


def heard(process, feed=b"", longest_s=30.0):
    try:
        with Pipes(process, process.stderr, process.stdout, feed) as pipes:
            return list(pipes.lines(longest_s)), pipes.tail
    finally:
        offspring.end(process)


def test_lines_come_whole_and_in_order():
    assert heard(program("print('a'); print('b' * 300000); print('unfinished', end='')"))[0] == [
        b"a",
        b"b" * 300000,
    ]


def test_a_large_feed_and_a_large_answer_do_not_block_each_other():
    data = b"".join(b"%d\n" % number for number in range(300_000))
    code = "import sys\nfor line in sys.stdin: sys.stdout.write(line)"
    lines, _ = heard(program(code), data)
    assert b"\n".join(lines) + b"\n" == data


def test_a_feed_that_is_never_read_holds_nothing_up():
    assert heard(program("print('a')"), bytes(8 * MIB))[0] == [b"a"]
    with pytest.raises(TimeoutError):
        heard(program("import time; time.sleep(1000)"), bytes(8 * MIB), longest_s=0.3)


def test_a_line_of_the_longest_length_is_read_and_a_longer_one_is_not():
    code = "print('x' * {})".format
    assert len(heard(program(code(MOST_LINE_BYTES - 1)))[0][0]) == MOST_LINE_BYTES - 1
    with pytest.raises(TooMuchError):
        heard(program(code(MOST_LINE_BYTES + 200_000)))


def test_the_end_of_what_it_prints_is_kept():
    tail = heard(program("import sys; sys.stderr.write('x' * 100000 + 'the end')"))[1]
    assert tail.endswith("the end")
    assert len(tail) <= 2000


def test_pipes_are_closed_again():
    before = len(list(Path("/proc/self/fd").iterdir()))
    heard(program("print('a')"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("pidfd", [True, False])
def test_its_end_is_noticed_though_others_hold_its_pipes(monkeypatch, pidfd):
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    mine = offspring.Offspring()
    offspring.adopt_orphans()
    process = program(
        "import os, time\nprint('a', flush=True)\nif os.fork() == 0: os.setsid(); time.sleep(1000)"
    )
    begin = time.monotonic()
    assert heard(process, longest_s=600.0)[0] == [b"a"]
    assert time.monotonic() - begin < 60
    assert mine.end_all()


# --- offspring


def test_the_agent_s_own_programs_are_no_strays():
    mine = offspring.Offspring()
    own = offspring.start(["sleep", "1000"])
    same_session = subprocess.Popen(["sleep", "1000"])
    try:
        assert mine.end_all()
        assert own.poll() is None
        assert same_session.poll() is None
    finally:
        assert offspring.end(own)
        same_session.kill()
        same_session.wait()


def test_an_ended_program_is_not_signalled_again():
    process = offspring.start(["true"])
    process.wait()
    offspring.kill_group(process)
    assert offspring.end(process)
    assert process.returncode == 0


def test_a_name_with_blanks_and_parentheses_is_read_right(tmp_path):
    name = tmp_path / "a) S 1 (b c"
    name.symlink_to("/bin/sleep")
    process = subprocess.Popen([name, "1000"])
    try:
        found = {each.pid: each for each in offspring.processes()}[process.pid]
        assert found.parent == os.getpid()
        assert found.state in "RSD"
    finally:
        process.kill()
        process.wait()


# --- an agent that is not root


HIDDEN = """
import os
from pathlib import Path
from device_agent.work import offspring
from device_agent.work.workers import *

assert os.getuid() != 0
assert not Path("/proc/1/stat").exists()
job = Job("empty", "onnxruntime", 1, MeasuringProtocol(timeout_s=30.0), {})
state = Path("state")
print(Workers(state, user="nobody").run(job, Cancellation(), print)["runtime_version"])
print(list((state / "workers").iterdir()), offspring.children())
"""
LEAVES_MUCH = """
import os, time
os.makedirs("sub/deep")
os.chmod("sub", 0o700)
open("sub/deep/file", "w").close()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    time.sleep(1000)
status = open("/proc/self/status").read()
__version__ = " ".join(line.split()[1] for line in status.splitlines() if line.startswith(("Uid", "CapEff", "CapAmb")))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_agent_with_three_capabilities_and_a_closed_proc_leaves_nothing_either():
    """As the unit file starts it: CAP_SETUID, CAP_SETGID and CAP_KILL, and /proc hides other users' processes."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("no setpriv, unshare or system Python here")
    hide = "mount -t proc -o hidepid=2 proc /proc"
    if subprocess.run(["unshare", "-m", "sh", "-c", hide], capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no /proc of its own")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "path").mkdir()
        (folder / "path/numpy.py").write_text("")
        (folder / "path/onnxruntime.py").write_text(LEAVES_MUCH)
        (folder / "state").mkdir()
        (folder / "state").chmod(0o751)
        os.chown(folder / "state", 1, 1)
        rights = "-all,+setuid,+setgid,+kill"
        become = f"setpriv --reuid 1 --regid 1 --clear-groups --inh-caps={rights} --ambient-caps={rights}"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder / 'path'}"}
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f'{hide} && exec {become} {python} -c "$0"', HIDDEN],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["65534 0000000000000000 0000000000000000", "[] set()"]


# --- control groups


@pytest.fixture
def group():
    """A group of cgroup v2 that says that it was delegated, with a program of its own to put into it."""
    own = cgroup._own_group(Path("/proc"))
    if own is None:
        pytest.skip("no writable group of cgroup v2 here")
    path = own / f"device-agent-test-{os.getpid()}"
    try:
        path.mkdir()
        os.setxattr(path, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no delegated group can be made here: {error}")
    yield path
    for folder in [*path.iterdir(), path]:
        if folder.is_dir():
            folder.rmdir()


def test_a_group_that_was_not_delegated_is_left_alone(tmp_path):
    own = cgroup._own_group(Path("/proc"))
    if own is not None and any(own.glob("agent")):
        pytest.skip("this process runs in a delegated group")
    assert cgroup.delegated() is None


def test_the_own_group_is_found_below_its_mount(tmp_path):
    mount = tmp_path / "fs"
    (mount / "system.slice/agent.service").mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        f"30 24 0:26 / {mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    (tmp_path / "self/cgroup").write_text("0::/system.slice/agent.service\n")
    assert cgroup._own_group(tmp_path) == mount / "system.slice/agent.service"
    (tmp_path / "self/cgroup").write_text("1:memory:/x\n")
    assert cgroup._own_group(tmp_path) is None
    (tmp_path / "self/mountinfo").write_text("24 1 0:5 / / rw - ext4 /dev/root rw\n")
    assert cgroup._own_group(tmp_path) is None


def test_a_worker_in_a_delegated_group_is_ended_with_all_in_it(group, tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, "if os.fork() == 0: os.setsid(); time.sleep(1000)")
    code = (
        "import os, json; from pathlib import Path; import evil_runtime\n"
        f"Path({str(group / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
        "from device_agent.work import cgroup, offspring\n"
        f"assert cgroup.delegated() == Path({str(group)!r}), cgroup.delegated()\n"
        "before = offspring.processes()\n"
        "offspring.Offspring.end_all = lambda self: True\n"  # the group alone must do it
        f"evil_runtime.run(Path({str(tmp_path / 'state')!r}))\n"
        "print(len([each for each in evil_runtime.strays(before) if each.state != 'Z']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}:{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"]
    assert not [path for path in group.iterdir() if path.name.startswith("worker-")]


def test_the_limits_of_a_group_are_written_where_the_kernel_has_them(tmp_path):
    parent = tmp_path / "agent.service"
    parent.mkdir()

    class Group(cgroup.WorkerGroup):
        """A group in an ordinary folder, whose files are there before the limits are set."""

        def _limit(self, memory_bytes):
            for name in ("pids.max", "memory.max", "memory.oom.group"):
                (self._path / name).touch()
            return super()._limit(memory_bytes)

    made = Group(parent, "x", 100 * MIB)
    assert set(made.limits) == {"pids.max", "memory.max", "memory.oom.group"}
    assert (parent / "worker-x/memory.max").read_text() == str(100 * MIB)
    assert (parent / "worker-x/pids.max").read_text() == str(cgroup.MOST_TASKS)
