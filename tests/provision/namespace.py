"""A board inside this computer: a mount namespace where /etc, /opt, /run and /var/lib are a test's own.

Users, files and the service's processes are real; systemd's part is played by `fake_board/systemctl`. Needs root.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_shell import LocalShell

FAKES = Path(__file__).parent / "fake_board"
_SETUP = """\
set -e
mount -t tmpfs tmpfs /mnt
for each in etc var/lib usr/local; do
  mkdir -p /mnt/$each/upper /mnt/$each/work
  mount -t overlay overlay -o lowerdir=/$each,upperdir=/mnt/$each/upper,workdir=/mnt/$each/work /$each
done
mount -t tmpfs -o size=$1 tmpfs /opt
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/fakes
cp "$2"/* /run/fakes/
groupadd pi; useradd -g pi -m -d /run/home/pi pi 2>/dev/null || useradd -g pi -d /run/home/pi pi
mkdir -p /run/home/pi; chown pi:pi /run/home/pi
echo ready
exec sleep 100000
"""


class NamespaceBoard:
    """The namespace; `shell` runs commands in it, as root or as the user pi."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def shell(self, user: str = "root", cut_after: tuple[int | None, ...] = ()) -> LocalShell:
        become = (
            () if user == "root" else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
        )
        enter = ("nsenter", f"--target={self._process.pid}", "--mount", "--", *become)
        home = Path("/run/home") / user
        return LocalShell(home, f"/run/fakes:{os.defpath}:/usr/sbin:/sbin", cut_after, enter)

    def sh(self, command: str, user: str = "root") -> str:
        done = self.shell(user).run(command)
        assert done.status == 0, (command, done)
        return done.stdout.decode()

    def path(self, name: str) -> Path:
        """A file of the board as this computer sees it."""
        return Path(f"/proc/{self._process.pid}/root{name}")

    def end(self) -> None:
        self.shell().run("systemctl stop device-agent")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def is_possible() -> bool:
    """Say whether this user may make such a board."""
    if os.geteuid() != 0 or not Path("/usr/bin/python3").exists():
        return False
    check = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && mount -t overlay overlay -o "
    check += "lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", check], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def board(size: str = "2g") -> Iterator[NamespaceBoard]:
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP, "sh", size, str(FAKES)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    made = NamespaceBoard(process)
    try:
        yield made
    finally:
        made.end()
