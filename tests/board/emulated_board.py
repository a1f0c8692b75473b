"""An emulated ARM board: one qemu process over a disk of its own; docs/emulated-board.md says what it is.

python tests/board/emulated_board.py [--folder DIR] [--port 2201]    runs one until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

IMAGE = Path(
    os.environ.get("EDGE_BOARD")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-pipeline" / "board"
)
_PARTS = ("board.ext4", "vmlinuz", "initrd.gz", "pi.dtb", "id_board", "host_ed25519.pub")
_BOOT_S = 180.0
_KERNEL = "console=ttyAMA0 quiet root=/dev/vda rw random.trust_cpu=on mitigations=off"
_SSH = """-F none -o BatchMode=yes -o HostKeyAlias=board -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes
    -o LogLevel=ERROR -o ServerAliveInterval=15 -o ServerAliveCountMax=8"""


def why_not() -> str:
    """Say what is missing to run a board here; empty if nothing is."""
    missing = [name for name in _PARTS if not (IMAGE / name).exists()]
    if missing:
        return f"{IMAGE} holds no board's image: make board (as root on Debian 12)"
    tools = [tool for tool in ("qemu-system-aarch64", "qemu-img", "ssh") if not shutil.which(tool)]
    return f"{', '.join(tools)} not installed: make board (as root on Debian 12)" if tools else ""


class BoardError(Exception):
    """The board did not do what it was asked to; the message holds what it printed."""


class Board:
    """One board; a context manager that boots it and, in the end, takes its power away.

    Its disk lies in `folder` and outlasts boots and power cuts; an empty folder makes a fresh board. What the board
    flushed to its disk survives `power_cut`, what it did not is lost with its memory.

    Args:
        folder: for disk and logs; two boards at a time need two.
        port: where its SSH answers on 127.0.0.1; a free one if left out.
        exact: let the clock count instructions, so that latencies repeat; without it the board is faster.
    """

    def __init__(self, folder: Path, port: int | None = None, *, exact: bool = True) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = port or _free_port()
        self.exact = exact
        self.identity = IMAGE / "id_board"
        self.host_key = " ".join((IMAGE / "host_ed25519.pub").read_text().split()[:2])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Board:
        self.boot()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.power_cut()

    # --- power ---

    @property
    def is_on(self) -> bool:
        """Say whether it has power."""
        return self._process is not None

    def boot(self) -> None:
        """Give it power, and wait until its SSH answers.

        Raises:
            BoardError: qemu ended, or the board did not come up.
        """
        assert self._process is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        disk = self.folder / "disk.qcow2"
        if not disk.exists():
            image = ("-b", IMAGE / "board.ext4", "-F", "raw")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *image, disk], check=True)
        (self.folder / "known_hosts").write_text(f"board {self.host_key}\n")
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(disk),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        try:
            self.wait_for_ssh()
        except BaseException:
            self.power_cut()
            raise

    def power_cut(self) -> None:
        """Take its power away, at once; does nothing to a board that has none."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def reboot(self) -> None:
        """Have it shut down in order and come up again, and wait until its SSH answers."""
        before = self.boot_id()
        self.ssh("systemctl reboot", check=False)
        self.wait_for_ssh(other_than=before)

    def wait_for_ssh(self, other_than: str = "", within_s: float = _BOOT_S) -> None:
        """Wait until it answers, in another boot than the named one."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise BoardError(f"qemu ended: {(self.folder / 'qemu.log').read_text()}")
            with contextlib.suppress(BoardError):
                if self.boot_id() != other_than:
                    return
            time.sleep(0.5)
        raise BoardError(f"no SSH within {within_s:.0f} s; {self.folder / 'console'} says what it printed")

    def boot_id(self) -> str:
        """Return what differs from boot to boot."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id", timeout_s=20)

    # --- what it senses, and the cable ---

    def set_power(self, milliwatts: float) -> None:
        """Let its INA226 measure so much from now on."""
        self.ssh(f"set_power.sh {milliwatts:.0f}")

    def set_temperature(self, celsius: float) -> None:
        """Let its processor be so warm from now on."""
        self.ssh(f"echo {celsius * 1000:.0f} > /sys/module/fakesoc/parameters/temp")

    def cable(self, *, plugged: bool) -> None:
        """Pull its network cable, or put it back; connections stay open meanwhile, and silent."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"set_link n0 {'on' if plugged else 'off'}\n".encode())
        self._process.stdin.flush()

    def drop_connections(self, user: str = "pi") -> None:
        """End every SSH connection of a user of the board, from the board's side."""
        self.ssh(f"pkill -KILL -u {user} -x sshd", check=False)

    # --- commands ---

    def ssh(
        self,
        command: str,
        user: str = "root",
        *,
        stdin: bytes = b"",
        timeout_s: float = 120,
        check: bool = True,
    ) -> str:
        """Run a command on it, past the program under test, and return what it printed.

        Raises:
            BoardError: its status is not 0 and `check` is set, or it took too long.
        """
        try:
            done = subprocess.run(
                [*self.ssh_command(user), command],
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BoardError(f"{command}: not done within {timeout_s:.0f} s") from error
        if check and done.returncode:
            raise BoardError(f"{command}: status {done.returncode}: {(done.stderr or done.stdout).decode()}")
        return done.stdout.decode().strip()

    def wait_until(self, condition: str, *, within_s: float = 600) -> None:
        """Wait until a command of root's succeeds, for a minute of the board's own time at most.

        Raises:
            BoardError: it did not.
        """
        waits = "[ $SECONDS -lt 60 ] || exit 1; sleep 0.02"
        self.ssh(f"until {condition}; do {waits}; done", timeout_s=within_s)

    def ssh_command(self, user: str = "root") -> list[str]:
        """Return the words of the command that opens a shell on it."""
        known = f"UserKnownHostsFile={self.folder / 'known_hosts'}"
        where = ["-i", str(self.identity), "-p", str(self.port), "-o", known]
        return ["ssh", *shlex.split(_SSH), *where, f"{user}@{self.host}"]

    def _command(self, disk: Path) -> list[str]:
        """Return qemu's command line.

        `cache=unsafe` spares this machine's disk: a flush by the board is handed to this machine's kernel, which
        outlives qemu. `restrict=on`: the board reaches nothing outside, as a board without internet.
        """
        clock = (
            ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"]
            if self.exact
            else ["-accel", "tcg"]
        )
        network = f"user,id=n0,restrict=on,hostfwd=tcp:{self.host}:{self.port}-:22"
        return [
            *(
                "qemu-system-aarch64",
                "-M",
                "virt,gic-version=2",
                "-cpu",
                "cortex-a72",
                "-smp",
                "1",
                "-m",
                "1G",
                *clock,
            ),
            *("-display", "none", "-serial", f"file:{self.folder / 'console'}", "-monitor", "stdio"),
            *("-kernel", str(IMAGE / "vmlinuz"), "-initrd", str(IMAGE / "initrd.gz"), "-append", _KERNEL),
            *("-dtb", str(IMAGE / "pi.dtb"), "-drive", f"file={disk},if=none,id=d0,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=d0", "-netdev", network),
            *("-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"),
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """Leave no board behind, however the tests end."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    """Run one board until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=IMAGE / "by-hand", help="its disk and logs; kept")
    parser.add_argument("--port", type=int, default=2201)
    parser.add_argument("--fast", action="store_true", help="faster, but latencies do not repeat")
    options = parser.parse_args()
    if missing := why_not():
        parser.error(missing)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Board(options.folder, options.port, exact=not options.fast) as board,
    ):
        print(f"host key: {board.host_key}")
        print(f"root:     {shlex.join(board.ssh_command())}")
        print("as pi:    the same with pi@; Ctrl-C takes its power away, and its disk stays", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
