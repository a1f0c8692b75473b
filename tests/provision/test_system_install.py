"""The agent as a service with users of its own, in a mount namespace of this computer; systemd's part is played."""

import contextlib
import json
import os
import time

import pytest
from bench import Watch, be, choose, kill, wheel
from namespace import board as make_board
from namespace import is_possible

from pipeline.device.client import DeviceClient
from pipeline.device.provision.boarding import require_sudo
from pipeline.device.provision.install import carry_out, plan_removal, remove
from pipeline.device.provision.plan import Wish, make_plan
from pipeline.device.retry import ONCE
from pipeline.errors import AgentError, InputError, LinkLostError
from pipeline.signing import default_key_file, new_key, write_trusted

pytestmark = [
    pytest.mark.skipif(
        not is_possible(), reason="needs root, mount namespaces with overlayfs, and /usr/bin/python3"
    ),
    pytest.mark.slow,
]

SYSTEM = Wish()
SUDO = '#!/bin/sh\n{gate}\nwhile [ "$1" != -- ] && [ "$1" != true ]; do shift; done; [ "$1" = -- ] && shift\n'
SUDO += 'exec setpriv --reuid=0 --regid=0 --clear-groups -- "$@"\n'


@pytest.fixture
def board():
    with make_board() as made:
        yield made


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    choose(monkeypatch, wheel(tmp_path / "wheels"))


def install(shell, wish=SYSTEM, watch=None, password=None):
    return carry_out(shell, make_plan(shell, wish), watch or Watch(), password, patience=ONCE)


def answers(board, user="root"):
    """The version that answers on the socket; a restart under way is waited for."""
    for _ in range(50):
        done = board.shell(user).run("/usr/local/bin/device-agent status --json")
        if done.status == 0:
            return json.loads(done.stdout)["agent_version"]
        time.sleep(0.1)
    raise AssertionError(done)


def give_sudo(board, gate=""):
    """Let the user pi become root; `gate` is what sudo does first."""
    path = board.sh("echo $PATH").split(":")[0] + "/sudo"
    board.shell().run(f"cat > {path}; chmod 755 {path}", SUDO.format(gate=gate).encode())
    board.sh(
        'python3 -c \'import os,shutil; p=shutil.which("setpriv"); shutil.copy(p, "/run/fakes/become")\''
    )
    board.sh("chmod 4755 /run/fakes/become; sed -i 's/exec setpriv/exec become/' /run/fakes/sudo")


def test_a_fresh_board_runs_the_service_and_trusts_this_host(board):
    shell = board.shell()
    plan = make_plan(shell, SYSTEM)
    assert plan.makes_key
    carry_out(shell, plan, Watch())
    assert answers(board) == plan.target["version"]
    trusted = json.loads(board.sh("cat /etc/device-agent/trusted_keys.json"))
    assert len(trusted["keys"]) == 1
    assert default_key_file().exists()
    again = make_plan(shell, SYSTEM)
    assert (again.steps, again.send, again.makes_key) == ((), (), False)
    owner = board.sh("stat -c %U /proc/$(cat /run/device-agent.pid)").strip()
    assert owner == "device-agent"
    owners = set(board.sh("find /opt/device-agent -printf '%u:%g\\n'").split())
    assert owners == {"root:root"}
    with DeviceClient(shell.transport(plan.agent_command)) as device:
        assert device.status().agent_version == plan.target["version"]


def test_who_logs_in_becomes_an_operator_by_sudo(board):
    give_sudo(board)
    pi = board.shell("pi")
    plan = make_plan(pi, SYSTEM)
    assert plan.facts.sudo == "free"
    assert any("let pi operate" in step for step in plan.steps)
    carry_out(pi, plan, Watch())
    assert answers(board, "pi") == plan.target["version"]
    assert {"device-agent", "device-agent-operators"} <= set(board.sh("id -nG pi").split())
    assert make_plan(board.shell("pi"), SYSTEM).steps == ()


def test_a_sudo_that_wants_a_password_gets_it_on_its_input_only(board):
    give_sudo(
        board, 'test "$1" = -n && exit 1\nread -r given\ntest "$given" = secret || { echo no >&2; exit 1; }'
    )
    pi = board.shell("pi")
    plan = make_plan(pi, SYSTEM)
    assert plan.facts.sudo == "password"
    with pytest.raises(InputError, match="sudo wants a password") as raised:
        carry_out(pi, plan, Watch())
    assert "--ask-sudo-password" in raised.value.hint
    assert "--user" in raised.value.hint
    with pytest.raises(InputError, match="sudo refuses pi: no"):
        carry_out(pi, plan, Watch(), "wrong")
    carry_out(pi, plan, Watch(), "secret")
    assert answers(board, "pi") == plan.target["version"]
    assert not [command for command in pi.commands if "secret" in command]


def test_a_password_that_sudo_does_not_ask_for_does_no_harm(board):
    give_sudo(board)
    pi = board.shell("pi")
    install(pi, password="unasked")  # noqa: S106
    assert answers(board, "pi")


def test_without_sudo_it_says_so(board):
    board.sh("rm -f /run/fakes/sudo")
    shell = board.shell("pi")
    facts = make_plan(shell, SYSTEM).facts
    facts = type(facts)(**{**facts.__dict__, "sudo": ""})
    with pytest.raises(InputError, match="there is no sudo"):
        require_sudo(shell, facts, None)


def test_trusted_keys_are_kept_unless_they_are_to_be_replaced(board, tmp_path):
    shell = board.shell()
    install(shell)
    other = new_key(tmp_path / "other.pem").public
    write_trusted(tmp_path / "trust.json", [other], [])
    plan = make_plan(shell, Wish(trust=tmp_path / "trust.json"))
    assert plan.steps == ("install the trusted keys /etc/device-agent/trusted_keys.json",)
    carry_out(shell, plan, Watch())
    assert json.loads(board.sh("cat /etc/device-agent/trusted_keys.json"))["keys"][0]["id"] == other.id
    kept = make_plan(shell, SYSTEM)
    assert kept.steps == ()
    assert any("yours is not on it" in note for note in kept.notes)


def test_an_upgrade_switches_to_the_new_version(board, monkeypatch):
    shell = board.shell()
    for version in ("1.0.0", "1.1.0"):
        be(monkeypatch, version)
        install(shell)
        assert answers(board) == version
    assert board.sh("readlink /opt/device-agent/previous").startswith("trees/1.0.0-")


def test_a_version_that_passes_its_test_and_does_not_serve_gives_way_to_the_old_one(board, monkeypatch):
    shell = board.shell()
    be(monkeypatch, "1.0.0")
    install(shell)
    be(
        monkeypatch,
        "2.0.0",
        {"device_agent/serve/daemon.py": ("def serve(", "raise SystemExit('it will not')\ndef serve(")},
    )
    with pytest.raises(AgentError, match="is in use again") as raised:
        install(shell)
    assert raised.value.code == "not_activated"
    assert "it will not" in raised.value.hint
    assert answers(board) == "1.0.0"
    assert board.sh("readlink /opt/device-agent/current").startswith("trees/1.0.0-")
    be(monkeypatch, "2.0.1")
    install(shell)
    assert answers(board) == "2.0.1"


def test_a_first_version_that_does_not_serve_leaves_no_service(board, monkeypatch):
    be(
        monkeypatch,
        "2.0.0",
        {"device_agent/serve/daemon.py": ("def serve(", "raise SystemExit('it will not')\ndef serve(")},
    )
    with pytest.raises(AgentError, match="none is installed"):
        install(board.shell())
    assert board.shell().run("test -e /etc/systemd/system/device-agent.service").status == 1


def test_killed_at_any_step_the_old_agent_answers_and_the_next_try_ends_it(board, monkeypatch, tmp_path):
    shell = board.shell()
    be(monkeypatch, "1.0.0")
    install(shell)
    at, count = 0, 1
    while at < count:
        version = f"2.0.{at}"
        be(monkeypatch, version)
        choose(monkeypatch, wheel(tmp_path / "wheels", version=version))
        before = answers(board)
        count = len(make_plan(shell, SYSTEM).steps)
        killer = Watch(lambda step, at=at: kill(board.path("/opt/device-agent/lock")) if step == at else None)
        with contextlib.suppress(LinkLostError):  # the last step may have been quicker
            install(shell, watch=killer)
        assert (
            at < len(killer.steps) <= at + 2
        )  # a quick step may be over, and the next one told, before the kill
        assert answers(board) in (before, version)
        install(shell)
        assert answers(board) == version
        assert make_plan(shell, SYSTEM).steps == ()
        at += 1
    assert count >= 4


def test_a_disk_that_is_full_is_said_and_the_old_agent_answers(monkeypatch, tmp_path):
    with make_board("64m") as small:
        shell = small.shell()
        be(monkeypatch, "1.0.0")
        install(shell)
        be(monkeypatch, "2.0.0")
        big = wheel(tmp_path / "big", "big", **{"big/data.bin": os.urandom(31_000_000)})
        choose(monkeypatch, big)
        with pytest.raises(InputError, match="are free there"):
            make_plan(shell, SYSTEM)
        choose(
            monkeypatch, type(big)(**{**big.__dict__, "unpacked": -(10**8)})
        )  # the board is to find out itself
        with pytest.raises(AgentError) as raised:
            install(shell)
        assert raised.value.code == "disk_full"
        assert answers(small) == "1.0.0"
        choose(monkeypatch, wheel(tmp_path / "wheels"))
        install(shell)
        assert answers(small) == "2.0.0"


def test_a_system_that_is_read_only_is_said(board):
    board.sh("mount -o remount,ro /opt")
    with pytest.raises(AgentError, match="Read-only file system") as raised:
        install(board.shell())
    assert raised.value.code == "storage"


def test_what_is_missing_is_mended(board):
    shell = board.shell()
    install(shell)
    board.sh("systemctl stop device-agent; rm /usr/local/bin/device-agent; rmdir /etc/device-agent/hooks")
    plan = make_plan(shell, SYSTEM)
    assert plan.steps == (
        "make the folder /etc/device-agent/hooks",
        "install the command /usr/local/bin/device-agent",
        "start the service",
    )
    carry_out(shell, plan, Watch())
    assert make_plan(shell, SYSTEM).steps == ()
    assert answers(board)


def test_removal_keeps_models_and_keys_unless_purged(board):
    shell = board.shell()
    install(shell)
    remove(shell, plan_removal(shell, system=True, purge=False), Watch())
    assert board.sh("ls /opt").strip() == ""
    assert board.sh("ls /etc/device-agent").split() == ["hooks", "trusted_keys.json"]
    assert not board.path("/run/device-agent.pid").exists()
    install(shell)
    assert answers(board)
    remove(shell, plan_removal(shell, system=True, purge=True), Watch())
    left = board.shell().run(
        "ls -d /etc/device-agent /var/lib/device-agent /opt/device-agent; getent passwd device-agent"
    )
    assert left.stdout == b""
    assert plan_removal(shell, system=True, purge=True).steps == ()


def test_killed_while_it_switches_the_next_try_asks_the_new_one_again(board, monkeypatch):
    shell = board.shell()
    be(monkeypatch, "1.0.0")
    install(shell)
    be(monkeypatch, "2.0.0")
    plan = make_plan(shell, SYSTEM)
    switching = next(number for number, step in enumerate(plan.steps) if step.startswith("switch"))

    def after_the_rename(step):
        if step == switching:
            while "2.0.0" not in os.readlink(board.path("/opt/device-agent/current")):  # noqa: PTH115
                pass
            kill(board.path("/opt/device-agent/lock"))

    with pytest.raises(LinkLostError):
        carry_out(shell, plan, Watch(after_the_rename), patience=ONCE)
    left = make_plan(shell, SYSTEM).steps
    assert any(step.startswith("switch") for step in left)
    install(shell)
    assert answers(board) == "2.0.0"
    assert board.sh("readlink /opt/device-agent/previous").startswith("trees/1.0.0-")
