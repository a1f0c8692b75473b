"""The fleet of compose.yaml: closed to the outside, locked down, and its parts fit together."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine import TMPFS
from recipes import FOLDER, ROOT, arguments, compose

from pipeline.device.registry import SshDevice, known_devices

FLEET = compose()
SERVICES: dict[str, dict[str, Any]] = FLEET["services"]
BOARDS = [name for name in SERVICES if name.startswith("board")]


def test_there_are_three_boards_and_a_host() -> None:
    assert BOARDS == ["board1", "board2", "board3"]
    assert set(SERVICES) == {"keys", "host", *BOARDS}


def test_nothing_listens_outside() -> None:
    for service in SERVICES.values():
        assert "ports" not in service
        assert service.get("network_mode", "none") == "none"
    assert {name for service in SERVICES.values() for name in service.get("networks", [])} == set(
        FLEET["networks"]
    )
    assert all(network == {"internal": True} for network in FLEET["networks"].values())


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "user"} & set(service)
    assert not any(volume.startswith(("/", ".", "~")) for volume in service["volumes"])


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_sees_its_own_keys_only_and_cannot_change_them(name: str) -> None:
    assert SERVICES[name]["volumes"] == [f"{name}-keys:/keys:ro", f"{name}-state:/var/lib/device-agent"]
    assert SERVICES[name]["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    assert {"mem_limit", "pids_limit", "cpus"} <= set(SERVICES[name])


def test_volumes_are_declared_and_used() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert used == set(FLEET["volumes"])


def test_keys_are_made_for_the_boards_that_the_image_has_places_for() -> None:
    places = {volume.split(":")[1] for volume in SERVICES["keys"]["volumes"]}
    assert arguments(FOLDER / "board.Dockerfile")["BOARDS"].split() == BOARDS
    assert places == {f"/keys/{name}" for name in ("host", *BOARDS)}
    assert set(SERVICES["keys"]["environment"]["SHELL_BOARDS"].split()) < set(BOARDS)


def test_what_a_board_writes_to_is_not_its_root() -> None:
    for name in BOARDS:
        assert SERVICES[name]["tmpfs"] == [f"{place}:{options}" for place, options in TMPFS.items()]


def test_the_images_are_those_that_make_builds_and_never_pulled() -> None:
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for service in SERVICES.values():
        assert f"--tag {service['image']} " in made
        assert service["pull_policy"] == "never"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The volumes of a fleet after their first start."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    for name in ("host", *BOARDS):
        (tmp_path / name).mkdir()
    _make_keys(tmp_path)
    return tmp_path


class TestMakeKeys:
    def test_the_pipeline_knows_every_board(self, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(keys / "host/.config"))
        found = {entry.name: entry for entry in known_devices()}
        for name in BOARDS:
            entry = found[name]
            assert isinstance(entry, SshDevice)
            assert (entry.address.host, entry.address.port, entry.address.user) == (
                name,
                2222,
                "device-agent",
            )
            public = (keys / name / "ssh_host_ed25519_key.pub").read_text(encoding="ascii")
            assert entry.address.host_key == " ".join(public.split()[:2])

    def test_a_key_may_only_talk_to_the_agent_except_where_there_is_a_shell(self, keys: Path) -> None:
        public = (keys / "host/.ssh/id_ed25519.pub").read_text(encoding="ascii")
        for name in BOARDS:
            bound = "" if name == "board3" else 'restrict,command="device-agent stdio" '
            assert (keys / name / "authorized_keys").read_text(encoding="ascii") == bound + public

    def test_boards_get_no_private_key_but_their_own(self, keys: Path) -> None:
        private = {path.relative_to(keys).as_posix() for path in keys.rglob("*") if _is_private_key(path)}
        assert private == {"host/.ssh/id_ed25519", *(f"{name}/ssh_host_ed25519_key" for name in BOARDS)}
        assert all((keys / name).stat().st_mode & 0o077 == 0 for name in private)

    def test_another_start_changes_nothing(self, keys: Path) -> None:
        note = keys / "host/.config/pipeline/devices/board1.toml"
        note.write_text(note.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
        before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
        _make_keys(keys)
        assert {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()} == before


def _make_keys(folder: Path) -> None:
    shells = SERVICES["keys"]["environment"]["SHELL_BOARDS"]
    command = [str(FOLDER / "board/make-keys")]
    subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "KEYS": str(folder), "SHELL_BOARDS": shells}, check=True
    )


def _is_private_key(path: Path) -> bool:
    return path.is_file() and b"PRIVATE KEY" in path.read_bytes()
