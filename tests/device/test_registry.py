"""Named devices: "local" is always there, others come from the user's devices.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.device.registry import devices_file, find_device, known_devices, open_device
from pipeline.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def listed(text: str) -> None:
    devices_file().parent.mkdir(parents=True)
    devices_file().write_text(text, encoding="utf-8")


def test_the_local_device_needs_no_file(home: Path) -> None:
    local = find_device("local")
    assert (local.transport, local.profile) == ("local", "local")
    assert local.state_folder == home / "state" / "pipeline" / "devices" / "local"
    assert known_devices() == (local,)


def test_devices_of_the_file_are_known_after_local(home: Path) -> None:
    listed(
        f'[devices.bench]\ntransport = "local"\nprofile = "rpi4"\n'
        f'[devices.other]\ntransport = "local"\nprofile = "rpi5"\nstate = "{home}/elsewhere"\n'
    )
    assert [entry.name for entry in known_devices()] == ["local", "bench", "other"]
    assert find_device("bench").profile == "rpi4"
    assert find_device("bench").state_folder == home / "state" / "pipeline" / "devices" / "bench"
    assert find_device("other").state_folder == home / "elsewhere"


def test_the_file_may_say_what_local_is(home: Path) -> None:
    listed('[devices.local]\ntransport = "local"\nprofile = "rpi5"\n')
    assert [entry.profile for entry in known_devices()] == ["rpi5"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no device is called 'locale'.*local.*devices\.toml"):
        open_device("locale")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[devices.a]\n", r"devices\.a: transport: missing"),
        (
            '[devices.a]\ntransport = "pigeon"\nprofile = "rpi4"\n',
            r'transport: found "pigeon"; allowed: "local"',
        ),
        ('[devices.a]\ntransport = "local"\nprofile = "rpi4"\nport = 22\n', "port: unknown key"),
        ('[devices."../a"]\ntransport = "local"\nprofile = "rpi4"\n', "a device's name is made of"),
        ("[devices]\na = 3\n", "found no table"),
        ("[device.a]\n", "device: unknown key"),
        ("[devices.a\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(text: str, words: str) -> None:
    listed(text)
    with pytest.raises(InputError, match=words) as caught:
        known_devices()
    assert str(devices_file()) in str(caught.value)


def test_a_device_is_opened_by_name(home: Path) -> None:
    with open_device("local") as device:
        assert device.status().update.current is None
    assert (home / "state" / "pipeline" / "devices" / "local").is_dir()
