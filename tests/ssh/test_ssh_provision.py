"""`pipeline device provision` over real SSH: what keeps a board from getting an agent, and that it gets one after all.

The agent is installed into the home folder of the board's user, so that nothing of this computer is touched.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ssh_board import small_disk
from ssh_user import Ran, User
from sshd import GUEST, Dropbear, Server, Sshd

sys.path.append(str(Path(__file__).parents[1] / "provision"))

from bench import choose, wheel
from flaky_proxy import FlakyProxy

from pipeline.device.provision import install as installing
from pipeline.device.retry import Patience

REAL = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every board gets one tiny package; a host waits for less long than it would."""
    choose(monkeypatch, wheel(tmp_path / "wheels", **{"tiny/data.bin": bytes(1_000_000)}))
    monkeypatch.setattr(installing, "PATIENT", Patience(tries=8, first_s=0.05, longest_s=0.2))


def provision(user: User, *options: str, whole_system: bool = False) -> Ran:
    where = [] if whole_system else ["--user"]
    done = user.run("device", "provision", "board", *where, "--yes", *options)
    assert "Traceback" not in done.err
    return done


def installed(server: Server) -> list[str]:
    """Whatever provisioning left in a board's home."""
    return sorted(path.name for path in server.home.iterdir() if path.name not in (".ssh", ".bashrc"))


def python_that(server: Server, first: str) -> None:
    """Give a board a python3 that does something before it runs a program given by -c."""
    server.program(
        "python3",
        f'if [ "$2" = -c ]; then code=$3; shift 3; exec {REAL} -I -c "{first}\n$code" "$@"; fi\nexec {REAL} "$@"',
    )


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_fresh_board_gets_the_agent_and_answers(
    server: Callable[..., Server], user: User, kind: type[Server]
) -> None:
    one = server(kind)
    user.knows(one)
    planned = provision(user, "--dry-run")
    assert (planned.code, installed(one)) == (0, []), planned.err
    done = provision(user)
    assert done.code == 0, done.err
    assert "board answers" in done.out
    status = user.run("device", "status", "board")
    assert status.code == 0, status.err
    again = provision(user)
    assert again.code == 0
    assert "nothing to do" in again.out
    removed = user.run("device", "unprovision", "board", "--user", "--purge", "--yes")
    assert removed.code == 0, removed.err
    assert not list(one.home.rglob("device_agent"))


def test_a_shell_that_prints_at_every_login_does_no_harm_to_provisioning(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    user.knows(one)
    (one.home / ".bashrc").write_text("echo 'python=/evil'; echo 'Welcome, pi!'; echo 'to stderr' >&2\n")
    done = provision(user, "--dry-run")
    assert done.code == 0 or ".bashrc" in done.err
    (one.home / ".bashrc").unlink()
    assert provision(user, "--dry-run").code == 0


def test_a_link_that_is_cut_is_opened_again_and_the_board_is_finished(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    with FlakyProxy(one.port) as proxy:
        user.knows(one, port=proxy.port)
        assert provision(user, "--dry-run").code == 0
        proxy.cut_after = proxy.sent + 900_000
        done = provision(user)
        assert proxy.cuts == 1
        assert done.code == 0, done.err
        assert "trying again" in done.out + done.err
        assert "nothing to do" in provision(user).out


def test_a_key_that_is_bound_to_the_agent_cannot_provision(server: Callable[..., Server], user: User) -> None:
    one = server()
    one.authorize([f'restrict,command="device-agent stdio" {user.key.public}'])
    user.knows(one)
    done = provision(user)
    assert done.code == 4
    assert "bound to one command" in done.err
    assert installed(one) == []


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("import sys; sys.version_info = (3, 7, 3, 'final', 0)", "is Python 3.7.3"),
        ("import sys; sys.version_info = (2, 7, 18, 'final', 0)", "is Python 2.7.18"),
        ("import sys; sys.modules['ssl'] = sys.modules['zipfile'] = None", "lacks the modules"),
        ("import os; os.confstr = lambda name: 'glibc 2.17'", "glibc 2.17 is too old"),
        ("import os; os.confstr = lambda name: None", "not glibc"),
    ],
)
def test_a_python_that_will_not_do_is_named_before_anything_is_sent(
    server: Callable[..., Server], user: User, first: str, words: str
) -> None:
    one = server()
    user.knows(one)
    python_that(one, first)
    done = provision(user)
    assert done.code == 2
    assert words in done.err
    assert installed(one) == []
    (one.bin / "python3").unlink()
    assert provision(user, "--dry-run").code == 0


def test_a_board_without_python_is_told_what_it_lacks(server: Callable[..., Server], user: User) -> None:
    one = server()
    one.looks_as_after(
        "for each in /usr/bin/python3 /usr/local/bin/python3; do "
        "test ! -e $each || mount --bind /dev/null $(readlink -f $each); done"
    )
    user.knows(one)
    done = provision(user)
    assert done.code == 2
    assert "there is no python3" in done.err
    assert "Python 3.9" in done.err
    assert installed(one) == []


def test_a_clock_that_is_years_off_is_a_note_and_no_obstacle(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    user.knows(one)
    python_that(one, "import time; time.time = lambda: 86400.0")
    done = provision(user)
    assert done.code == 0, done.err
    assert "the board's clock says 1970-01-02" in done.out


def test_a_temporary_folder_that_cannot_be_written_is_no_obstacle(
    server: Callable[..., Server], user: User
) -> None:
    one = server(environment={"TMPDIR": "/proc", "TMP": "/proc", "TEMP": "/proc"})
    user.knows(one)
    done = provision(user)
    assert done.code == 0, done.err


def test_a_disk_that_is_too_small_is_told_before_anything_is_sent(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    authorized = (one.home / ".ssh" / "authorized_keys").read_text()
    with small_disk(one.home, "8m"):
        (one.home / ".ssh").mkdir()
        (one.home / ".ssh" / "authorized_keys").write_text(authorized)
        user.knows(one)
        done = provision(user)
        assert done.code == 2
        assert "MB are needed" in done.err
        assert installed(one) == []
    assert provision(user, "--dry-run").code == 0


def test_a_disk_that_is_full_at_the_wrong_moment_leaves_the_board_as_it_was(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    user.knows(one)
    place = one.home / ".local"
    with small_disk(place, "9800k"):
        done = provision(user)
        assert done.code == 4
        assert "free" in done.err
        assert not (place / "share" / "device-agent" / "current").exists()
    assert provision(user).code == 0


# --- sudo ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_guest(server: Callable[..., Server], user: User) -> Server:
    """A board that one logs in to as somebody without rights."""
    if os.getuid() != 0:
        pytest.skip("needs root, for another user")
    one = server()
    one.looks_as_after("mount -t tmpfs tmpfs /run", "mkdir -p /run/sshd /run/systemd/system")
    user.knows(one, user=GUEST)
    return one


def test_a_user_without_sudo_is_told_the_ways_there_are(by_guest: Server, user: User) -> None:
    by_guest.without("sudo")
    by_guest.restart()
    done = provision(user, whole_system=True)
    assert done.code == 2
    assert "no sudo" in done.err
    assert "--user" in done.err


def test_a_sudo_that_wants_a_password_is_told(by_guest: Server, user: User) -> None:
    by_guest.program("sudo", 'echo "sudo: a password is required" >&2; exit 1')
    done = provision(user, whole_system=True)
    assert done.code == 2
    assert "sudo wants a password for guest" in done.err
    assert "--ask-sudo-password" in done.err


def test_a_sudo_that_refuses_the_password_says_why(
    by_guest: Server, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_guest.program("sudo", 'cat >/dev/null; echo "guest is not in the sudoers file." >&2; exit 1')
    monkeypatch.setattr("click.prompt", lambda *_, **__: "secret!")
    done = provision(user, "--ask-sudo-password", whole_system=True)
    assert done.code == 2
    assert "guest is not in the sudoers file" in done.err
    assert "secret!" not in done.out + done.err + by_guest.log.read_text()


def test_a_home_that_cannot_be_written_is_told(by_guest: Server, user: User) -> None:
    home = by_guest.home.parent / GUEST
    (home / ".local").mkdir()
    done = provision(user)
    assert done.code in (2, 4)
    assert done.err.startswith("error: ")
    (home / ".local").rmdir()
    assert provision(user, "--dry-run").code == 0
