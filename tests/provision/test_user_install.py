"""The agent in a user's home folder, installed for real on this computer, over links that break."""

import os
import subprocess
import threading
import time

import pytest
from bench import USER, Watch, be, choose, kill, steps_left, wheel
from local_shell import LocalShell

from pipeline.device.client import DeviceClient
from pipeline.device.link import Link
from pipeline.device.provision import boarding
from pipeline.device.provision.boarding import package
from pipeline.device.provision.install import carry_out, plan_removal, remove
from pipeline.device.provision.plan import make_plan
from pipeline.device.retry import ONCE, Patience
from pipeline.errors import AgentError, InputError, LinkLostError

QUICK = Patience(tries=8, first_s=0.05)


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "a home"  # a name that a shell would take apart
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    choose(monkeypatch, wheel(tmp_path / "wheels"))


def root(home):
    return home / ".local/share/device-agent"


def install(shell, watch=None, patience=ONCE):
    return carry_out(shell, make_plan(shell, USER), watch or Watch(), patience=patience)


def version(home):
    """What the command answers that the registry would call."""
    command = [str(root(home) / "bin/device-agent"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return done.stdout.removeprefix("device-agent ").strip()


def test_a_fresh_board_gets_the_agent_and_a_host_measures_with_it(home):
    shell = LocalShell(home)
    plan = make_plan(shell, USER)
    assert plan.current is None
    report = carry_out(shell, plan, Watch())
    assert list(report.steps) == list(plan.steps)
    with DeviceClient(shell.transport(plan.agent_command)) as device:
        assert device.status().agent_version == plan.target["version"]
    assert (home / ".local/state/device-agent").is_dir()


def test_what_is_installed_is_found_in_place_and_nothing_is_left_to_do(home):
    shell = LocalShell(home)
    install(shell)
    again = make_plan(shell, USER)
    assert (again.steps, again.send) == ((), ())
    assert again.current == again.target["tree"]
    lib = root(home) / "current/lib"
    assert str((lib / "tiny").readlink()).startswith("../../../wheels/tiny-1.0-")
    assert (lib / "tiny/__init__.py").read_text() == "version = '1.0'\n"
    assert not list((root(home) / "incoming/blobs").iterdir())


def test_the_agent_is_compiled_so_that_no_worker_has_to(home):
    shell = LocalShell(home)
    install(shell)
    package = root(home) / "current/device_agent"
    lacking = [
        path for path in package.rglob("*.py") if not list(path.parent.glob(f"__pycache__/{path.stem}.*"))
    ]
    assert lacking == []


def test_an_upgrade_keeps_the_version_before_and_removes_older_ones(home, monkeypatch):
    shell = LocalShell(home)
    trees = []
    for number in ("1.0.0", "1.1.0", "1.2.0"):
        be(monkeypatch, number)
        install(shell)
        assert version(home) == number
        trees.append(make_plan(shell, USER).target["tree"])
    assert sorted(path.name for path in (root(home) / "trees").iterdir()) == sorted(trees[1:])
    assert str((root(home) / "previous").readlink()) == f"trees/{trees[1]}"


def test_a_wheel_that_both_versions_use_is_sent_once(home, monkeypatch):
    shell = LocalShell(home)
    install(shell)
    be(monkeypatch, "9.0.0")
    plan = make_plan(shell, USER)
    assert plan.send == ()
    assert carry_out(shell, plan, Watch()).sent_bytes == 0


def test_a_new_wheel_replaces_the_old_one(home, tmp_path, monkeypatch):
    shell = LocalShell(home)
    for number in ("1.0", "2.0", "3.0"):
        choose(monkeypatch, wheel(tmp_path / "wheels", version=number))
        install(shell)
    names = {path.name.rsplit("-", 1)[0] for path in (root(home) / "wheels").iterdir()}
    assert names == {"tiny-2.0", "tiny-3.0"}


@pytest.mark.parametrize("cut", [0, 1, 9, 1000, 100_000, 10**6, 3 * 10**6])
def test_a_link_that_breaks_in_an_upload_is_opened_again_and_the_upload_goes_on(
    home, tmp_path, monkeypatch, cut
):
    choose(monkeypatch, wheel(tmp_path / "big", "big", **{"big/data.bin": os.urandom(4_000_000)}))
    shell = LocalShell(home)
    plan = make_plan(shell, USER)
    ahead = 1 + 8 + len(package().archive) + 200  # after the hello
    shell.cuts = [ahead + cut, ahead + cut]
    watch = Watch()
    report = carry_out(shell, plan, watch, patience=QUICK)
    assert len(watch.said) in (1, 2)  # the second link may be enough for what is left
    assert len(shell.opened) == 2 + len(watch.said)
    assert report.sent_bytes <= plan.send_bytes + 2 * 8 * 256 * 1024  # no more twice than was under way
    assert steps_left(shell) == ()


def test_a_link_that_breaks_during_the_steps_does_not_stop_them(home):
    shell = LocalShell(home)
    plan = make_plan(shell, USER)

    def cut(number):
        if number == 1:
            shell.opened[-1].cut()

    with pytest.raises(LinkLostError):
        carry_out(shell, plan, Watch(cut), patience=ONCE)
    deadline = time.monotonic() + 30
    while steps_left(shell) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert steps_left(shell) == ()
    assert version(home) == plan.target["version"]


def test_killed_at_any_step_the_old_version_works_and_the_next_try_ends_it(home, monkeypatch):
    shell = LocalShell(home)
    be(monkeypatch, "1.0.0")
    install(shell)
    be(monkeypatch, "2.0.0")
    choose(monkeypatch, wheel(root(home).parent, version="2.0"))
    count = len(steps_left(shell))
    assert count >= 4
    for at in range(count):
        number = f"2.0.{at}"
        be(monkeypatch, number)
        before = version(home)
        choose(monkeypatch, wheel(root(home).parent, version=number))
        killer = Watch(lambda step, at=at: kill(root(home) / "lock") if step == at else None)
        with pytest.raises(LinkLostError):
            install(shell, killer)
        assert len(killer.steps) == at + 1
        assert version(home) in (before, number)
        install(shell)
        assert version(home) == number
        assert steps_left(shell) == ()
        assert not list(root(home).glob("*/.*")), "something half done is left"


def test_a_version_that_does_not_answer_is_not_switched_to(home, monkeypatch):
    shell = LocalShell(home)
    be(monkeypatch, "1.0.0")
    install(shell)
    be(
        monkeypatch,
        "2.0.0",
        {"device_agent/serve/agent.py": ("            **self.board.facts(),", "**None,")},
    )
    with pytest.raises(AgentError, match="self-test does not work on this board") as raised:
        install(shell)
    assert raised.value.code == "not_checked"
    assert version(home) == "1.0.0"
    be(monkeypatch, "2.0.1")
    install(shell)
    assert version(home) == "2.0.1"
    assert len(list((root(home) / "trees").iterdir())) == 2


def test_a_version_that_fails_after_the_switch_gives_way_to_the_old_one(home, monkeypatch):
    shell = LocalShell(home)
    be(monkeypatch, "1.0.0")
    install(shell)
    # it answers the self-test, which comes by `python -m`, and not the command
    be(
        monkeypatch,
        "2.0.0",
        {"device_agent/cli.py": ("def main(", "if sys.flags.isolated: sys.exit('dead')\ndef main(")},
    )
    with pytest.raises(AgentError, match=r"is in use again") as raised:
        install(shell)
    assert raised.value.code == "not_activated"
    assert version(home) == "1.0.0"
    assert not (root(home) / "unproven.json").exists()


def test_a_first_version_that_fails_leaves_none_in_use(home, monkeypatch):
    be(
        monkeypatch,
        "2.0.0",
        {"device_agent/cli.py": ("def main(", "if sys.flags.isolated: sys.exit('dead')\ndef main(")},
    )
    with pytest.raises(AgentError, match="none is installed"):
        install(LocalShell(home))
    assert not (root(home) / "current").is_symlink()


def test_a_disk_that_is_full_is_said_and_leaves_the_old_version(home, tmp_path, monkeypatch):
    install(LocalShell(home))
    before = version(home)
    be(monkeypatch, "2.0.0")
    choose(monkeypatch, wheel(tmp_path / "big", "big", **{"big/data.bin": bytes(5_000_000)}))
    limited = LocalShell(home, within=("prlimit", "--fsize=1000000"))
    with pytest.raises(AgentError) as raised:
        install(limited)
    assert raised.value.code in ("disk_full", "storage")
    assert version(home) == before
    install(LocalShell(home))
    assert version(home) == "2.0.0"


def test_too_little_room_is_seen_before_anything_is_sent(home, tmp_path, monkeypatch):
    big = wheel(tmp_path / "big", "big")
    choose(monkeypatch, type(big)(**{**big.__dict__, "unpacked": 10**15}))
    with pytest.raises(InputError, match=r"1000000\d+ MB are needed"):
        make_plan(LocalShell(home), USER)


@pytest.mark.parametrize("entry", ["../outside", "tiny/../../outside", "/outside/x", "a\\b", "tiny//x"])
def test_a_wheel_that_leads_out_of_its_folder_is_refused(home, tmp_path, monkeypatch, entry):
    choose(monkeypatch, wheel(tmp_path / "bad", **{entry: b"x"}))
    with pytest.raises(AgentError, match="is refused") as raised:
        install(LocalShell(home))
    assert raised.value.code == "bad_input"
    assert not list(home.rglob("outside"))
    assert not list((root(home) / "wheels").iterdir())


def test_a_place_that_cannot_be_written_is_said(home):
    root(home).parent.mkdir(parents=True)
    root(home).write_text("a file where the folder should be")
    with pytest.raises(AgentError) as raised:
        install(LocalShell(home))
    assert raised.value.code == "storage"


def test_two_at_a_time_wait_for_each_other(home):
    first = LocalShell(home)
    plan = make_plan(first, USER)
    second = Watch()
    other = threading.Thread(target=lambda: carry_out(LocalShell(home), plan, second))

    def meanwhile(number):
        if number == 0:
            other.start()
            time.sleep(1.0)

    carry_out(first, plan, Watch(meanwhile))
    other.join(timeout=60)
    assert any("waiting for it to end" in line for line in second.said)
    assert second.steps == []
    assert steps_left(first) == ()


def test_removal_leaves_the_state_unless_it_is_purged(home):
    shell = LocalShell(home)
    install(shell)
    state = home / ".local/state/device-agent"
    with DeviceClient(shell.transport(make_plan(shell, USER).agent_command)) as device:
        device.status()
    remove(shell, plan_removal(shell, system=False, purge=False), Watch())
    assert not root(home).exists()
    assert state.is_dir()
    assert plan_removal(shell, system=False, purge=False).steps == ()
    purged = plan_removal(shell, system=False, purge=True)
    assert purged.steps == (f"remove {state}",)
    remove(shell, purged, Watch())
    assert not state.exists()


def test_a_removal_that_was_killed_is_ended_by_the_next_one(home):
    shell = LocalShell(home)
    install(shell)
    killer = Watch(lambda step: kill(root(home) / "lock") if step == 1 else None)
    with pytest.raises(LinkLostError):
        remove(shell, plan_removal(shell, system=False, purge=False), killer, patience=ONCE)
    if root(home).exists():
        remove(shell, plan_removal(shell, system=False, purge=False), Watch())
    assert plan_removal(shell, system=False, purge=False).steps == ()


def test_looking_writes_nothing(home):
    make_plan(LocalShell(home), USER)
    assert list(home.iterdir()) == []


def test_an_installer_that_cannot_start_is_not_tried_again_and_again(home):
    shell = LocalShell(home)
    plan = make_plan(shell, USER)
    broken = type(plan)(
        **{**plan.__dict__, "facts": type(plan.facts)(**{**plan.facts.__dict__, "python": "/bin/false"})}
    )
    with pytest.raises(LinkLostError):
        carry_out(shell, broken, Watch(), patience=QUICK)
    assert len(shell.opened) == 2


def test_an_installer_that_its_host_forgot_keeps_nobody_out(home, monkeypatch):
    first, second = LocalShell(home), LocalShell(home)
    plan = make_plan(first, USER)
    be(
        monkeypatch,
        "3.0.0",
        {"device_agent/install/server.py": ("_FORGOTTEN_S = 300.0", "_FORGOTTEN_S = 0.5")},
    )
    forgotten = Link(boarding.board(first, plan.facts, system=False, looks_only=False))
    watch = Watch()
    install(second, watch)
    assert any("waiting for it to end" in line for line in watch.said)
    assert version(home) == "3.0.0"
    forgotten.close()
