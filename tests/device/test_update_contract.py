"""How a device comes from one model to the next, whatever is behind it: as in test_device_contract.py."""

from __future__ import annotations

import pytest
from contract_models import code_of, digest_of

from pipeline.signing import new_key


def test_a_bundle_goes_its_way_and_the_state_says_where_it_stands(bench, device, factory) -> None:
    bundle, other, before = factory.bundle(), factory.bundle(), bench.update
    bench.staged(bundle)
    assert bench.update.state == "staged"
    assert code_of(lambda: device.activate(bundle.digest)) == "not_checked"
    assert code_of(lambda: device.commit(bundle.digest)) == "not_activated"
    report = device.check(bundle.digest)
    assert (report.ok, report.why) == (True, "")
    assert report.max_abs_error < 1e-3
    assert report.tolerance == {"rtol": 1e-3, "atol": 1e-3}
    assert report.latency_p50_ms > 0
    assert (bench.update.state, bench.update.current) == ("checked", before.current)
    assert code_of(lambda: device.activate(other.digest)) == "not_checked"
    generation = device.activate(bundle.digest)
    assert generation > (before.generation or 0)
    update = bench.update
    assert (update.state, update.generation) == ("activated", generation)
    assert (update.current, update.previous) == (bundle.digest, before.current)
    assert update.sequence == bundle.manifest.sequence
    device.push(other.files)
    assert code_of(lambda: device.stage(other.digest)) == "bad_request"
    assert code_of(lambda: device.check(bundle.digest)) == "not_staged"
    assert code_of(lambda: device.commit(other.digest)) == "not_activated"
    assert device.commit(bundle.digest) == device.commit(bundle.digest) == generation
    assert device.confirm(bundle.digest) == generation
    assert (bench.update.state, bench.update.current) == ("committed", bundle.digest)
    assert device.rollback() == bundle.digest


def test_what_cannot_be_staged_has_a_code_and_leaves_the_state_as_it_is(bench, device, factory) -> None:
    bundle, nothing = factory.bundle(), factory.file(b"{}")
    before = bench.update
    assert code_of(lambda: device.stage("no digest")) == "bad_request"
    assert code_of(lambda: device.stage(bundle.digest)) == "unknown_file"
    device.push([nothing, bundle.folder / "manifest.json"])
    assert code_of(lambda: device.stage(digest_of(nothing))) == "bad_manifest"
    assert code_of(lambda: device.stage(bundle.digest)) == "missing_files"
    device.push(bundle.files)
    assert code_of(lambda: device.stage(bundle.digest, signatures="none")) == "bad_request"
    assert bench.update == before


def test_a_file_of_another_size_than_its_manifest_says_is_refused(bench, device, factory) -> None:
    bundle = factory.bundle()
    size = next(iter(bundle.manifest.files.values())).size
    data = (bundle.folder / "manifest.json").read_bytes().replace(f'"size": {size}'.encode(), b'"size": 7')
    wrong = factory.file(data)
    device.push([*bundle.files, wrong])
    assert code_of(lambda: device.stage(digest_of(wrong))) == "bad_manifest"
    assert bench.update.state == "idle"


def test_only_the_staged_bundle_is_checked(bench, device, factory) -> None:
    bundle, other = factory.bundle(), factory.bundle()
    assert code_of(lambda: device.check(bundle.digest)) == "not_staged"
    bench.staged(bundle)
    bench.staged(other)
    assert code_of(lambda: device.check(bundle.digest)) == "not_staged"
    current = bench.update.current
    assert (device.rollback(), bench.update.state) == (current, "idle")
    assert code_of(lambda: device.check(other.digest)) == "not_staged"


def test_a_wrong_answer_is_reported_and_not_activated(bench, device, factory) -> None:
    bundle = bench.staged(factory.bundle(off_by=1.0))
    report = device.check(bundle.digest)
    assert not report.ok
    assert "differs" in report.why
    assert report.max_abs_error == pytest.approx(1.0, abs=1e-3)
    assert code_of(lambda: device.activate(bundle.digest)) == "not_checked"
    assert bench.update.state == "staged"


@pytest.mark.parametrize(
    ("wanted", "impossible", "code"),
    [
        ('"onnxruntime"', '"none such"', "runtime_missing"),
        ('"threads": 1', '"threads": 1000', "bad_request"),
    ],
)
def test_a_check_that_cannot_be_made_leaves_the_bundle_staged(
    bench, device, factory, wanted: str, impossible: str, code: str
) -> None:
    bundle = factory.bundle()
    text = bundle.manifest.to_bytes().decode()
    manifest = factory.file(text.replace(wanted, impossible).encode())
    device.push([*bundle.files, manifest])
    device.stage(digest_of(manifest))
    assert code_of(lambda: device.check(digest_of(manifest))) == code
    assert bench.update.state == "staged"


def test_an_older_bundle_is_refused_unless_it_is_asked_for(bench, device, factory) -> None:
    if bench.update.sequence == 0:
        bench.committed(factory.bundle())
    seen = bench.update.sequence
    for number in (seen - 1, seen):
        older = factory.bundle(sequence=number)
        assert code_of(lambda older=older: bench.staged(older)) == "older_refused"
        bench.staged(older, allow_downgrade=True)
    assert bench.update.sequence == seen


def test_the_previous_bundle_returns_on_request_and_gives_way_again(bench, device, factory) -> None:
    while bench.update.previous is None:
        bench.committed(factory.bundle())
    before = bench.update
    assert device.rollback(to_previous=True) == before.previous
    assert (bench.update.current, bench.update.previous) == (before.previous, before.current)
    assert bench.update.generation > before.generation
    assert device.rollback(to_previous=True) == before.current
    assert bench.update.state == "committed"


def test_without_a_previous_bundle_there_is_none_to_go_back_to(set_up) -> None:
    device = set_up().device
    assert device.rollback() is None
    assert code_of(lambda: device.rollback(to_previous=True)) == "no_previous"


def test_an_activation_is_undone_on_request(bench, device, factory) -> None:
    before, bundle = bench.update, bench.activated(factory.bundle())
    assert device.rollback(to_previous=True) == before.current
    update = bench.update
    assert (update.state, update.generation) == ("idle", before.generation)
    assert (update.current, update.previous) == (before.current, before.previous)
    assert update.last.startswith("rolled back by")
    assert update.sequence == bundle.manifest.sequence
    assert code_of(lambda: device.commit(bundle.digest)) == "not_activated"


def test_a_restart_keeps_what_was_committed_and_checked_and_undoes_an_activation(
    bench, device, factory
) -> None:
    if bench.update.current is None:
        bench.committed(factory.bundle())
    checked = bench.checked(factory.bundle())
    before = bench.update
    bench.restart()
    assert bench.update == before
    assert bench.device.activate(checked.digest) > before.generation
    bench.restart()
    update = bench.update
    assert (update.state, update.generation) == ("idle", before.generation)
    assert (update.current, update.previous) == (before.current, before.previous)
    assert "the agent ended before the activation was committed" in update.last


def test_the_application_has_the_last_word_where_it_was_asked(bench, device, factory) -> None:
    before = bench.update
    bundle = bench.activated(factory.bundle(), confirm_within_s=60.0)
    assert bench.update.waits_for_confirmation
    assert code_of(lambda: device.commit(bundle.digest)) == "not_confirmed"
    assert device.confirm(bundle.digest) > (before.generation or 0)
    update = bench.update
    assert (update.state, update.current, update.waits_for_confirmation) == (
        "committed",
        bundle.digest,
        False,
    )


def test_an_application_that_never_confirms_gets_the_old_model_back(bench, device, factory) -> None:
    before, bundle = bench.update, bench.checked(factory.bundle())
    for wrong in (0.0, -1.0, 1e9, "soon"):
        assert (
            code_of(lambda wrong=wrong: device.activate(bundle.digest, confirm_within_s=wrong))
            == "bad_request"
        )
    device.activate(bundle.digest, confirm_within_s=0.5)
    bench.until(lambda: bench.update.state == "idle", "the return of the old model")
    assert bench.update.current == before.current
    assert "did not confirm within 0.5 s" in bench.update.last
    assert code_of(lambda: device.confirm(bundle.digest)) == "not_activated"


def test_a_bundle_marked_bad_gives_way_and_never_comes_again(bench, device, factory) -> None:
    if bench.update.current is None:
        bench.committed(factory.bundle())
    good = bench.update.current
    bad = bench.committed(factory.bundle())
    assert code_of(lambda: device.mark_bad(bad.digest, "")) == "bad_request"
    assert code_of(lambda: device.mark_bad("no digest", "it is slow")) == "bad_request"
    assert device.mark_bad(bad.digest, "it is slow") == good
    update = bench.update
    assert (update.state, update.current, update.previous) == ("committed", good, None)
    assert update.bad[bad.digest].startswith("it is slow")
    assert "it is slow" in update.last
    assert code_of(lambda: bench.staged(bad)) == "bundle_bad"
    assert device.mark_bad(good, "there is nothing better") == good


def test_a_bundle_that_kills_its_checker_three_times_is_bad(bench, device, factory) -> None:
    bundle = bench.staged(factory.bundle())
    for left in (2, 1, 0):
        with bench.agent.dying_workers():
            assert code_of(lambda: device.check(bundle.digest)) == "worker_died"
        assert bench.update.state == ("staged" if left else "idle")
    assert "3 times" in bench.update.bad[bundle.digest]
    assert code_of(lambda: device.check(bundle.digest)) == "not_staged"
    assert code_of(lambda: device.stage(bundle.digest)) == "bundle_bad"


# --- trust --------------------------------------------------------------------------------------------------------


def test_a_board_with_keys_stages_only_what_one_of_them_signed(set_up, factory, tmp_path) -> None:
    own, strange = new_key(tmp_path / "own.pem"), new_key(tmp_path / "strange.pem")
    device = set_up(keys=[own.public]).device
    assert device.status().trust.startswith("keys in ")
    bundle, other = factory.bundle(), factory.bundle()
    device.push([*bundle.files, *other.files])
    data = bundle.manifest.to_bytes()
    pretended = {**strange.sign(data), "key": own.public.id}
    for wrong in ([], [strange.sign(data)], [own.sign(other.manifest.to_bytes())], [pretended]):
        assert code_of(lambda wrong=wrong: device.stage(bundle.digest, wrong)) == "untrusted"
    for no_list_of_such in ([{"key": 1}], [own.sign(data)] * 17):
        assert code_of(lambda wrong=no_list_of_such: device.stage(bundle.digest, wrong)) == "bad_request"
    device.stage(bundle.digest, [strange.sign(data), own.sign(data)])
    assert device.status().update.state == "staged"
