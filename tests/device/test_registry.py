"""Named devices: "local" is always there, every other has a file of its own in the user's folder of devices."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pipeline.device.address import SshAddress, fingerprint, parse_address
from pipeline.device.registry import (
    LocalDevice,
    SshDevice,
    devices_folder,
    find_board,
    find_device,
    known_devices,
    open_device,
    remove_device,
    write_device,
)
from pipeline.errors import InputError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGlnbm9yZWlnbm9yZWlnbm9yZWlnbm9yZWlnbm9y"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def listed(name: str, text: str) -> Path:
    devices_folder().mkdir(parents=True, exist_ok=True)
    path = devices_folder() / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_local_device_needs_no_file(home: Path) -> None:
    local = find_device("local")
    assert local == LocalDevice("local", "local", home / "state" / "pipeline" / "devices" / "local")
    assert known_devices() == (local,)


def test_devices_with_files_are_known_after_local(home: Path) -> None:
    listed("bench", 'transport = "local"\nprofile = "rpi4"\n')
    listed("other", f'transport = "local"\nprofile = "rpi5"\nstate = "{home}/elsewhere"\n')
    assert [entry.name for entry in known_devices()] == ["local", "bench", "other"]
    assert find_device("bench") == LocalDevice(
        "bench", "rpi4", home / "state" / "pipeline" / "devices" / "bench"
    )
    assert find_device("other") == LocalDevice("other", "rpi5", home / "elsewhere")


def test_a_file_may_say_what_local_is(home: Path) -> None:
    listed("local", 'transport = "local"\nprofile = "rpi5"\n')
    assert [entry.profile for entry in known_devices()] == ["rpi5"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    listed("bench", 'transport = "local"\nprofile = "rpi4"\n')
    with pytest.raises(InputError, match=r"no device is called 'locale'.*local.*bench.*device enroll"):
        open_device("locale")


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "a" * 65])
def test_a_name_that_is_none_for_a_file_is_unknown(name: str) -> None:
    with pytest.raises(InputError, match="no device is called"):
        find_device(name)
    with pytest.raises(InputError, match="a device's name is made of"):
        write_device(SshDevice(name, "rpi4", SshAddress("board", host_key=KEY)))


def test_a_board_is_written_read_back_and_removed() -> None:
    identity = Path('/home/a "b"/ü\\key')
    board = SshDevice("rpi4", "rpi4", SshAddress("board", 2222, "pi", identity, KEY), "device-agent stdio")
    path = write_device(board)
    assert find_device("rpi4") == find_board("rpi4") == board
    assert tomllib.loads(path.read_text(encoding="utf-8"))["port"] == 2222
    assert path.parent.stat().st_mode & 0o077 == 0
    remove_device("rpi4")
    with pytest.raises(InputError, match="no device is called 'rpi4'"):
        remove_device("rpi4")


def test_what_ssh_config_may_say_is_left_out() -> None:
    board = SshDevice("rpi4", "rpi4", SshAddress("alias", host_key=KEY))
    written = tomllib.loads(write_device(board).read_text(encoding="utf-8"))
    assert sorted(written) == ["agent", "host", "host_key", "profile", "transport"]
    assert find_device("rpi4") == board


def test_local_is_always_there() -> None:
    with pytest.raises(InputError, match="always there"):
        remove_device("local")


def test_a_local_device_is_no_board() -> None:
    with pytest.raises(InputError, match="on this computer"):
        find_board("local")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "transport: missing"),
        ('transport = "local"\n', "profile: missing"),
        ('transport = "pigeon"\nprofile = "rpi4"\n', r'transport: found "pigeon"; allowed: "local" or "ssh"'),
        ('transport = "local"\nprofile = "rpi4"\nport = 22\n', "port: unknown key"),
        ('transport = "ssh"\nprofile = "rpi4"\nhost = "b"\n', "host_key: missing"),
        (f'transport = "ssh"\nprofile = "p"\nhost = "b"\nport = 0\nhost_key = "{KEY}"\n', "port: found 0"),
        (
            'transport = "ssh"\nprofile = "p"\nhost = "b"\nhost_key = "nonsense"\n',
            "host_key: .* is no host key",
        ),
        ("transport = \n", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(text: str, words: str) -> None:
    path = listed("a", text)
    with pytest.raises(InputError, match=words) as caught:
        known_devices()
    assert str(path) in str(caught.value)


def test_a_device_is_opened_by_name(home: Path) -> None:
    with open_device("local") as device:
        assert device.status().update.current is None
    assert (home / "state" / "pipeline" / "devices" / "local").is_dir()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pi@192.0.2.10", ("pi", "192.0.2.10")),
        ("rpi4.local", (None, "rpi4.local")),
        ("pi@[2001:db8::1]", ("pi", "2001:db8::1")),
    ],
)
def test_addresses(text: str, found: tuple[str | None, str]) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize("text", ["", "@host", "pi@", "pi@host:22", "a b", "-oProxyCommand=x", "pi@-x@y"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        parse_address(text)


def test_a_fingerprint_is_what_ssh_prints() -> None:
    # ssh-keygen -lf prints this for the key above
    assert fingerprint(KEY).startswith("SHA256:")
    assert len(fingerprint(KEY)) == len("SHA256:") + 43
