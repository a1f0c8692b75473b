"""Updates of the agent itself, with a loop in the service manager's place that starts the launcher again."""

import json
import threading
import time

import pytest
from daemon_process import PACKAGE, Daemon, deploy, send_bundle, until

from device_agent import __version__
from device_agent.errors import RequestError
from device_agent.serve.trees import STARTS


class Service:
    """Starts `device-agent launch` again whenever it ends, as the unit file asks systemd to."""

    def __init__(self, folder):
        self.daemon = Daemon(folder, command="launch")
        self.starts = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.until_version(__version__)

    def _run(self):
        while not self._over.is_set():
            self.starts += 1
            self.daemon.start(wait=False)
            self.daemon.process.wait()
            time.sleep(0.05)

    def until_version(self, version):
        return until(lambda: self.status().get("agent_version") == version, f"version {version}", 60)

    def status(self):
        try:
            return self.daemon.ask("status")
        except RequestError:
            return {}

    def end(self):
        self._over.set()
        self.daemon.process.terminate()
        self._thread.join(timeout=30)


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    made.end()


def send_agent(daemon, version, changed=()):
    """Upload this very agent as another version, some of its files changed."""
    files = {
        str(path.relative_to(PACKAGE)): path.read_bytes()
        for path in (PACKAGE / "device_agent").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    initial = files["device_agent/__init__.py"]
    files["device_agent/__init__.py"] = initial.replace(
        f'__version__ = "{__version__}"'.encode(), f'__version__ = "{version}"'.encode()
    )
    for name, old, new in changed:
        path = f"device_agent/{name}.py"
        assert old in files[path].decode()
        files[path] = files[path].replace(old.encode(), new.encode())
    entries = {name: {"sha256": daemon.put(data), "size": len(data)} for name, data in files.items()}
    document = {
        "format": 1,
        "kind": "agent",
        "name": "device-agent",
        "agent": {"version": version},
        "files": entries,
    }
    return daemon.put(json.dumps(document, sort_keys=True).encode())


def test_a_new_agent_takes_over_and_the_model_stays(service):
    daemon = service.daemon
    model = send_bundle(daemon)
    deploy(daemon, model)
    bundle = send_agent(daemon, "9.0.0")
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert daemon.ask("bundle.check", bundle=bundle) == {"ok": True, "version": "9.0.0"}
    daemon.ask("bundle.activate", bundle=bundle)
    service.until_version("9.0.0")
    until(lambda: service.status()["agent_update"]["state"] == "committed", "it commits itself")
    assert service.status()["update"]["current"] == model
    daemon.process.kill()
    time.sleep(0.2)
    service.until_version("9.0.0")


def test_an_agent_that_fails_its_own_test_is_not_activated(service):
    daemon = service.daemon
    broken = send_agent(daemon, "9.0.0", [("serve/server", "def serve(self)", "def serve(self")])
    daemon.ask("bundle.stage", manifest_sha256=broken)
    report = daemon.ask("bundle.check", bundle=broken)
    assert not report["ok"]
    assert "does not compile" in report["why"]
    assert daemon.error("bundle.activate", bundle=broken) == "not_checked"


def test_an_agent_that_works_alone_but_not_as_a_daemon_is_left_after_some_starts(service):
    daemon = service.daemon
    broken = send_agent(
        daemon,
        "9.0.0",
        [("serve/daemon", 'systemd.notify("READY=1")', 'raise SystemExit("not on this board")')],
    )
    daemon.ask("bundle.stage", manifest_sha256=broken)
    assert daemon.ask("bundle.check", bundle=broken)["ok"]
    before = service.starts
    daemon.ask("bundle.activate", bundle=broken)
    until(lambda: service.starts > before + STARTS, "it is started and fails", 60)
    service.until_version(__version__)
    assert service.status()["agent_update"]["current"] is None


def test_a_committed_agent_that_starts_no_more_gives_way_to_the_installed_one(service):
    daemon = service.daemon
    bundle = send_agent(
        daemon, "9.0.0", [("settings", "import json", "import json, os\nassert 'BROKEN' not in os.environ")]
    )
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert daemon.ask("bundle.check", bundle=bundle)["ok"]
    daemon.ask("bundle.activate", bundle=bundle)
    service.until_version("9.0.0")
    until(lambda: service.status().get("agent_update", {}).get("state") == "committed", "it commits itself")
    daemon.environment["BROKEN"] = "1"  # in the place of an upgrade of the board's Python
    daemon.process.kill()
    service.until_version(__version__)
    assert service.status()["agent_update"]["current"] == bundle


def test_an_agent_that_nobody_would_start_again_is_not_replaced(tmp_path):
    daemon = Daemon(tmp_path).start()
    try:
        bundle = send_agent(daemon, "9.0.0")
        daemon.ask("bundle.stage", manifest_sha256=bundle)
        daemon.ask("bundle.check", bundle=bundle)
        assert daemon.error("bundle.activate", bundle=bundle) == "unsupported"
    finally:
        daemon.stop()
