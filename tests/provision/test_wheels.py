"""Which packages a board gets; the real pip chooses among wheels of a folder, whose names are all that counts."""

import pytest
from bench import wheel
from test_probe import PI, SaidShell

from pipeline.device.provision.probe import probe
from pipeline.device.provision.wheels import select
from pipeline.errors import InputError

ALL = [
    ("onnxruntime", "1.19.2", "cp39-cp39-manylinux_2_27_aarch64.manylinux_2_28_aarch64"),
    ("onnxruntime", "1.31.1", "cp311-cp311-manylinux_2_28_aarch64"),
    ("ai-edge-litert", "2.1.0", "cp39-cp39-manylinux_2_27_aarch64"),
    ("ai-edge-litert", "2.3.0", "cp311-cp311-manylinux_2_27_aarch64"),
    ("tflite-runtime", "2.13.0", "cp39-cp39-manylinux2014_armv7l"),
    ("tflite-runtime", "2.14.0", "cp39-cp39-manylinux_2_34_armv7l"),
    ("tflite-runtime", "2.14.0", "cp311-cp311-manylinux_2_34_armv7l"),
    ("tflite-runtime", "2.14.0", "cp310-cp310-manylinux_2_34_aarch64"),
    ("numpy", "1.26.4", "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64"),
    ("numpy", "2.0.2", "cp39-cp39-manylinux_2_17_aarch64.manylinux2014_aarch64"),
    ("numpy", "2.2.6", "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64"),
    ("numpy", "2.4.6", "cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64"),
    ("numpy", "1.26.4", "cp311-cp311-linux_armv7l"),
    ("cryptography", "43.0.3", "cp39-abi3-manylinux_2_28_aarch64"),
    ("cryptography", "50.0.2", "cp311-abi3-manylinux_2_28_aarch64"),
    ("cryptography", "50.0.2", "cp311-abi3-manylinux_2_31_armv7l"),
    ("cffi", "2.1.1", "cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64"),
    ("cffi", "2.0.0", "cp39-cp39-manylinux2014_aarch64.manylinux_2_17_aarch64"),
    ("cffi", "2.0.0", "cp310-cp310-manylinux2014_aarch64.manylinux_2_17_aarch64"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheels")
    for name, version, tag in ALL:
        wheel(place, name, version, tag)
    return place


def board(python="3.11.2", glibc="2.36", arch="aarch64", **changes):
    bits = "32" if arch == "armv7l" else "64"
    libs = {"armv7l": "arm-linux-gnueabihf"}.get(arch, f"{arch}-linux-gnu")
    said = {
        **PI,
        "version": python,
        "libc": f"glibc {glibc}",
        "machine": arch,
        "bits": bits,
        "multiarch": libs,
    }
    return probe(SaidShell({**said, **changes}), "")


def chosen(found):
    return {each.name: each.version for each in found.wheels}


def test_bookworm_on_64_bits_gets_both_runtimes(folder):
    found = select(board(), folder=folder)
    assert found.runtimes == ("onnxruntime", "tflite")
    assert chosen(found) == {
        "onnxruntime": "1.31.1",
        "ai-edge-litert": "2.3.0",
        "numpy": "2.4.6",
        "cryptography": "50.0.2",
        "cffi": "2.1.1",
    }
    assert (found.verifies, found.notes) == (True, ())


def test_bullseye_on_64_bits_gets_the_last_ones_for_its_python(folder):
    found = select(board("3.9.2", "2.31"), folder=folder)
    assert chosen(found) == {
        "onnxruntime": "1.19.2",
        "ai-edge-litert": "2.1.0",
        "numpy": "2.0.2",
        "cryptography": "43.0.3",
        "cffi": "2.0.0",
    }


def test_bookworm_on_32_bits_gets_the_old_runtime_with_the_systems_numpy(folder):
    found = select(
        board(arch="armv7l", numpy="1.24.2", cryptography="38.0.4", _cffi_backend="1.15.1"), folder=folder
    )
    assert found.runtimes == ("tflite",)
    assert chosen(found) == {"tflite-runtime": "2.14.0"}
    assert any("no onnxruntime" in note for note in found.notes)


def test_cryptography_is_sent_to_a_board_that_has_cffi_alone(folder):
    found = select(board(arch="armv7l", numpy="1.24.2", _cffi_backend="1.15.1"), folder=folder)
    assert chosen(found) == {"tflite-runtime": "2.14.0", "cryptography": "50.0.2"}
    assert found.verifies


def test_a_board_that_cannot_verify_signatures_is_told(folder):
    found = select(board(arch="armv7l", numpy="1.24.2"), folder=folder)
    assert not found.verifies
    assert any("install python3-cryptography" in note for note in found.notes)


def test_an_older_c_library_gets_the_older_package(folder):
    found = select(board("3.9.2", "2.31", "armv7l", numpy="1.19.5"), folder=folder)
    assert chosen(found) == {"tflite-runtime": "2.13.0"}


@pytest.mark.parametrize(
    ("numpy", "why"), [("", "has no python3-numpy"), ("2.2.4", "needs numpy 1, the board has 2.2.4")]
)
def test_the_old_runtime_needs_the_old_numpy(folder, numpy, why):
    with pytest.raises(InputError, match=why):
        select(board(arch="armv7l", numpy=numpy), folder=folder)


def test_one_numpy_serves_both_runtimes(folder):
    found = select(board("3.10.12", "2.35"), folder=folder)
    assert chosen(found)["numpy"] == "1.26.4"
    assert chosen(found)["tflite-runtime"] == "2.14.0"


def test_only_what_was_asked_for_is_taken(folder):
    found = select(board(), ("tflite",), folder)
    assert found.runtimes == ("tflite",)
    assert "onnxruntime" not in chosen(found)


def test_a_runtime_that_was_asked_for_and_is_not_there_is_an_error(folder):
    with pytest.raises(InputError, match="there is no onnxruntime for this board"):
        select(board(arch="armv7l", numpy="1.24.2"), ("onnxruntime",), folder)


def test_without_any_runtime_the_board_is_refused(folder):
    with pytest.raises(InputError, match="there is no runtime for this board"):
        select(board("3.13.5", "2.41", "armv7l", numpy="2.2.4"), folder=folder)


def test_without_the_network_what_was_fetched_before_is_taken(folder, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "1")
    with pytest.raises(InputError, match="cannot be fetched") as raised:
        select(board(), ("tflite",))
    assert "--wheels DIR" in raised.value.hint
    select(board(), ("tflite",), folder)
    said = []
    assert chosen(select(board(), ("tflite",), notice=said.append))["ai-edge-litert"] == "2.3.0"
    assert any("was fetched before" in line for line in said)


def test_a_wheel_that_is_none_is_said(tmp_path):
    tag = "cp311-cp311-manylinux_2_28_aarch64"
    wheel(tmp_path, "onnxruntime", "1.31.1", tag).path.write_bytes(b"PK but no zip")
    with pytest.raises(InputError, match="onnxruntime"):
        select(board(), ("onnxruntime",), tmp_path)
