from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from device_agent.errors import RequestError
from device_agent.updates import trust as board
from pipeline import signing
from pipeline.cli.main import run_command
from pipeline.errors import InputError

MANIFEST = b'{"format": 1}'


def verified(folder: Path, keys: Path, signatures: list[dict[str, str]]) -> str:
    manifest = folder / "manifest.json"
    manifest.write_bytes(MANIFEST)
    found: str = board.verify({"manifest": manifest, "signatures": signatures, "keys": keys})["signed_by"]
    return found


def test_a_board_accepts_what_a_key_that_it_was_given_signed(tmp_path: Path) -> None:
    key = signing.new_key(tmp_path / "alice.pem")
    signing.write_trusted(tmp_path / "keys.json", [key.public], [])
    again = signing.load_key(tmp_path / "alice.pem")
    assert again.public == key.public
    assert key.public.owner == "alice"
    assert verified(tmp_path, tmp_path / "keys.json", [again.sign(MANIFEST)]) == key.public.id


def test_a_board_does_not_accept_a_key_that_was_revoked(tmp_path: Path) -> None:
    key = signing.new_key(tmp_path / "alice.pem")
    signing.write_trusted(tmp_path / "keys.json", [key.public], [key.public.id])
    with pytest.raises(RequestError, match="revoked"):
        verified(tmp_path, tmp_path / "keys.json", [key.sign(MANIFEST)])


def test_both_sides_sign_the_same_thing() -> None:
    assert signing.CONTEXT == board.CONTEXT


def test_a_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"
    signing.new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="there already"):
        signing.new_key(path)
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        signing.load_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="no readable private key"):
        signing.load_key(path)
    with pytest.raises(InputError, match="cannot be read"):
        signing.load_key(tmp_path / "missing.pem")


def test_a_list_of_trusted_keys_is_kept_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        assert run_command(["key", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    public = {}
    for name in ("alice", "bob"):
        run("new", "--key", str(tmp_path / f"{name}.pem"))
        public[name] = tmp_path / f"{name}.json"
        public[name].write_text(run("show", "--key", str(tmp_path / f"{name}.pem")))
    ids = {name: json.loads(path.read_text())["id"] for name, path in public.items()}
    file = str(tmp_path / "trusted.json")
    run("trust", file, "--add", str(public["alice"]), "--add", str(public["bob"]))
    assert run("trust", file, "--revoke", ids["bob"]).splitlines() == [
        f"{ids['alice']}  alice",
        f"{ids['bob']}  bob  REVOKED",
    ]
    assert run("trust", file, "--remove", ids["alice"]).splitlines() == [f"{ids['bob']}  bob  REVOKED"]
    assert board.read_keys(Path(file))[1] == {ids["bob"]}
    public["alice"].write_text("{}")
    assert run_command(["key", "trust", file, "--add", str(public["alice"])]) == 2
    assert "is no public key" in capsys.readouterr().err
