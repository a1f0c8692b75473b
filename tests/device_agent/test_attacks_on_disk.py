"""What somebody may try who can write to the agent's state folder, and who fills the board's disk."""

import pytest
from agent_process import AgentProcess
from attack_bundles import sha256_of, tree_of
from daemon_process import manifest_of, model_files

from device_agent.updates.store import FileStore
from device_agent.updates.update import Updater
from device_agent.work.workplace import Workplace

DATA = bytes(range(256)) * 4
SHA256 = sha256_of(DATA)
AB = sha256_of(b"ab")
MANIFEST = manifest_of(model_files())
BUNDLE = sha256_of(MANIFEST)
MODEL = model_files()["model.onnx"]
FOREIGN = "f" * 64


@pytest.fixture
def agent(tmp_path):
    process = AgentProcess(tmp_path / "state")
    yield process
    process.process.kill()
    process.process.wait()
    process.process.stdin.close()
    process.process.stdout.close()


def put(agent, data, sha256=None, *, size=None, offset=0, **more):
    """Send one chunk; returns the code that it is refused with, empty if it is taken."""
    params = {
        "sha256": sha256 or sha256_of(data),
        "size": len(data) if size is None else size,
        "offset": offset,
    }
    return agent.ask("files.put", {**params, **more}, data).get("error", {}).get("code", "")


# --- links ----------------------------------------------------------------------------------------------------


class Attacked:
    """A state folder, and beside it a victim's file and folder, which no agent may touch."""

    def __init__(self, folder):
        self.state = folder / "state"
        self.victim = folder / "victim"
        (self.victim / "folder").mkdir(parents=True)
        for name in ("file", "folder/inside"):
            (self.victim / name).write_bytes(b"precious")
        self.before = tree_of(self.victim)
        for place in (self.state, self.state / "agent"):
            Updater(place, FileStore(self.state))
        with Workplace(self.state / "workers"):
            pass

    def plant(self, place, what):
        path = self.state / place
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.symlink_to(self.victim / what)

    def use(self):
        """Do with the agent whatever it lets one do."""
        agent = AgentProcess(self.state)
        if "hello" in agent.hello:
            put(agent, b"a", AB, size=2)
            put(agent, b"b", AB, size=2, offset=1)
            put(agent, DATA, purpose="measure")
            agent.ask("files.missing", {"files": [{"sha256": SHA256, "size": len(DATA)}]})
            for data in (*model_files().values(), MANIFEST):
                put(agent, data)
            agent.ask("bundle.stage", {"manifest_sha256": BUNDLE})
            agent.ask("bundle.rollback")
            agent.ask("files.collect", {"keep": []})
        agent.close()


LINKS = {
    f"incoming/{AB}": "file",
    f"incoming/{SHA256}": "file",
    f"incoming/{SHA256}.copy": "file",
    f"scratch/{SHA256}": "file",
    f"blobs/{SHA256}": "file",
    f"blobs/{BUNDLE}": "file",
    f"blobs/{sha256_of(MODEL)}": "file",
    f"bundles/{BUNDLE}": "folder",
    f"bundles/.{BUNDLE}.new": "folder",
    "bundles/stray": "folder",
    "generations/7": "folder",
    "workers/stray": "folder",
    "journal.json": "file",
    "journal.json.new": "file",
    "reserve": "file",
    "lock": "file",
    "incoming": "folder",
    "blobs": "folder",
    "bundles": "folder",
    "workers": "folder",
    "agent/bundles": "folder",
}


@pytest.mark.parametrize(("place", "what"), LINKS.items(), ids=[place[:20] for place in LINKS])
def test_no_link_in_the_state_folder_leads_the_agent_out_of_it(tmp_path, place, what):
    attacked = Attacked(tmp_path)
    attacked.plant(place, what)
    attacked.use()
    assert tree_of(attacked.victim) == attacked.before


@pytest.mark.parametrize("place", ["active", "active.new", "generations/1", f"bundles/{FOREIGN}"])
def test_no_link_in_the_state_folder_leads_an_activation_out_of_it(tmp_path, place):
    attacked = Attacked(tmp_path)
    attacked.plant(place, "folder")
    store = FileStore(attacked.state)
    for data in (*model_files().values(), MANIFEST):
        store.put(sha256_of(data), len(data), 0, data)
    updater = Updater(attacked.state, store)
    updater.stage(BUNDLE)
    updater.begin_check(BUNDLE)
    updater.end_check(BUNDLE, ok=True)
    updater.activate(BUNDLE)
    updater.commit(BUNDLE)
    assert (attacked.state / "active/current/model.onnx").read_bytes() == MODEL
    assert tree_of(attacked.victim) == attacked.before


# --- uploads --------------------------------------------------------------------------------------------------


def test_more_bytes_than_declared_are_not_taken(agent, tmp_path):
    assert put(agent, DATA[:60], SHA256, size=100) == ""
    assert put(agent, DATA[60:101], SHA256, size=100, offset=60) == "bad_request"
    assert put(agent, b"", SHA256, size=50, offset=60) == "bad_offset"
    assert (tmp_path / "state/incoming" / SHA256).stat().st_size == 60


@pytest.mark.parametrize("size", [2**62, 2**63, 2**64, 10**4000], ids=["2^62", "2^63", "2^64", "10^4000"])
def test_an_upload_that_can_never_fit_costs_nobody_else_theirs(agent, tmp_path, size):
    kept = agent.put(b"another's file")
    assert put(agent, b"another's upload", FOREIGN, size=1000) == ""
    assert put(agent, b"x", SHA256, size=size) == "disk_full"
    assert put(agent, b"x", SHA256, size=size, offset=size - 1) == "bad_offset"
    files = [{"sha256": kept, "size": 14}, {"sha256": FOREIGN, "size": 1000}]
    assert agent.result("files.missing", {"files": files})["missing"] == [{"sha256": FOREIGN, "offset": 16}]
    assert not (tmp_path / "state/incoming" / SHA256).exists()


def test_unfinished_uploads_stay_under_the_quota(tmp_path):
    store = FileStore(tmp_path, quota_bytes=10_000)
    for number in range(50):
        store.put(f"{number:064x}", 2000, 0, b"x" * 1000)
        assert store.held_bytes() <= 10_000


def test_unfinished_uploads_without_number_leave_a_limited_number_of_files(agent, tmp_path):
    for number in range(300):
        put(agent, b"", f"{number:064x}", size=1000)
    assert len(list((tmp_path / "state/incoming").iterdir())) < 100
    assert put(agent, DATA) == ""


# --- measuring is not deploying -------------------------------------------------------------------------------


def test_what_was_sent_to_be_measured_is_not_staged(agent):
    for data in (*model_files().values(), MANIFEST):
        assert put(agent, data, purpose="measure") == ""
    assert agent.error("bundle.stage", {"manifest_sha256": BUNDLE})["code"] == "unknown_file"
    assert agent.error("bundle.check", {"bundle": BUNDLE})["code"] == "not_staged"
    assert agent.error("bundle.activate", {"bundle": BUNDLE})["code"] == "not_checked"


def test_a_measured_file_becomes_part_of_a_bundle_that_names_it_only_if_it_is_whole(agent, tmp_path):
    for data in model_files().values():
        put(agent, data, purpose="measure")
    agent.put(MANIFEST)
    path = tmp_path / "state/scratch" / sha256_of(MODEL)
    path.chmod(0o644)
    path.write_bytes(b"?" + MODEL[1:])
    error = agent.error("bundle.stage", {"manifest_sha256": BUNDLE})
    assert error["code"] == "missing_files"
    assert "model.onnx" in error["message"]
    assert list((tmp_path / "state/bundles").iterdir()) == []


# --- a journal that somebody wrote ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "journal",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"state": "checked", "bundle": "../../victim/folder"}',
        b'{"state": "staging", "bundle": "../../victim/folder"}',
        b'{"state": "staged", "bundle": "%s", "crashes": {"%s": "many"}}'
        % (BUNDLE.encode(), BUNDLE.encode()),
    ],
    ids=lambda journal: journal[:40].decode("latin-1"),
)
def test_a_journal_that_somebody_wrote_leads_nowhere_and_the_agent_answers(tmp_path, journal):
    attacked = Attacked(tmp_path)
    (attacked.state / "journal.json").write_bytes(journal)
    agent = AgentProcess(attacked.state)
    assert "result" in agent.ask("status")
    assert agent.error("bundle.check", {"bundle": BUNDLE})["code"] in ("storage", "not_staged")
    agent.close()
    attacked.use()
    assert tree_of(attacked.victim) == attacked.before
