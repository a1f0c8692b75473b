import hashlib
import json
import os

import pytest

from device_agent.errors import RequestError
from device_agent.updates.store import FileStore
from device_agent.updates.update import MOST_CRASHES, Updater, read_status


def put(store, data):
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(sha256, len(data), 0, data)
    return sha256


def upload(store, name, sequence=0):
    parts = {part: f"{part} of {name}".encode() for part in ("model.onnx", "in.npy", "out.npy")}
    document = {
        "format": 1,
        "name": name,
        "sequence": sequence,
        "model": {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1},
        "files": {part: {"sha256": put(store, data), "size": len(data)} for part, data in parts.items()},
        "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 0.0, "atol": 0.0}},
    }
    return put(store, json.dumps(document).encode())


def opened(folder):
    store = FileStore(folder)
    return store, Updater(folder, store)


def checked(updater, bundle, *, ok=True):
    updater.begin_check(bundle)
    updater.end_check(bundle, ok=ok)


def deploy(updater, bundle):
    updater.stage(bundle)
    checked(updater, bundle)
    updater.activate(bundle)
    updater.commit(bundle)


def active_model(folder):
    path = folder / "active" / "current" / "model.onnx"
    return path.read_text() if path.exists() else None


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Killing a process loses nothing that was written, so the tests need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def state(tmp_path):
    """A state folder with "old" committed and the files of "new" uploaded."""
    store, updater = opened(tmp_path)
    old, new = upload(store, "old"), upload(store, "new")
    deploy(updater, old)
    return tmp_path, old, new


def code_of(act, *arguments):
    with pytest.raises(RequestError) as caught:
        act(*arguments)
    return caught.value.code


def test_a_committed_bundle_is_active_and_the_former_one_previous(state):
    folder, old, new = state
    deploy(opened(folder)[1], new)
    assert active_model(folder) == "model.onnx of new"
    status = read_status(folder)
    assert (status.state, status.generation, status.current, status.previous) == ("committed", 2, new, old)


def test_an_activation_that_was_not_committed_is_rolled_back_on_opening(state):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    checked(updater, new)
    updater.activate(new)
    assert active_model(folder) == "model.onnx of new"
    status = opened(folder)[1].status()
    assert (status.current, status.generation) == (old, 1)
    assert active_model(folder) == "model.onnx of old"


def test_the_first_activation_rolls_back_to_nothing(tmp_path):
    store, updater = opened(tmp_path)
    bundle = upload(store, "first")
    updater.stage(bundle)
    checked(updater, bundle)
    updater.activate(bundle)
    assert updater.roll_back() is None
    assert not (tmp_path / "active").exists()


def test_only_a_bundle_whose_check_passed_can_be_activated(state):
    folder, _, new = state
    updater = opened(folder)[1]
    assert code_of(updater.activate, new) == "not_checked"
    updater.stage(new)
    assert code_of(updater.activate, new) == "not_checked"
    checked(updater, new, ok=False)
    assert code_of(updater.activate, new) == "not_checked"
    checked(updater, new)
    checked(updater, new, ok=False)
    assert code_of(updater.activate, new) == "not_checked"
    assert active_model(folder) == "model.onnx of old"


def test_only_the_activated_bundle_can_be_committed(state):
    folder, old, new = state
    updater = opened(folder)[1]
    assert updater.commit(old) == 1
    assert code_of(updater.commit, new) == "not_activated"


def test_a_bundle_with_a_file_missing_or_spoiled_is_not_staged(state):
    folder, _, new = state
    store, updater = opened(folder)
    model = store.path(hashlib.sha256(b"model.onnx of new").hexdigest())
    model.chmod(0o644)
    model.write_bytes(b"model.onnx of neW")
    assert code_of(updater.stage, new) == "bad_digest"
    assert not model.exists(), "so that it is sent again"
    assert code_of(updater.stage, new) == "missing_files"
    assert code_of(updater.stage, "0" * 64) == "unknown_file"
    assert updater.status().state in ("idle", "committed")
    assert active_model(folder) == "model.onnx of old"


def test_rolling_back_a_staged_bundle_leaves_the_active_one(state):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    assert updater.roll_back() == old
    assert updater.roll_back() == old
    assert not (folder / "bundles" / new).exists()


def test_a_committed_bundle_can_be_taken_back_on_request(state):
    folder, old, new = state
    updater = opened(folder)[1]
    deploy(updater, new)
    assert updater.roll_back(to_previous=True) == old
    status = opened(folder)[1].status()
    assert (status.current, status.previous) == (old, new)
    assert active_model(folder) == "model.onnx of old"


def test_there_must_be_a_previous_bundle_to_go_back_to(state):
    updater = opened(state[0])[1]
    with pytest.raises(RequestError) as caught:
        updater.roll_back(to_previous=True)
    assert caught.value.code == "no_previous"


def test_a_new_staging_waits_for_the_activation_to_end(state):
    folder, _, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    checked(updater, new)
    updater.activate(new)
    assert code_of(updater.stage, new) == "bad_request"


def test_a_damaged_journal_is_said_and_the_active_bundle_stays(state):
    folder, old, new = state
    (folder / "journal.json").write_text("{")
    updater = opened(folder)[1]
    assert (updater.status().state, updater.status().current) == ("damaged", old)
    assert "damaged" in updater.status().fault
    assert code_of(updater.stage, new) == "storage"
    assert code_of(updater.roll_back) == "storage"
    assert active_model(folder) == "model.onnx of old"


def test_files_in_use_are_those_of_the_active_previous_and_staged_bundles(state):
    folder, old, new = state
    store, updater = opened(folder)
    updater.stage(new)
    used = updater.files_in_use()
    assert {old, new} <= used
    store.collect(used)
    assert store.has(hashlib.sha256(b"model.onnx of old").hexdigest())
    assert store.has(hashlib.sha256(b"in.npy of new").hexdigest())
    updater.roll_back()
    store.collect(updater.files_in_use())
    assert not store.has(new)


def test_an_older_bundle_is_refused_unless_it_is_asked_for(tmp_path):
    store, updater = opened(tmp_path)
    first, second, other = upload(store, "1", 1), upload(store, "2", 2), upload(store, "other 2", 2)
    deploy(updater, first)
    deploy(updater, second)
    updater = opened(tmp_path)[1]
    assert code_of(updater.stage, first) == "older_refused"
    assert code_of(updater.stage, other) == "older_refused"
    assert updater.stage(second).sequence == 2
    updater.stage(first, allow_downgrade=True)
    checked(updater, first)
    updater.activate(first)
    updater.commit(first)
    assert updater.status().sequence == 2
    assert code_of(updater.stage, other) == "older_refused"


def test_a_model_that_kills_the_checker_again_and_again_is_marked_bad(state):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    for crash in range(MOST_CRASHES):
        updater.begin_check(new)
        if crash % 2:
            updater = opened(folder)[1]  # the whole board went down with it
        else:
            updater.fail_check(new, "the worker was killed by SIGSEGV")
    assert code_of(updater.begin_check, new) in ("not_staged", "bundle_bad")
    assert code_of(updater.stage, new) == "bundle_bad"
    assert "3 times" in updater.status().bad[new]
    assert updater.status().current == old
    updater.forgive(new)
    deploy(updater, new)


def test_a_check_that_ends_takes_its_crashes_back(state):
    folder, _, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    for _ in range(MOST_CRASHES - 1):
        updater.begin_check(new)
        updater.fail_check(new, "killed")
    checked(updater, new, ok=False)
    for _ in range(MOST_CRASHES - 1):
        updater.begin_check(new)
        updater.fail_check(new, "killed")
    checked(updater, new)
    updater.activate(new)


def test_only_the_application_confirms_where_it_was_asked_to(state):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    checked(updater, new)
    generation = updater.activate(new, confirm=True)
    assert updater.status().waits_for_confirmation
    assert code_of(updater.commit, new) == "not_confirmed"
    updater.expire(generation + 1, 5)
    assert updater.status().current == new
    assert updater.commit(new, confirmed=True) == generation
    updater.expire(generation, 5)
    assert (updater.status().current, updater.status().previous) == (new, old)


def test_an_activation_that_nobody_confirms_is_taken_back(state):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    checked(updater, new)
    updater.expire(updater.activate(new, confirm=True), 5)
    assert updater.status().current == old
    assert updater.status().last == "rolled back: the application did not confirm within 5 s"


@pytest.mark.parametrize("committed", [True, False])
def test_a_bundle_marked_bad_gives_way_to_the_one_before(state, committed):
    folder, old, new = state
    updater = opened(folder)[1]
    updater.stage(new)
    checked(updater, new)
    updater.activate(new)
    if committed:
        updater.commit(new)
    assert updater.mark_bad(new, "wrong answers") == old
    updater = opened(folder)[1]
    assert (updater.status().current, updater.status().previous) == (old, None)
    assert code_of(updater.stage, new) == "bundle_bad"


def test_a_bad_bundle_with_nothing_before_it_stays_and_the_status_says_so(tmp_path):
    store, updater = opened(tmp_path)
    only = upload(store, "only")
    deploy(updater, only)
    assert updater.mark_bad(only, "wrong answers") == only
    assert opened(tmp_path)[1].status().bad == {only: "wrong answers"}


def test_a_bundle_that_the_disk_spoiled_gives_way_to_the_one_before_and_can_be_sent_again(state):
    folder, _, new = state
    store, updater = opened(folder)
    deploy(updater, new)
    model = folder / "bundles" / new / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(b"model.onnx of neW")
    assert "model.onnx" in updater.audit()
    assert active_model(folder) == "model.onnx of old"
    assert updater.status().previous is None
    assert not store.has(hashlib.sha256(b"model.onnx of new").hexdigest())
    upload(store, "new")
    deploy(updater, new)
    assert active_model(folder) == "model.onnx of new"
    assert updater.audit() is None


def test_an_agent_outlives_some_starts_before_it_is_rolled_back(tmp_path):
    folder = tmp_path / "agent"
    store = FileStore(tmp_path)
    document = {
        "format": 1,
        "kind": "agent",
        "name": "agent",
        "agent": {"version": "9"},
        "files": {"device_agent/x.py": {"sha256": put(store, b"pass"), "size": 4}},
    }
    bundle = put(store, json.dumps(document).encode())
    updater = Updater(folder, store, "agent", starts=2)
    updater.stage(bundle)
    checked(updater, bundle)
    updater.activate(bundle)
    assert code_of(Updater(tmp_path, store).stage, bundle) == "bad_manifest"
    for _ in range(2):
        assert Updater(folder, store, "agent", starts=2).status().current == bundle
    assert Updater(folder, store, "agent", starts=2, recover=False).status().current == bundle
    assert Updater(folder, store, "agent", starts=2).status().current is None
