import os
import random
import signal
import subprocess
import time

import numpy as np
import onnx
import pytest
from agent_process import onnx_model
from evil_runtime import Peak, put_on_path, run, strays
from onnx import TensorProto, helper, numpy_helper

from device_agent.errors import RequestError
from device_agent.work import offspring
from device_agent.work.messages import MOST_EVENTS_A_SECOND

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path):
    """After each test: no process and no file of a worker is left."""
    before = offspring.processes()
    yield
    assert strays(before) == []
    places = tmp_path / "state" / "workers"
    assert not places.exists() or not list(places.iterdir())


def fails(tmp_path, **options):
    """Run a worker that is to fail; return the error, after seeing that the agent did not grow."""
    with Peak() as peak, pytest.raises(RequestError) as caught:
        run(tmp_path / "state", **options)
    assert peak.grown < 16 * MIB
    return caught.value


# --- a runtime that a hostile model took over


EVILS = {
    "never-returns": ("while True: pass", 1.0, "timed_out", "longer than 1 s"),
    "ignores-sigterm": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)",
        1.0,
        "timed_out",
        "longer than 1 s",
    ),
    "stops-itself": ("os.kill(os.getpid(), signal.SIGSTOP)", 1.0, "timed_out", "longer than 1 s"),
    "allocates-without-end": (
        "import numpy\nheld = []\nwhile True: held.append(numpy.empty(1 << 28))",
        20.0,
        "out_of_memory",
        "memory did not suffice",
    ),
    "ends-without-a-word": ("os._exit(3)", 20.0, "worker_died", "ended with status 3"),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", 20.0, "worker_died", "SIGSEGV"),
    "closes-its-pipes-and-lives-on": (
        "os.closerange(0, 100); time.sleep(1000)",
        20.0,
        "worker_died",
        "closed its output and did not end",
    ),
    "answers-a-line-without-end": (
        "for _ in range(1024): os.write(answers()._stream.fileno(), b'x' * (1 << 20))",
        20.0,
        "worker_died",
        "a line of more than",
    ),
    "prints-without-end": (
        "for _ in range(1024): os.write(1, b'x' * (1 << 20))",
        20.0,
        "worker_died",
        "it printed more than",
    ),
    "floods-messages": (
        "answer = answers()\nwhile True: answer.line(event={'opening': 0})",
        60.0,
        "worker_died",
        "it answered with more than",
    ),
    "writes-a-file-without-end": (
        "open('file', 'wb').write(bytes(1 << 26))",
        20.0,
        "worker_died",
        "File too large",
    ),
}


@pytest.mark.parametrize(("code", "timeout_s", "expected", "says"), EVILS.values(), ids=EVILS)
def test_each_evil_ends_in_a_clear_error_in_bounded_time(
    tmp_path, monkeypatch, code, timeout_s, expected, says
):
    put_on_path(monkeypatch, tmp_path, code)
    error = fails(tmp_path, timeout_s=timeout_s)
    assert error.code == expected
    assert says in error.message
    assert len(error.message) < 3000


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        "[1, 2]",
        "{}",
        '{"result": []}',
        '{"event": 1}',
        '{"event": {}, "result": {}}',
        '{"error": "no"}',
        '{"timing": [1]}',
        '{"unknown": {}}',
        '{"result": {"p50": NaN}}',
        "[" * 100_000,
        "9" * 400_000,
        "\\udcff\\x00",
    ],
)
def test_answers_that_are_no_messages_end_the_worker(tmp_path, monkeypatch, line):
    put_on_path(
        monkeypatch,
        tmp_path,
        f"os.write(answers()._stream.fileno(), {line!r}.encode('utf-8', 'replace') + b'\\n')",
    )
    error = fails(tmp_path)
    assert error.code == "worker_died"
    assert "answered what cannot be read" in error.message


def test_an_error_that_a_worker_makes_up_is_cut_to_a_readable_length(tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, "answers().line(error={'code': 'x' * 300000, 'message': [1]})")
    error = fails(tmp_path)
    assert len(error.code) < 3000
    assert error.message == "[1]"
    assert error.hint == ""


def test_progress_that_comes_too_fast_is_thinned_out_and_positions_are_not(tmp_path, monkeypatch):
    put_on_path(
        monkeypatch,
        tmp_path,
        """
        answer = answers()
        for number in range(20_000):
            answer.line(event={'phase': 'warmup'})
            answer.line(event={'opening': number})
        """,
    )
    heard = []
    begin = time.monotonic()
    run(tmp_path / "state", listen=heard.append)
    told = [message for message in heard if "phase" in message["event"]]
    assert 0 < len(told) <= (time.monotonic() - begin + 2) * MOST_EVENTS_A_SECOND
    assert len(heard) - len(told) == 20_000


@pytest.mark.parametrize(
    "code",
    [
        "if os.fork() == 0: time.sleep(1000)",
        "if os.fork() == 0: os.setsid(); time.sleep(1000)",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(0)",
        """
        if os.fork() == 0:
            os.setsid()
            for number in (1, 2, 15):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 100)
            time.sleep(1000)
        """,
        """
        worker = os.getpid()
        for _ in range(6):
            os.fork()
        if os.getpid() != worker:
            os.setsid()
            time.sleep(1000)
        """,
    ],
    ids=["child", "own-session", "orphan-in-own-session", "deaf-and-mute", "sixty-four"],
)
def test_what_a_worker_forks_does_not_survive_it(tmp_path, monkeypatch, code):
    put_on_path(monkeypatch, tmp_path, code)
    assert run(tmp_path / "state")["runtime_version"] == "0"


def test_a_fork_that_holds_the_pipes_does_not_hold_up_the_answer(tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, "if os.fork() == 0: os.setsid(); time.sleep(1000)\nos._exit(1)")
    assert fails(tmp_path, timeout_s=600.0).code == "worker_died"


def test_forks_that_outrun_a_simple_kill_are_ended_too(tmp_path, monkeypatch):
    put_on_path(
        monkeypatch,
        tmp_path,
        """
        def breed(generations):
            while generations:
                if os.fork() == 0:
                    os.setsid()
                    generations -= 1
                else:
                    os._exit(0)
                time.sleep(0.001)
        for _ in range(20):
            if os.fork() == 0:
                breed(2000)
                os._exit(0)
        os._exit(0)
        """,
    )
    assert fails(tmp_path, timeout_s=30.0).code == "worker_died"


def test_a_process_that_the_agent_had_before_is_left_alone(tmp_path, monkeypatch):
    application = offspring.start(["/bin/sh", "-c", "sleep 60 & echo $!"], stdout=-1)
    running = int(application.stdout.readline())
    application.wait()
    application.stdout.close()
    offspring.end(application)
    put_on_path(monkeypatch, tmp_path, "if os.fork() == 0: os.setsid(); time.sleep(1000)")
    offspring.adopt_orphans()
    run(tmp_path / "state")
    states = {each.pid: each.state for each in offspring.processes()}
    assert states.get(running) in ("S", "R")
    os.kill(running, signal.SIGKILL)
    os.waitpid(running, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system to fill")
def test_a_worker_that_fills_the_disk_is_ended_and_its_files_go(tmp_path, monkeypatch):
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", state], check=False)
    if mounted.returncode:
        pytest.skip("this system mounts nothing")
    try:
        code = "for n in range(15): open(str(n), 'wb').write(bytes(1 << 22))\n"
        put_on_path(
            monkeypatch,
            tmp_path,
            code + "open('last', 'wb').write(bytes((1 << 22) - 8192)); time.sleep(1000)",
        )
        error = fails(tmp_path)
        assert error.code == "disk_full"
        assert os.statvfs(state).f_bavail * os.statvfs(state).f_frsize > 60 * MIB
    finally:
        subprocess.run(["umount", state], check=True)


def test_a_deep_and_closed_folder_is_removed(tmp_path, monkeypatch):
    put_on_path(
        monkeypatch,
        tmp_path,
        """
        for _ in range(1200):
            os.mkdir("d"); os.chdir("d")
        open("file", "w").close()
        os.symlink("/", "link")
        os.chmod(".", 0)
        """,
    )
    run(tmp_path / "state")


# --- real models


def save(tmp_path, graph, **options):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, **options)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, array):
    return numpy_helper.from_array(np.array(array), name)


def endless_loop():
    """A Loop of 2^63 rounds whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
        ],
        "body",
        [value("round", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [1])],
        [value("still", [], TensorProto.BOOL), value("next", [1])],
        [constant("one", np.float32([1]))],
    )
    return helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "endless",
        [value("x", [1])],
        [value("y", [1])],
        [constant("rounds", np.int64(2**63 - 1)), constant("yes", True)],
    )


def terabytes():
    """A tensor of 8 TiB."""
    return helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["times"], to=TensorProto.INT64),
            helper.make_node("Add", ["times", "size"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["y"], keepdims=0),
        ],
        "terabytes",
        [value("x", [1])],
        [value("y", [])],
        [constant("size", np.int64([2**41]))],
    )


def measured(tmp_path, path, timeout_s=20.0):
    """Time a file as the only one of a table; return its error, or raise."""
    found = []
    run(tmp_path / "state", "layers", timeout_s, found.append, paths=[str(path)])
    return next(message["timing"][1]["error"] for message in found if "timing" in message)


def test_a_model_that_loops_without_end_is_ended(tmp_path):
    with pytest.raises(RequestError) as caught:
        measured(tmp_path, save(tmp_path, endless_loop()), timeout_s=2.0)
    assert caught.value.code == "timed_out"


def test_a_model_that_asks_for_terabytes_is_refused_memory(tmp_path):
    assert "memory" in measured(tmp_path, save(tmp_path, terabytes()))


def test_a_model_of_nested_branches_without_end_is_refused(tmp_path):
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [value("y", [1])])
    data = graph.SerializeToString()
    for _ in range(2000):  # by hand, for the library itself refuses to nest so deeply
        attribute = b"\x32" + varint(len(data)) + data
        node = b"\x2a" + varint(len(attribute)) + attribute
        data = b"\x0a" + varint(len(node)) + node
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x09\x3a" + varint(len(data)) + data)
    assert "levels" in measured(tmp_path, path)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_truncated_and_random_files_are_refused_one_by_one(tmp_path):
    good = onnx_model()
    chance = random.Random(1)
    paths = []
    for number in range(40):
        data = bytearray(good)
        if number % 2:
            del data[chance.randrange(len(data)) :]
        else:
            data = bytearray(chance.randbytes(chance.randrange(1, 4000)))
        paths.append(tmp_path / f"{number}.onnx")
        paths[-1].write_bytes(data)
    found = []
    run(tmp_path / "state", "layers", 60.0, found.append, paths=[str(path) for path in paths])
    errors = {message["timing"][0]: message["timing"][1]["error"] for message in found if "timing" in message}
    assert len(errors) == 40
    assert all(errors[number] for number in range(0, 40, 2))


def test_models_with_flipped_bytes_never_bring_the_agent_down(tmp_path):
    good = onnx_model()
    chance = random.Random(2)
    paths = []
    for number in range(30):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        paths.append(tmp_path / f"{number}.onnx")
        paths[-1].write_bytes(data)
    for begin in range(0, 30, 10):
        try:
            run(tmp_path / "state", "layers", 30.0, paths=[str(path) for path in paths[begin : begin + 10]])
        except RequestError as error:
            assert error.code in ("worker_died", "timed_out")  # noqa: PT017


@pytest.mark.parametrize(
    "location", ["../../secret", "/etc/passwd", "secret", "./secret", "*/_ORT_MEM_ADDR_/*"]
)
def test_a_model_whose_weights_lie_in_another_file_is_refused(tmp_path, location):
    (tmp_path / "secret").write_bytes(bytes(64))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=text))
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [value("x", [16])], [value("y", [16])], [tensor]
    )
    path = save(tmp_path, graph)
    with pytest.raises(RequestError) as caught:
        run(tmp_path / "state", "measure", path=str(path))
    assert caught.value.code == "model_refused"
    assert location in caught.value.message
    assert location in measured(tmp_path, path)
