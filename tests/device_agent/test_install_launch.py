"""Which agent is started: the one that provisioning installed, or the one of an update by bundle."""

import itertools
import shutil

import pytest
from daemon_process import PACKAGE, until
from test_agent_trees import Service, send_agent

from device_agent import __version__
from device_agent.updates.versions import newer

ASCENDING = [
    "",
    "0.9",
    "0.10rc1",
    "0.10rc2",
    "0.10",
    "0.10.1",
    "1.0.dev3",
    "1.0a1",
    "1.0",
    "1.0.post1",
    "1.1",
    "10.0",
]


@pytest.mark.parametrize(("older", "later"), itertools.combinations(ASCENDING, 2))
def test_versions_are_ordered(older, later):
    assert newer(later, older)
    assert not newer(older, later)


@pytest.mark.parametrize(("one", "other"), [("1.0", "1"), ("1.0.0", "1.0"), ("2", "2.0")])
def test_the_same_version_in_other_words_is_not_newer(one, other):
    assert not newer(one, other)
    assert not newer(other, one)


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    made.end()


def test_a_bundle_that_is_older_than_the_installed_version_is_not_started(service):
    daemon = service.daemon
    bundle = send_agent(daemon, "0.0.1")
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert daemon.ask("bundle.check", bundle=bundle)["ok"]
    starts = service.starts
    daemon.ask("bundle.activate", bundle=bundle)
    until(lambda: service.starts > starts, "a restart")
    service.until_version(__version__)
    update = service.status()["agent_update"]
    assert update["current"] is None
    assert "the installed version" in update["last"]


def test_a_newer_bundle_gives_way_when_a_still_newer_version_is_installed(service, monkeypatch):
    daemon = service.daemon
    bundle = send_agent(daemon, "9.0.0")
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert daemon.ask("bundle.check", bundle=bundle)["ok"]
    daemon.ask("bundle.activate", bundle=bundle)
    service.until_version("9.0.0")
    until(lambda: service.status()["agent_update"]["state"] != "activated", "a commit")
    installed = _installed_as(daemon, "10.0.0")
    daemon.environment["PYTHONPATH"] = str(installed)
    daemon.process.terminate()
    service.until_version("10.0.0")


def _installed_as(daemon, version):
    """Put a copy of this agent, with another version, where provisioning would."""
    folder = daemon.state.parent / "installed"
    shutil.copytree(
        PACKAGE / "device_agent", folder / "device_agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    init = folder / "device_agent/__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{__version__}"', f'__version__ = "{version}"'))
    return folder
