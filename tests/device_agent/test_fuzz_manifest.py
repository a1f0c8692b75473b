"""Manifests of which any part was replaced, left out, doubled or damaged."""

import copy
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent import wire
from device_agent.errors import RequestError
from device_agent.updates import manifest

DIGEST = "0" * 64
MODEL = {
    "format": 1,
    "kind": "model",
    "name": "chain",
    "sequence": 3,
    "model": {
        "file": "model.onnx",
        "runtime": "onnxruntime",
        "threads": 1,
        "expected_p50_ms": 1.5,
        "margin": 0.5,
    },
    "files": {name: {"sha256": DIGEST, "size": 3} for name in ("model.onnx", "in.npy", "out.npy")},
    "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 1e-3, "atol": 1e-3}},
    "io": {"labels": ["a", "b"]},
}
AGENT = {
    "format": 1,
    "kind": "agent",
    "name": "agent",
    "agent": {"version": "1.2"},
    "files": {name: {"sha256": DIGEST, "size": 3} for name in ("a/b/c.py", "a/d.py", "e.py")},
}

names = st.text(st.sampled_from("ab./\\-_\0 .ü"), max_size=12) | st.sampled_from(
    ["manifest.json", "signatures.json", "..", ".", "a/../../b", "/etc/passwd", "a/b", "in.npy", "x" * 101]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**63 - 1, 2**63, 2**64, 10**400])
    | st.floats()
    | st.sampled_from([float("nan"), float("inf")])
    | st.text(max_size=5)
    | names
    | st.just(DIGEST)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "remove", "add"]), st.lists(st.integers(0, 9), max_size=4), names, values
    ),
    max_size=3,
)


def changed(document, change):
    """Walk down a document by the given turns and change what is there."""
    kind, turns, name, value = change
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = keys[(turns[0] if turns else 0) % len(keys)]
        if len(turns) > 1 and isinstance(place[key], (dict, list)):
            place, turns = place[key], turns[1:]
            continue
        break
    if kind == "remove":
        del place[key]
    elif kind == "add" and isinstance(place, dict):
        place[name] = value
    else:
        place[key] = value


def parsed(data):
    """Return the manifest, or `None` if it is refused as such."""
    try:
        return manifest.parse(data)
    except RequestError as error:
        refused = error
    assert refused.code == "bad_manifest"
    assert len(refused.message) < 2000
    return None


def require_harmless(data, found):
    """Everything that the agent will do with a manifest is possible and stays in the bundle's folder."""
    folder = Path("/state/bundles/x")
    assert 0 <= found.sequence < 2**63
    assert (found.model is None) == (found.kind == "agent")
    for name, file in found.files.items():
        place = folder / name
        assert place.is_relative_to(folder)
        assert ".." not in place.parts
        assert name not in (manifest.FILE, manifest.SIGNATURES)
        assert not any(name.startswith(f"{other}/") for other in found.files)
        assert file.sha256 == DIGEST
        assert 0 <= file.size <= manifest.MAX_FILE_BYTES
    if found.model is not None:
        assert {found.model.file, *found.model.golden_inputs, *found.model.golden_outputs} <= set(found.files)
        assert found.model.golden_outputs
        assert 0 <= found.model.rtol < 1e9
    wire.encode_frame({"result": json.loads(data)})


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([MODEL, AGENT]), changes)
def test_a_manifest_with_any_part_changed_is_refused_as_such_or_harmless(base, how):
    document = copy.deepcopy(base)
    for change in how:
        changed(document, change)
    data = json.dumps(document).encode()
    found = parsed(data)
    if found is not None:
        require_harmless(data, found)
    assert how or found is not None


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([MODEL, AGENT]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3)), max_size=4),
)
def test_a_manifest_with_any_bytes_changed_is_refused_as_such_or_harmless(base, how):
    data = json.dumps(base).encode()
    for place, new, length in how:
        at = place % len(data)
        data = data[:at] + new + data[at + length :]
    found = parsed(data)
    if found is not None and all(file.sha256 == DIGEST for file in found.files.values()):
        require_harmless(data, found)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_as_a_manifest(data):
    assert parsed(data) is None


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, st.just({"sha256": DIGEST, "size": 1}), min_size=1, max_size=6))
def test_files_of_any_names_are_refused_or_stay_in_the_bundle(files):
    data = json.dumps({**AGENT, "files": files}).encode()
    found = parsed(data)
    if found is not None:
        require_harmless(data, found)
