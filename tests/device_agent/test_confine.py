import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from device_agent.errors import RequestError
from device_agent.work import confine, landlock, worker_user

ROOT = Path(confine.__file__).parents[2]
ABI = landlock.abi(ctypes.CDLL(None, use_errno=True))
needs_landlock = pytest.mark.skipif(ABI == 0, reason="this kernel has no landlock")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process another user")
MIB = 1024 * 1024


class Cell:
    """Runs code in a process of its own, before and after it confined itself."""

    def __init__(self, folder):
        self.folder = folder
        self.place = folder / "place"
        self.granted = folder / "granted"
        self.secret = folder / "secret"
        self.place.mkdir()
        self.granted.mkdir()
        self.secret.mkdir()
        (self.granted / "model").write_text("weights")
        (self.secret / "other").write_text("another's weights")

    def run(self, code, before="", reads=None):
        """Return (measures, answer): `code` sets `answer`."""
        script = (
            f"import ctypes, json, os, resource, socket, sys\nfrom pathlib import Path\n"
            f"folder = Path({str(self.folder)!r})\n{textwrap.dedent(before)}\n"
            f"from device_agent.work import confine\n"
            f"held = confine.confine({os.geteuid()}, {[str(path) for path in reads or [self.granted]]!r}, "
            f"folder / 'place')\n"
            "def fault(act):\n    try:\n        act()\n    except OSError as error:\n        return error.errno\n"
            f"answer = None\n{textwrap.dedent(code)}\nprint(json.dumps([held, answer]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def cell(tmp_path):
    return Cell(tmp_path)


def test_the_measures_of_every_kernel_hold_and_are_named(cell):
    held, status = cell.run("answer = Path('/proc/self/status').read_text()")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {"capabilities", "no-new-privileges", "not-traceable", "files", "memory", "oom-first"} <= set(held)
    assert fields["NoNewPrivs"] == "1"
    assert all(int(fields[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    assert "user" not in held  # it is the agent's own here


def test_limits_are_set_for_good(cell):
    code = """
    names = ("CORE", "NOFILE", "FSIZE", "DATA", "NPROC")
    answer = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
    answer["nice"] = os.getpriority(os.PRIO_PROCESS, 0)
    answer["policy"] = os.sched_getscheduler(0)
    answer["oom"] = Path("/proc/self/oom_score_adj").read_text()
    answer["dumpable"] = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    """
    held, found = cell.run(code)
    assert found["CORE"] == [0, 0]
    assert found["NOFILE"][1] <= 256
    assert found["FSIZE"] == [16 * MIB] * 2
    assert 0 < found["DATA"][1] < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert ("nproc" in held) == (os.geteuid() != 0)
    assert found["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert found["policy"] == os.sched_getscheduler(0)
    assert found["oom"].strip() == "1000"
    assert found["dumpable"] == 0


def test_memory_is_limited_to_what_is_available_now_less_a_reserve(tmp_path):
    def limit(total_mib, available_mib):
        (tmp_path / "meminfo").write_text(
            f"MemTotal: {total_mib * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n"
        )
        return confine.memory_limit_bytes(tmp_path)

    assert limit(512, 300) == 268 * MIB
    assert limit(8000, 5000) == 4600 * MIB
    assert limit(512, 40) == 64 * MIB
    (tmp_path / "meminfo").unlink()
    assert confine.memory_limit_bytes(tmp_path) is None


def test_more_memory_than_that_is_not_given(cell):
    code = """
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    try:
        bytearray(limit)
    except MemoryError:
        answer = "refused"
    """
    assert cell.run(code)[1] == "refused"


@needs_landlock
def test_only_what_was_granted_is_read(cell):
    code = """
    answer = [fault(lambda: open(path).read()) for path in
              (folder / "granted/model", "/proc/meminfo", json.__file__, "/etc/passwd",
               folder / "secret/other", "/etc/shadow", "/etc/fstab", "/root/.profile")]
    answer.append(fault(lambda: os.listdir(folder / "secret")))
    """
    held, (model, memory, library, users, *rest) = cell.run(code)
    assert "landlock" in held
    assert (model, memory, library, users) == (None, None, None, None)
    assert all(each in (13, 2) for each in rest), rest
    assert rest[0] == rest[-1] == 13


@needs_landlock
def test_one_granted_file_does_not_open_its_folder(cell):
    (cell.granted / "neighbour").write_text("x")
    code = """
    answer = [fault(lambda: open(folder / "granted" / name).read()) for name in ("model", "neighbour")]
    """
    assert cell.run(code, reads=[cell.granted / "model"])[1] == [None, 13]


@needs_landlock
def test_nothing_is_changed_but_in_its_own_place(cell):
    code = """
    target = folder / "granted/model"
    answer = [
        fault(lambda: open(target, "w")),
        fault(lambda: open(target, "a")),
        fault(lambda: os.truncate(target, 0)) if ABI >= 3 else 13,
        fault(lambda: target.unlink()),
        fault(lambda: target.rename(folder / "place/stolen")),
        fault(lambda: os.link(target, folder / "place/linked")),
        fault(lambda: open(folder / "granted/new", "w")),
        fault(lambda: os.mkdir(folder / "granted/new")),
        fault(lambda: os.symlink("/", folder / "granted/new")),
        fault(lambda: os.mkfifo(folder / "place/fifo")),
        fault(lambda: open("/proc/self/oom_score_adj", "w").write("0")),
    ]
    """.replace("ABI", str(ABI))
    faults = cell.run(code)[1]
    assert all(each in (13, 18) for each in faults), (
        faults
    )  # EACCES; EXDEV is how a move between rights is refused
    assert (cell.granted / "model").read_text() == "weights"
    assert [path.name for path in cell.granted.iterdir()] == ["model"]


@needs_landlock
def test_its_own_place_is_its_own_but_nothing_in_it_is_a_program(cell):
    code = """
    place = folder / "place"
    (place / "sub").mkdir()
    (place / "sub/file").write_text("x")
    (place / "sub/file").rename(place / "sub/other")
    (place / "sub/other").unlink()
    (place / "sub").rmdir()
    open("/dev/null", "w").write("x")
    (place / "program").write_text("#!/bin/sh\\n")
    (place / "program").chmod(0o755)
    answer = fault(lambda: os.execv(place / "program", ["x"]))
    """
    assert cell.run(code)[1] == 13


@needs_landlock
def test_what_it_starts_is_confined_as_well(cell):
    code = """
    import subprocess
    command = ["cat", str(folder / "granted/model"), str(folder / "secret/other")]
    answer = subprocess.run(command, capture_output=True, text=True).stdout
    """
    assert cell.run(code)[1] == "weights"


@pytest.mark.skipif(ABI < 4, reason="this kernel's landlock knows no network")
def test_tcp_is_refused(cell):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = f"""
        answer = [fault(lambda: socket.create_connection({server.getsockname()!r}, 2)),
                  fault(lambda: socket.socket().bind(("127.0.0.1", 0)))]
        """
        held, faults = cell.run(code)
    assert faults == [13, 13]
    assert "network" in held


@pytest.mark.skipif(ABI < 6, reason="this kernel's landlock knows no signals")
def test_signals_to_the_outside_are_refused(cell):
    held, answer = cell.run(
        "answer = [fault(lambda: os.kill(os.getppid(), 0)), fault(lambda: os.kill(os.getpid(), 0))]"
    )
    assert answer == [1, None]
    assert "signals" in held


def test_threads_can_still_be_started(cell):
    code = """
    import threading
    threads = [threading.Thread(target=sum, args=([],)) for _ in range(32)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    answer = "all"
    """
    assert cell.run(code)[1] == "all"


def test_without_ctypes_the_limits_still_hold(cell):
    held, _ = cell.run("", before="sys.modules['ctypes'] = None")
    assert {"files", "memory", "oom-first"} <= set(held)
    assert not {"landlock", "no-new-privileges", "capabilities", "not-traceable"} & set(held)


def test_a_kernel_without_landlock_is_told_as_such():
    class Libc:
        @staticmethod
        def syscall(*_):
            return -1

    assert landlock.abi(Libc) == 0
    found = landlock.restrict(Libc, [], Path("/nowhere"))
    assert found == {"landlock": False, "network": False, "signals": False}


@pytest.mark.parametrize(("version", "rights"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (7, 16)])
def test_no_version_is_asked_for_rights_that_it_does_not_know(version, rights):
    assert landlock._handled(version) == (1 << rights) - 1


def test_a_process_whose_parent_is_gone_ends_at_once():
    code = "from device_agent.work import confine; confine.die_with_parent(1 << 22); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stdout == b""


def test_an_unknown_user_is_told():
    with pytest.raises(RequestError) as caught:
        worker_user.find("no-such-user-here")
    assert caught.value.code == "no_worker_user"
    assert "useradd" in caught.value.hint


def test_an_agent_that_may_not_change_users_keeps_its_own(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("CapEff:\t0000000000000000\n")
    assert worker_user.find("nobody", procfs=tmp_path) is None
    (tmp_path / "self/status").write_text("CapEff:\t000001ffffffffff\n")
    found = worker_user.find("nobody", ["/dev/null"], procfs=tmp_path)
    assert (found is None) == (os.geteuid() == 65534)
    assert found is None or found["extra_groups"] == []


def python_for_everybody():
    """A Python that another user may run; the one of these tests may lie in a closed folder."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if python is None:
            continue
        try:
            done = subprocess.run(
                [python, "-c", "import device_agent.work.worker"],
                user="nobody",
                cwd="/",
                env={"PYTHONPATH": str(ROOT)},
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


@needs_root
def test_a_worker_of_another_user_runs_and_cannot_touch_what_is_the_agent_s():
    python = python_for_everybody()
    if python is None:
        pytest.skip("no Python here that another user may run")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        evil = folder / "path"
        evil.mkdir()
        (evil / "numpy.py").write_text("")
        (evil / "onnxruntime.py").write_text(
            "import json, os\n"
            f"facts = [os.getuid(), os.getgid(), os.getgroups(), os.access({str(folder / 'state')!r}, os.W_OK)]\n"
            "__version__ = json.dumps(facts)"
        )
        script = (
            "import json, sys; from pathlib import Path\n"
            "from device_agent.work.workers import *\n"
            f"workers = Workers(Path({str(folder / 'state')!r}), user='nobody')\n"
            "job = Job('empty', 'onnxruntime', 1, MeasuringProtocol(timeout_s=30.0), {})\n"
            "print(workers.run(job, Cancellation(), lambda _: None)['runtime_version'])\n"
            f"secret = Path({str(folder / 'closed')!r}); secret.touch(mode=0o600)\n"
            "job = Job('measure', 'onnxruntime', 1, MeasuringProtocol(timeout_s=30.0), {'path': str(secret)})\n"
            "try:\n    workers.run(job, Cancellation(), lambda _: None)\n"
            "except RequestError as error:\n    print(error.code, error.hint)"
        )
        done = subprocess.run(
            [python, "-c", script],
            env={"PYTHONPATH": f"{ROOT}:{evil}"},
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        facts, closed = done.stdout.splitlines()
        user, group, groups, may_write = json.loads(facts)
        assert user == 65534
        assert group != 0
        assert groups in ([], [group])
        assert may_write is False
        assert closed.startswith("storage ")
        assert "chmod o+x" in closed
