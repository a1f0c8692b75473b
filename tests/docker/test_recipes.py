"""The recipes of the images keep their rules: looked at as text, so that it is done everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from recipes import DOCKERFILES, FOLDER, ROOT, arguments, instructions, last_stage

SCRIPTS = [path for path in FOLDER.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!")]
_REGISTRY = re.compile(
    r"docker\.io|ghcr\.io|quay\.io|gcr\.io|mcr\.microsoft|pypi\.org|pythonhosted|download\.pytorch"
)


def test_there_are_three_images() -> None:
    assert [path.name for path in DOCKERFILES] == ["agent.Dockerfile", "board.Dockerfile", "host.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestEveryImage:
    def test_its_base_can_be_chosen(self, path: Path) -> None:
        found = instructions(path)
        first = next(number for number, each in enumerate(found) if each.keyword == "FROM")
        free = {each.text.split("=")[0] for each in found[:first] if each.keyword == "ARG"}
        bases = [each.text.split()[0] for each in found if each.keyword == "FROM"]
        assert bases
        assert {base.strip("${}") for base in bases} <= free

    def test_no_default_names_a_registry(self, path: Path) -> None:
        for value in arguments(path).values():
            host = value.partition("/")[0] if "/" in value else ""
            assert "." not in host
            assert ":" not in host

    def test_its_user_is_not_root(self, path: Path) -> None:
        users = [each.text for each in last_stage(path) if each.keyword == "USER"]
        assert users
        assert users[-1].split(":")[0] not in {"root", "0"}

    def test_nothing_keeps_a_set_user_id_bit(self, path: Path) -> None:
        runs = [each.text for each in last_stage(path) if each.keyword == "RUN"]
        installs = [number for number, text in enumerate(runs) if "apt-get install" in text]
        strips = [number for number, text in enumerate(runs) if "-perm /6000 -exec chmod a-s" in text]
        assert strips
        assert max(strips) >= max(installs)

    def test_its_health_is_spoken_of(self, path: Path) -> None:
        (check,) = [each.text for each in last_stage(path) if each.keyword == "HEALTHCHECK"]
        assert ('CMD ["device-agent", "status"]' in check) != (path.name == "host.Dockerfile")

    def test_it_starts_without_a_shell(self, path: Path) -> None:
        for each in last_stage(path):
            if each.keyword in {"ENTRYPOINT", "CMD"}:
                assert each.text.startswith("[")

    def test_what_it_copies_is_in_the_repository(self, path: Path) -> None:
        for each in instructions(path):
            if each.keyword == "COPY" and not each.text.startswith("--from="):
                for source in each.text.split()[:-1]:
                    assert not source.startswith(
                        (".", "/")
                    )  # never the whole folder with all that lies about
                    assert (ROOT / source).exists(), source
        assert not any(each.keyword == "ADD" for each in instructions(path))

    def test_packages_come_without_what_is_only_recommended(self, path: Path) -> None:
        for each in instructions(path):
            if "apt-get install" in each.text:
                assert "apt-get update" in each.text
                assert "--yes --no-install-recommends" in each.text
        for each in last_stage(path):
            if "apt-get install" in each.text:
                assert "rm -rf /var/lib/apt/lists/* /var/cache/apt/*" in each.text


def test_what_is_not_for_images_is_left_out_of_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".*", "**/__pycache__", "**/*.pyc"} <= set(ignored)


def test_host_keys_are_not_baked_in() -> None:
    (install,) = [
        each.text for each in instructions(FOLDER / "board.Dockerfile") if "openssh-server" in each.text
    ]
    assert "/etc/ssh/ssh_host_*" in install  # made by the package, gone before the layer is written


def test_the_pipeline_and_the_boards_have_the_same_user() -> None:
    users = {
        arguments(FOLDER / name)["USER_ID"] for name in ("agent.Dockerfile", "host.Dockerfile")
    }  # for what make-keys writes is read by both
    assert len(users) == 1


def test_torch_is_the_one_of_the_makefile() -> None:
    (pinned,) = re.findall(
        r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert arguments(FOLDER / "host.Dockerfile")["TORCH"] == pinned


@pytest.mark.parametrize(
    "path", [path for path in FOLDER.rglob("*") if path.is_file()], ids=lambda path: path.name
)
def test_no_file_names_a_registry(path: Path) -> None:
    assert not _REGISTRY.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path: Path) -> None:
    assert os.access(path, os.X_OK)
    shell = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


class TestRuntimes:
    @pytest.mark.parametrize(
        ("architecture", "wheels", "packages"),
        [
            ("amd64", {"numpy", "onnxruntime", "ai-edge-litert"}, {"python3-cryptography"}),
            ("arm64", {"numpy", "onnxruntime", "ai-edge-litert"}, {"python3-cryptography"}),
            ("armhf", {"tflite-runtime"}, {"python3-cryptography", "python3-numpy"}),
        ],
    )
    def test_are_chosen_by_the_architecture(
        self, tmp_path: Path, architecture: str, wheels: set[str], packages: set[str]
    ) -> None:
        assert set(_names(_runtimes(tmp_path, architecture, "wheels").stdout)) == wheels
        assert set(_runtimes(tmp_path, architecture, "packages").stdout.split()) == packages

    @pytest.mark.parametrize(("architecture", "what"), [("riscv64", "wheels"), ("amd64", "everything")])
    def test_of_what_is_not_known_are_refused(self, tmp_path: Path, architecture: str, what: str) -> None:
        found = _runtimes(tmp_path, architecture, what)
        assert found.returncode == 2
        assert found.stdout == ""
        assert found.stderr

    def test_are_no_older_than_the_host_wants(self, tmp_path: Path) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"]["tflite"]]
        for wheel in _runtimes(tmp_path, "amd64", "wheels").stdout.split():
            assert wheel.partition(",")[0] in wanted


def _runtimes(folder: Path, architecture: str, what: str) -> subprocess.CompletedProcess[str]:
    """Run the script where the system says that it has this architecture."""
    dpkg = folder / "dpkg"
    dpkg.write_text(f"#!/bin/sh\necho {architecture}\n", encoding="utf-8")
    dpkg.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(FOLDER / "runtimes"), what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _names(requirements: str) -> list[str]:
    return [re.split(r"[<>=]", each)[0] for each in requirements.split()]
