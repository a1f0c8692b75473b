"""The packages that boards really get: made again from those that this Python has, sent, linked together and tried."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from bench import USER, Watch, choose
from local_shell import LocalShell

from pipeline.device.client import DeviceClient
from pipeline.device.provision import wheels
from pipeline.device.provision.install import carry_out
from pipeline.device.provision.plan import make_plan
from pipeline.measurement import MeasuringProtocol

NEEDED = ("onnxruntime", "numpy", "cryptography", "cffi")
OWN = f"{sys.base_prefix}/bin"  # the Python that the packages were built for, without them
QUICK = MeasuringProtocol(
    min_runs=20, min_duration_s=0.05, max_duration_s=1.0, warmup_max_s=0.2, timeout_s=60.0
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(OWN, "python3").exists(), reason="this Python has no bin/python3 to run a board with"
    ),
]


def wheel_of(name: str, folder: Path) -> wheels.Wheel:
    """Pack an installed distribution again, as its wheel had it."""
    found = metadata.distribution(name)
    path = folder / f"{name}-{found.version}-cp3-abi3-linux.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry in found.files or []:
            if ".." not in entry.parts and "__pycache__" not in entry.parts:
                archive.write(str(entry.locate()), entry.as_posix())
    return wheels._read(path)


@pytest.fixture
def needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [wheel_of(name, tmp_path) for name in NEEDED]
    choose(monkeypatch, *made, runtimes=("onnxruntime",))


@pytest.mark.usefixtures("needed")
def test_a_runtime_is_loaded_through_links_and_measures(tmp_path: Path) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "device_agent"))
    from agent_process import onnx_model

    home = tmp_path / "home"
    home.mkdir()
    shell = LocalShell(home, path=f"{OWN}:/usr/bin:/bin")
    plan = make_plan(shell, USER)
    report = carry_out(shell, plan, Watch())
    assert report.runtimes == {"onnxruntime": metadata.version("onnxruntime")}
    model = tmp_path / "chain.onnx"
    model.write_bytes(onnx_model())
    with DeviceClient(shell.transport(plan.agent_command)) as device:
        runtimes = {each.package: each.version for each in device.status().runtimes}
        measured = device.measure(model, runtime="onnxruntime", threads=1, protocol=QUICK)
    assert runtimes == {"onnxruntime": metadata.version("onnxruntime")}
    assert measured.latency_ms.p50 > 0
    root = home / ".local/share/device-agent"
    (numpy,) = (path.name for path in (root / "current/lib").glob("numpy") if path.is_symlink())
    compiled = list((root / "current/lib" / numpy / "_core").glob("__pycache__/*.pyc"))
    assert 5 < len(compiled) < len(list((root / "current/lib" / numpy).rglob("*.py"))), (
        "what is imported, and no more"
    )
