"""A bundle's way onto one device and back, also when the link or the power fails on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from device import SimulatedBoard, SimulatedDevice
from small_bundles import bundle_files

from pipeline.delivery import TRIES, activate, deliver, roll_back
from pipeline.device.client import DeviceClient
from pipeline.errors import AgentError, DeviceError, LinkLostError, TransportError


class Sender:
    """A host that sends small bundles to one board; after a lost link it connects anew, as the client does."""

    def __init__(self, board: SimulatedBoard, folder: Path) -> None:
        self.board = board
        self._folder = folder

    @property
    def device(self) -> DeviceClient:
        return SimulatedDevice(self.board)

    def bundle(self, name: str, sequence: int = 0) -> SimpleNamespace:
        files = bundle_files(name, sequence)
        paths = tuple(self._folder / digest for digest in files)
        for path in paths:
            path.write_bytes(files[path.name])
        return SimpleNamespace(digest=paths[-1].name, files=paths)

    def active(self, name: str, sequence: int = 0) -> str:
        bundle = self.bundle(name, sequence)
        deliver(self.device, bundle)
        return activate(self.device, bundle.digest).digest

    def activate(self, digest: str, **how: object):
        return activate(self.device, digest, pause=self.board.clock.advance, **how)


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(SimulatedBoard(), tmp_path)


def test_a_delivered_bundle_is_checked_and_not_active(sender: Sender) -> None:
    told: list[str] = []
    bundle = sender.bundle("one")
    delivered = deliver(sender.device, bundle, tell=told.append)
    assert delivered.check is not None
    assert delivered.check.ok
    assert delivered.sent_bytes == sum(path.stat().st_size for path in bundle.files)
    assert told == ["sending", "staging", "checking"]
    update = sender.device.status().update
    assert (update.staged, update.state, update.current) == (bundle.digest, "checked", None)


def test_what_is_there_is_not_sent_again(sender: Sender) -> None:
    bundle = sender.bundle("one")
    deliver(sender.device, bundle)
    again = deliver(sender.device, bundle)
    assert (again.sent_bytes, again.skipped_files) == (0, 4)


def test_the_active_bundle_is_not_delivered_again(sender: Sender) -> None:
    digest = sender.active("one")
    again = deliver(sender.device, sender.bundle("one"))
    assert (again.check, again.digest) == (None, digest)
    assert sender.device.status().update.staged is None


def test_a_wrong_answer_keeps_what_was_active(sender: Sender) -> None:
    before = sender.active("one")
    sender.board.faults.wrong_answer(0.5)
    with pytest.raises(DeviceError, match="refused the staged model"):
        deliver(sender.device, sender.bundle("two"))
    assert sender.device.status().update.current == before


def test_an_older_bundle_comes_only_when_it_is_asked_for(sender: Sender) -> None:
    sender.active("one", sequence=5)
    older = sender.bundle("two", sequence=4)
    with pytest.raises(AgentError) as caught:
        deliver(sender.device, older)
    assert caught.value.code == "older_refused"
    assert deliver(sender.device, older, allow_downgrade=True).check is not None


def test_activating_commits_and_asks_again(sender: Sender) -> None:
    first = sender.active("one")
    bundle = sender.bundle("two")
    deliver(sender.device, bundle)
    done = sender.activate(bundle.digest)
    assert (done.digest, done.previous, done.already) == (bundle.digest, first, False)
    update = sender.device.status().update
    assert (update.current, update.state, update.generation) == (bundle.digest, "committed", done.generation)


def test_activating_twice_changes_nothing(sender: Sender) -> None:
    digest = sender.active("one")
    generation = sender.device.status().update.generation
    again = sender.activate(digest)
    assert (again.already, again.generation) == (True, generation)


def test_what_was_staged_and_not_checked_is_checked_first(sender: Sender) -> None:
    bundle = sender.bundle("one")
    sender.device.push(bundle.files)
    sender.device.stage(bundle.digest)
    sender.board.faults.wrong_answer(0.5)
    with pytest.raises(DeviceError, match="refused"):
        sender.activate(bundle.digest)
    assert sender.activate(bundle.digest).digest == bundle.digest


def test_what_is_not_there_is_not_activated(sender: Sender) -> None:
    with pytest.raises(AgentError) as caught:
        sender.activate("a" * 64)
    assert caught.value.code == "not_checked"


@pytest.mark.parametrize("method", ["bundle.activate", "bundle.commit"])
def test_what_was_begun_and_cut_off_is_ended_by_another_call(sender: Sender, method: str) -> None:
    """The link breaks after the request was served: it is done, though nobody heard the answer."""
    bundle = sender.bundle("one")
    deliver(sender.device, bundle)
    sender.board.faults.break_link(method=method, served=True)
    with pytest.raises(TransportError):
        sender.activate(bundle.digest)
    assert sender.activate(bundle.digest).digest == bundle.digest
    assert sender.device.status().update.state == "committed"


def test_a_power_cut_before_the_commit_leaves_the_model_before(sender: Sender) -> None:
    before = sender.active("one")
    bundle = sender.bundle("two")
    deliver(sender.device, bundle)
    sender.board.faults.cut_power(method="bundle.commit")
    with pytest.raises(TransportError):
        sender.activate(bundle.digest)
    assert sender.device.status().update.current == before


def test_an_activation_under_way_is_not_overtaken(sender: Sender) -> None:
    bundle = sender.bundle("one")
    deliver(sender.device, bundle)
    sender.device.activate(bundle.digest)
    with pytest.raises(DeviceError, match="neither committed nor taken back"):
        deliver(sender.device, sender.bundle("two"))


def test_the_application_confirms(tmp_path: Path) -> None:
    sender = Sender(SimulatedBoard(application_confirms_after_s=5.0), tmp_path)
    bundle = sender.bundle("one")
    deliver(sender.device, bundle)
    told: list[str] = []
    assert sender.activate(bundle.digest, confirm_within_s=30.0, tell=told.append).digest == bundle.digest
    assert "waiting for the application" in told
    assert 5.0 <= sender.board.clock.now_s < 30.0
    assert sender.device.status().update.state == "committed"


def test_an_application_that_says_nothing_gets_the_model_before(sender: Sender) -> None:
    before = sender.active("one")
    bundle = sender.bundle("two")
    deliver(sender.device, bundle)
    with pytest.raises(DeviceError, match=r"went back to .*did not confirm within 20 s"):
        sender.activate(bundle.digest, confirm_within_s=20.0)
    assert sender.device.status().update.current == before


def test_a_device_that_is_on_its_way_back_has_not_confirmed(sender: Sender) -> None:
    """For a moment it waits no more, and still has the new model."""
    bundle = sender.bundle("one")
    deliver(sender.device, bundle)
    device = sender.device
    serve = device.status
    states = iter(["activated", "rolling back"])

    def status() -> object:
        known = serve()
        if known.update.current is None or (state := next(states, None)) is None:
            return known
        if state == "rolling back":
            sender.device.rollback()
        return replace(known, update=replace(known.update, state=state, waits_for_confirmation=False))

    device.activate(bundle.digest, confirm_within_s=60.0)
    device.status = status  # type: ignore[method-assign, assignment]
    with pytest.raises(DeviceError, match="went back to no model"):
        activate(device, bundle.digest, confirm_within_s=60.0, pause=sender.board.clock.advance)


def test_going_back_to_the_model_before(sender: Sender) -> None:
    first, second = sender.active("one"), sender.active("two")
    back = roll_back(sender.device)
    assert (back.was, back.now) == (second, first)
    update = sender.device.status().update
    assert (update.current, update.previous, update.state) == (first, second, "committed")


def test_going_back_lets_go_of_what_is_staged(sender: Sender) -> None:
    """A bundle that was pushed meanwhile must not make a roll-back do nothing."""
    first, _ = sender.active("one"), sender.active("two")
    staged = sender.bundle("three")
    deliver(sender.device, staged)
    back = roll_back(sender.device)
    assert (back.now, back.let_go) == (first, staged.digest)
    assert sender.device.status().update.staged is None


def test_going_back_undoes_what_was_not_committed_and_no_more(sender: Sender) -> None:
    sender.active("one")
    second = sender.active("two")
    bundle = sender.bundle("three")
    deliver(sender.device, bundle)
    sender.device.activate(bundle.digest)
    back = roll_back(sender.device)
    assert (back.was, back.now) == (bundle.digest, second)


def test_pending_only_leaves_a_committed_model(sender: Sender) -> None:
    sender.active("one")
    second, staged = sender.active("two"), sender.bundle("three")
    deliver(sender.device, staged)
    back = roll_back(sender.device, pending_only=True)
    assert (back.was, back.now, back.let_go) == (second, second, staged.digest)


def test_where_there_is_no_model_before_nothing_is_touched(sender: Sender) -> None:
    first, staged = sender.active("one"), sender.bundle("two")
    deliver(sender.device, staged)
    with pytest.raises(DeviceError, match="no model before"):
        roll_back(sender.device)
    update = sender.device.status().update
    assert (update.current, update.staged) == (first, staged.digest)


def test_a_model_that_was_marked_bad_is_not_gone_back_to(sender: Sender) -> None:
    first, second = sender.active("one"), sender.active("two")
    sender.device.mark_bad(first, "crashes the application")
    with pytest.raises(DeviceError, match="crashes the application"):
        roll_back(sender.device)
    assert sender.device.status().update.current == second


@pytest.mark.parametrize("method", ["stage", "check", "activate", "commit"])
def test_a_link_that_comes_back_is_gone_on_with(sender: Sender, method: str) -> None:
    """As over SSH: the request was served, its answer was lost, and the client connects again."""
    device = sender.device
    serve = getattr(device, method)

    def lose_the_answer(*arguments: object, **how: object) -> object:
        setattr(device, method, serve)
        serve(*arguments, **how)
        raise LinkLostError("the link broke")

    setattr(device, method, lose_the_answer)
    bundle = sender.bundle("one")
    assert deliver(device, bundle).check is not None
    assert activate(device, bundle.digest).digest == bundle.digest
    assert device.status().update.generation == 1


@pytest.mark.parametrize("committed", [True, False])
def test_going_back_over_a_link_that_breaks_goes_back_once(sender: Sender, committed: bool) -> None:
    first = sender.active("one")
    bundle = sender.bundle("two")
    deliver(sender.device, bundle)
    device = sender.device
    device.activate(bundle.digest)
    if committed:
        device.commit(bundle.digest)
    serve = device.rollback

    def lose_the_answer(**how: bool) -> None:
        device.rollback = serve  # type: ignore[method-assign]
        serve(**how)
        raise LinkLostError("the link broke")

    device.rollback = lose_the_answer  # type: ignore[method-assign, assignment]
    assert roll_back(device).now == first
    assert device.status().update.current == first


def test_a_link_that_stays_away_is_told_with_the_way_out(sender: Sender) -> None:
    device, bundle = sender.device, sender.bundle("one")
    deliver(device, bundle)
    tries: list[str] = []

    def lost(digest: str) -> int:
        tries.append(digest)
        raise LinkLostError("the link broke")

    device.commit = lost  # type: ignore[method-assign]
    with pytest.raises(LinkLostError) as caught:
        activate(device, bundle.digest)
    assert len(tries) == TRIES
    assert "pipeline rollback" in caught.value.hint
