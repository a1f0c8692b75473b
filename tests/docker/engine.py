"""Images built by buildah, and run without a container engine: by what the kernel offers to root.

A container here is what compose.yaml asks for: namespaces of its own, the image's root read-only, tmpfs and volumes
on top, the image's user, no capability and none to be had. Two things are missing: a network of its own (it is on
this computer's, so that tests can reach it on the loopback) and limits on memory, processes and system calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from recipes import FOLDER, ROOT

TMPFS = {"/tmp": "mode=1777", "/run/device-agent": "mode=1777"}  # noqa: S108 - in containers
_BUILD_S = 600
_MOST_LOG = 1_000_000


def missing() -> str:
    """Say what this computer lacks to build images; empty if nothing."""
    if os.geteuid() != 0:
        return "images are built as root"
    lacking = [each for each in ("buildah", "mmdebstrap", "unshare", "nsenter") if shutil.which(each) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


class Builder:
    """buildah with a store of its own; what is in there stays for the next time."""

    def __init__(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        places = ["--root", str(store / "images"), "--runroot", str(store / "run")]
        self._command = ["buildah", *places, "--storage-driver", "vfs"]

    def base(self) -> str:
        """Return a base image of Debian 12, made if it is not there yet."""
        name = "localhost/edge-pipeline-base"
        if name not in self._run("images", "--format", "{{.Name}}").split():
            environment = {**os.environ, "BUILDAH": shlex.join(self._command)}
            _checked([str(FOLDER / "make-base"), name], env=environment)
        return name

    def build(self, recipe: str, name: str, **arguments: str) -> str:
        """Build an image from the repository's root; returns its name."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        how = ["--pull-never", "--isolation", "chroot", "--format", "docker", "--file", str(FOLDER / recipe)]
        self._run("build", *how, *given, "--tag", name, str(ROOT))
        self._run("rmi", "--prune")  # the one that had this name before
        return name

    @contextlib.contextmanager
    def unpacked(self, name: str) -> Iterator[Image]:
        """Unpack an image while the context lasts."""
        container = self._run("from", "--pull-never", name).strip()
        try:
            inspected = json.loads(self._run("inspect", "--type", "image", name))
            yield Image(Path(self._run("mount", container).strip()), inspected["Docker"]["config"])
        finally:
            self._run("rm", container)

    def _run(self, *arguments: str) -> str:
        return _checked([*self._command, *arguments])


@dataclass(frozen=True)
class Image:
    """An unpacked image: its files, and what it says about how to run it."""

    root: Path
    config: Mapping[str, Any]

    @property
    def user(self) -> str:
        """Return "UID:GID", by the image's own list of users."""
        entries = (self.root / "etc/passwd").read_text(encoding="utf-8").splitlines()
        (found,) = [entry.split(":") for entry in entries if entry.split(":")[0] == self.config["User"]]
        return f"{found[2]}:{found[3]}"

    def inside(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """Return a command line that does this in the image's root, as its user and without any right."""
        variables = [*self.config["Env"], *(f"{key}={value}" for key, value in environment.items())]
        place = f"--chdir={self.config['WorkingDir'] or '/'}"
        return [
            *("chroot", f"--userspec={self.user}", str(self.root), "setpriv", "--no-new-privs"),
            *("env", "-i", place, *variables, *command),
        ]


class Container:
    """A running command in an image; also the transport of a device client, over the command's stdin and stdout.

    Args:
        image: what it runs in.
        arguments: for the image's entry point; `None`: those that the image has.
        volumes: folders of this computer by their place in there; read-only where the place ends in ":ro".
        environment: variables beside the image's.
        entrypoint: instead of the image's.
    """

    def __init__(
        self,
        image: Image,
        arguments: Sequence[str] | None = None,
        *,
        volumes: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        entrypoint: Sequence[str] | None = None,
    ) -> None:
        self.name = "the container"
        self._image = image
        self._environment = environment or {}
        entry = image.config["Entrypoint"] if entrypoint is None else entrypoint
        self._command = [*entry, *((image.config["Cmd"] or []) if arguments is None else arguments)]
        self._mounts = _mounts(image.root, volumes or {})
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the container

    @property
    def log(self) -> str:
        """Return what was printed on stderr."""
        return os.pread(self._log.fileno(), _MOST_LOG, 0).decode(errors="replace")

    def __enter__(self) -> Container:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the command."""
        inside = self._image.inside(self._command, self._environment)
        script = "\n".join(["set -e", *self._mounts, f"exec {shlex.join(inside)}"])
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--fork"]
        pipe = subprocess.PIPE
        command = ["unshare", *spaces, "sh", "-c", script]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)

    def stop(self) -> int:
        """Ask the command to end, as an engine does; returns its status."""
        first = self._first
        for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            if first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=seconds)
        raise AssertionError(f"{self.name} does not end")

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        with self:
            said, _ = self.process.communicate(timeout=120)
        return subprocess.CompletedProcess(self._command, self.process.returncode, said.decode(), self.log)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command in the running container."""
        enter = ["nsenter", "--target", str(self._first), "--mount", "--pid", "--ipc", "--uts"]
        inside = self._image.inside(command, self._environment)
        return subprocess.run([*enter, *inside], capture_output=True, text=True, timeout=60, check=False)

    def healthy(self, within_s: float = 30.0) -> bool:
        """Say whether the image's own check passes within this time."""
        kind, *command = self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        deadline = time.monotonic() + within_s
        while self.execute(*command).returncode != 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return True

    @property
    def _first(self) -> int:
        """Return the process that is number 1 in there, as soon as there is one; 0 when all is over."""
        number = self.process.pid
        while self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                return int(
                    Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()[0]
                )
            time.sleep(0.01)
        return 0

    # --- as a transport -------------------------------------------------------------------------------------------

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        self.start()
        return cast("BinaryIO", self.process.stdout), cast("BinaryIO", self.process.stdin)

    def close(self) -> None:
        self.stop()

    def last_words(self) -> str:
        return f"status {self.process.poll()}: {self.log[-500:]}"


def _mounts(root: Path, volumes: Mapping[str, Path]) -> list[str]:
    lines = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}"]
    lines += [f"mount --rbind /{each} {root}/{each}" for each in ("dev", "sys")]
    lines.append(f"mount -t proc proc {root}/proc")
    lines += [
        f"mount -t tmpfs -o {options} tmpfs {root}{place}"
        for place, options in TMPFS.items()
        if (root / place[1:]).is_dir()
    ]
    for place, folder in volumes.items():
        target = shlex.quote(f"{root}{place.removesuffix(':ro')}")
        lines.append(f"mount --bind {shlex.quote(str(folder))} {target}")
        if place.endswith(":ro"):
            lines.append(f"mount -o remount,bind,ro {target}")
    return lines


def _checked(command: Sequence[str], **how: Any) -> str:
    """Run a command and return what it printed; what it said is in the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False, **how)
    if done.returncode != 0:
        said = re.sub(r"\s*\n\s*", "\n", done.stdout + done.stderr)[-3000:]
        raise AssertionError(f"{shlex.join(command)}\n{said}")
    return done.stdout
