"""What an attacker may send as a bundle, or do to one on its way and on the board's disk."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
from agent_process import QUICK
from attack_bundles import EVIL_NAMES, FORGERIES, NO_MANIFESTS, code_of, guarded, named, sha256_of, upload
from attack_peers import Raw
from daemon_process import Daemon, manifest_of, model_files, send_bundle, until, write_keys
from onnx import TensorProto, helper

from device_agent.errors import RequestError

MANIFEST = manifest_of(model_files())


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A board for the attacks that leave nothing behind."""
    with guarded(tmp_path_factory.mktemp("guarded")) as made:
        yield made


@pytest.fixture
def own(tmp_path):
    """A board for one attack."""
    with guarded(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def trusting(tmp_path_factory):
    """A board that wants no signatures, for the attacks that leave nothing behind."""
    daemon = Daemon(tmp_path_factory.mktemp("trusting")).start()
    yield daemon
    daemon.stop()


# --- signatures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_bundle_without_a_good_signature_of_a_trusted_key_is_not_staged(board, forgery):
    bundle = upload(board.daemon, MANIFEST, model_files())
    forged = {"signatures": forgery(board, MANIFEST), "allow_downgrade": True}
    refused = code_of(board.daemon.ask, "bundle.stage", manifest_sha256=bundle, **forged)
    assert refused in ("untrusted", "bad_request")
    assert code_of(board.daemon.ask, "bundle.check", bundle=bundle) == "not_staged"
    assert code_of(board.daemon.ask, "bundle.activate", bundle=bundle) == "not_checked"
    assert board.daemon.ask("status")["update"]["state"] == "idle"


@pytest.mark.parametrize(
    "signatures", ["text", [7], {"key": "x"}, [{"key": "x", "signature": "x" * 70_000}]], ids=type
)
def test_what_is_no_list_of_signatures_is_refused(board, signatures):
    bundle = upload(board.daemon, MANIFEST, model_files())
    refused = code_of(board.daemon.ask, "bundle.stage", manifest_sha256=bundle, signatures=signatures)
    assert refused == "bad_request"


@pytest.mark.parametrize("depth", [10, 900, 960, 980])
def test_what_somebody_hid_in_a_signature_is_not_kept(own, depth):
    bundle = upload(own.daemon, MANIFEST, model_files())
    entry = json.dumps({**own.ours.sign(MANIFEST), "x": 0}).replace(
        '"x": 0', '"x": ' + "[" * depth + "]" * depth
    )
    request = {"id": 1, "method": "bundle.stage", "params": {"manifest_sha256": bundle, "signatures": 0}}
    with Raw(own.daemon) as raw:
        raw.send_raw(json.dumps(request).replace('"signatures": 0', f'"signatures": [{entry}]').encode())
        assert raw.read()["result"]["signed_by"] == own.ours.id
    kept = json.loads((own.daemon.state / "bundles" / bundle / "signatures.json").read_text())
    assert kept == {"signatures": own.sign(MANIFEST)}


# --- the trusted keys -----------------------------------------------------------------------------------------


def a_folder(keys):
    keys.unlink()
    keys.mkdir()


SPOILED_KEYS = {
    "writable-by-others": lambda keys: keys.chmod(0o646),
    "writable-by-the-group": lambda keys: keys.chmod(0o664),
    "missing": lambda keys: keys.unlink(),
    "empty": lambda keys: keys.write_bytes(b""),
    "garbage": lambda keys: keys.write_bytes(os.urandom(500)),
    "cut": lambda keys: keys.write_bytes(keys.read_bytes()[:-9]),
    "a-list": lambda keys: keys.write_text("[]"),
    "deep": lambda keys: keys.write_text("[" * 100_000),
    "another-format": lambda keys: keys.write_text('{"format": 2, "keys": []}'),
    "an-id-of-other-bytes": lambda keys: keys.write_text(keys.read_text().replace('"id": "', '"id": "0')),
    "a-folder": a_folder,
}


@pytest.mark.parametrize("spoil", SPOILED_KEYS.values(), ids=SPOILED_KEYS)
def test_with_a_list_of_keys_that_cannot_be_trusted_nothing_is_staged(board, spoil):
    bundle = upload(board.daemon, MANIFEST, model_files())
    spoil(board.keys)
    try:
        signed = {"manifest_sha256": bundle, "signatures": board.sign(MANIFEST)}
        assert code_of(board.daemon.ask, "bundle.stage", **signed) == "no_trust"
    finally:
        with contextlib.suppress(OSError):
            board.keys.rmdir()
        board.trust()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_list_of_keys_that_belongs_to_another_user_is_not_trusted(board):
    os.chown(board.keys, 65534, 65534)
    try:
        assert code_of(board.stage, MANIFEST) == "no_trust"
    finally:
        os.chown(board.keys, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process another user")
def test_signatures_are_looked_at_where_the_user_of_hostile_models_cannot_reach(tmp_path):
    with guarded(tmp_path, "--worker-user", "nobody") as board:
        board.keys.chmod(0o600)
        board.stage(MANIFEST)


def test_a_key_that_is_revoked_after_staging_activates_nothing(own):
    bundle = own.check(MANIFEST)
    own.trust(own.ours)
    assert code_of(own.daemon.ask, "bundle.activate", bundle=bundle) == "untrusted"
    assert own.daemon.ask("active")["bundle"] is None


def test_a_program_whose_key_is_revoked_after_staging_is_not_even_tried(own, tmp_path):
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()".encode()
    files = {"device_agent/__init__.py": b"", "device_agent/__main__.py": code}
    bundle = own.stage(manifest_of(files, kind="agent", agent={"version": "9"}), files)
    assert not own.daemon.ask("bundle.check", bundle=bundle)["ok"]
    ran.unlink()
    own.trust(own.ours)
    assert code_of(own.daemon.ask, "bundle.check", bundle=bundle) == "untrusted"
    assert not ran.exists()


def test_what_was_staged_unsigned_before_the_board_got_its_keys_is_not_activated(own):
    with_keys = own.daemon.command
    own.daemon.stop()
    own.daemon.command = [part for part in with_keys if part not in ("--keys", str(own.keys))]
    bundle = send_bundle(own.daemon.start())
    own.daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert own.daemon.ask("bundle.check", bundle=bundle)["ok"]
    own.daemon.stop()
    own.daemon.command = with_keys
    own.daemon.start()
    assert code_of(own.daemon.ask, "bundle.activate", bundle=bundle) == "untrusted"


def test_what_a_revoked_key_signed_goes_on_until_another_replaces_it(own):
    bundle = own.deploy(MANIFEST)
    own.trust(own.ours)
    own.daemon.stop()
    own.daemon.start()
    assert own.daemon.ask("active")["bundle"] == bundle
    assert code_of(own.stage, manifest_of(model_files(), name="next")) == "untrusted"


def test_keys_are_rotated_without_a_restart(own):
    bundle = upload(own.daemon, MANIFEST, model_files())
    new = {"manifest_sha256": bundle, "signatures": [own.other.sign(MANIFEST)]}
    assert code_of(own.daemon.ask, "bundle.stage", **new) == "untrusted"
    write_keys(own.keys, own.ours, own.other)
    assert own.daemon.ask("bundle.stage", **new)["signed_by"] == own.other.id
    assert own.stage(MANIFEST) == bundle
    write_keys(own.keys, own.other)
    assert code_of(own.stage, MANIFEST) == "untrusted"
    assert own.daemon.ask("bundle.stage", **new)["signed_by"] == own.other.id


# --- tampering ------------------------------------------------------------------------------------------------


def test_a_manifest_changed_after_signing_is_not_trusted(board):
    bundle = upload(board.daemon, MANIFEST.replace(b'"chain"', b'"chaim"'), model_files())
    signed = {"manifest_sha256": bundle, "signatures": board.sign(MANIFEST)}
    assert code_of(board.daemon.ask, "bundle.stage", **signed) == "untrusted"


def test_a_file_changed_after_signing_is_missing(own):
    files = model_files()
    changed = {**files, "model.onnx": files["model.onnx"].replace(b"chain", b"chaim")}
    assert code_of(own.stage, MANIFEST, changed) == "missing_files"


def test_the_manifest_of_one_bundle_does_not_take_the_files_of_another(own):
    other = model_files(scale=1.5)
    assert code_of(own.stage, MANIFEST, other) == "missing_files"
    bundle = upload(own.daemon, manifest_of(other), other)
    signed = {"manifest_sha256": bundle, "signatures": own.sign(MANIFEST)}
    assert code_of(own.daemon.ask, "bundle.stage", **signed) == "untrusted"


def test_a_file_changed_on_the_wire_is_dropped(trusting):
    data = os.urandom(1000)
    file = {"sha256": sha256_of(data), "size": 1000}
    with Raw(trusting) as raw:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        assert raw.code("files.put", {**file, "offset": 0}, changed) == "bad_digest"
        missing = raw.ask("files.missing", {"files": [file]})["result"]["missing"]
    assert missing == [{"sha256": file["sha256"], "offset": 0}]


def spoil(path):
    """Change bytes that the model's answers do not hang on."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"chain", b"chaim"))


def test_a_file_changed_on_the_disk_before_staging_is_refused_and_wanted_again(own):
    upload(own.daemon, MANIFEST, model_files())
    model = {"sha256": sha256_of(model_files()["model.onnx"]), "size": len(model_files()["model.onnx"])}
    spoil(own.daemon.state / "blobs" / model["sha256"])
    assert code_of(own.stage, MANIFEST, {}) == "bad_digest"
    wanted = own.daemon.ask("files.missing", files=[model])["missing"]
    assert wanted == [{"sha256": model["sha256"], "offset": 0}]
    own.stage(MANIFEST)


@pytest.mark.parametrize("checked", [False, True])
def test_a_file_changed_on_the_disk_after_staging_is_not_activated_and_wanted_again(own, checked):
    bundle = own.check(MANIFEST) if checked else own.stage(MANIFEST)
    spoil(own.daemon.state / "bundles" / bundle / "model.onnx")
    if not checked:
        own.daemon.ask("bundle.check", bundle=bundle)
    assert code_of(own.daemon.ask, "bundle.activate", bundle=bundle) == "bad_digest"
    assert own.daemon.ask("active")["bundle"] is None
    own.deploy(MANIFEST)


def test_a_file_changed_on_the_disk_after_activation_is_left_at_the_next_start(own):
    old = own.deploy(manifest_of(model_files(), sequence=1))
    other = model_files(scale=1.0001)
    new = own.deploy(manifest_of(other, sequence=2), files=other)
    path = own.daemon.state / "bundles" / new / "golden_output.npy"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    own.daemon.stop()
    own.daemon.start()
    until(lambda: own.daemon.ask("active")["bundle"] == old, "it goes back")


# --- replays --------------------------------------------------------------------------------------------------


def test_an_older_bundle_is_refused_unless_the_downgrade_is_asked_for(own):
    old, now = (manifest_of(model_files(), sequence=number) for number in (4, 5))
    twin = manifest_of(model_files(), sequence=5, name="twin")
    current = own.deploy(now)
    own.daemon.stop()
    own.daemon.start()
    for replayed in (old, twin, MANIFEST):
        assert code_of(own.stage, replayed) == "older_refused"
    assert own.stage(now) == current
    for truthy in (1, "yes", [True]):
        assert code_of(own.stage, old, allow_downgrade=truthy) == "older_refused"
    own.deploy(old, allow_downgrade=True)
    assert code_of(own.stage, twin) == "older_refused"
    assert own.daemon.ask("status")["update"]["sequence"] == 5


# --- what is no bundle ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "agent"])
@pytest.mark.parametrize("name", EVIL_NAMES.values(), ids=EVIL_NAMES)
def test_a_file_name_that_could_lead_elsewhere_is_refused(trusting, name, kind):
    files, manifest = named(name, kind)
    bundle = upload(trusting, manifest, files)
    assert code_of(trusting.ask, "bundle.stage", manifest_sha256=bundle) == "bad_manifest"
    for folder in (trusting.state, trusting.state / "agent"):
        assert list((folder / "bundles").iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx.", "model..onnx", "MANIFEST.JSON", "manifest.json.new"])
def test_a_strange_but_plain_name_lands_in_the_bundle_and_nowhere_else(trusting, name):
    files, manifest = named(name)
    bundle = upload(trusting, manifest, files)
    trusting.ask("bundle.stage", manifest_sha256=bundle)
    folder = trusting.state / "bundles" / bundle
    assert {path.name for path in folder.iterdir()} == {*files, name, "manifest.json"}
    assert (folder / "manifest.json").read_bytes() == manifest
    trusting.ask("bundle.rollback")


@pytest.mark.parametrize("manifest", NO_MANIFESTS.values(), ids=NO_MANIFESTS)
def test_a_manifest_that_readers_would_not_agree_on_is_refused(trusting, manifest):
    bundle = upload(trusting, manifest, model_files())
    assert code_of(trusting.ask, "bundle.stage", manifest_sha256=bundle) == "bad_manifest"


def test_a_file_of_another_size_than_its_manifest_says_is_refused(trusting):
    document = json.loads(MANIFEST)
    document["files"]["model.onnx"]["size"] -= 1
    bundle = upload(trusting, json.dumps(document).encode(), model_files())
    assert code_of(trusting.ask, "bundle.stage", manifest_sha256=bundle) == "bad_manifest"


def test_a_golden_array_that_would_run_code_is_no_array(trusting, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    files = {**model_files(), "golden_input.npy": stream.getvalue()}
    bundle = upload(trusting, manifest_of(files), files)
    trusting.ask("bundle.stage", manifest_sha256=bundle)
    assert code_of(trusting.ask, "bundle.check", bundle=bundle) == "bad_manifest"
    assert not (tmp_path / "evil").exists()
    trusting.ask("bundle.rollback")


# --- words ----------------------------------------------------------------------------------------------------

ESCAPE = "\x1b]0;evil\x07\x1b[2J"


def test_words_of_a_model_do_not_steer_a_terminal(trusting):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node(f"Evil{ESCAPE}", ["x"], ["y"])], "g", [value], [value])
    opsets = [helper.make_opsetid("", 17)]
    evil = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    model = trusting.put(evil, "measure")
    with pytest.raises(RequestError) as caught:
        trusting.ask("measure", file=model, runtime="onnxruntime", threads=1, protocol=QUICK)
    assert "Evil" in caught.value.message
    assert caught.value.message.isprintable()


def test_words_of_an_application_do_not_steer_a_terminal(own):
    bundle = own.deploy(MANIFEST)
    own.daemon.ask("bundle.mark_bad", bundle=bundle, why=f"evil{ESCAPE}\ud800")
    (why,) = own.daemon.ask("status")["update"]["bad"].values()
    assert why.startswith("evil")
    assert why.isprintable()
