"""The latency table as a run makes it: rounds that are recorded, cached, resumed and replayed, on a made-up device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_graphs import resnet20
from stair_devices import noisy, stairs

from pipeline import survey
from pipeline.device.values import Board, BoardStatus, InstalledRuntime, UpdateState
from pipeline.errors import DeviceError, RunError
from pipeline.measurement import Conditions, LayerTiming
from pipeline.profile import load_profile, parse_budget
from pipeline.replay import Replay
from pipeline.search import LatencyTable, LayerShape, table_shapes
from pipeline.store import Store
from pipeline.watch import Silent
from pipeline.workshop import Workshop

GRAPH = resnet20()


class Hears(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Stairway:
    """A device with stairs of eight; it knows the layers by the files that `built` wrote."""

    def __init__(self) -> None:
        self.clock = noisy(stairs(8, 4), 0.002)
        self.version, self.governor, self.model = "1.31.1", "performance", "a board"
        self.batches: list[int] = []
        self.dies_in_batch = 0

    def status(self) -> BoardStatus:
        return BoardStatus(
            agent_version="0.1",
            protocol=1,
            board=Board(self.model, None, "aarch64", 4, 10**9, None, "3.11", None),
            runtimes=(InstalledRuntime("onnxruntime", "onnxruntime", self.version),),
            sensors=(),
            conditions=Conditions(self.governor, 1500.0, None, None, None),
            disk_free_bytes=10**9,
            update=UpdateState("idle", None, None, None, False),
        )

    def measure_layers(self, paths: Sequence[Path], **_: object) -> tuple[LayerTiming, ...]:
        self.batches.append(len(paths))
        if len(self.batches) == self.dies_in_batch:
            raise DeviceError("the board is gone")
        return tuple(
            LayerTiming(survey.sha256(path), self.clock(SHAPES[path.read_text()]), 50) for path in paths
        )


SHAPES: dict[str, LayerShape] = {}


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(shape: LayerShape, runtime: str, path: Path) -> None:
        SHAPES[shape.key] = shape
        path.write_text(shape.key)

    monkeypatch.setattr(survey, "build_layer_model", build)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def device() -> Stairway:
    return Stairway()


def shop(
    store: Store, device: Stairway, run: str | None = None, replay: str | None = None, **change
) -> Workshop:
    opened = store.open(run) if run else store.create({})
    profile = replace(load_profile("local"), **change)
    return Workshop(opened, None, profile, device, Hears(), Replay(store, replay) if replay else None)


def made(at: Workshop) -> tuple[dict, LatencyTable]:
    _, widths, table = survey.make_table(at, GRAPH)
    at.run.close()
    return widths, table


def test_the_table_holds_every_pair_of_the_chosen_widths_and_nothing_else(store, device) -> None:
    widths, table = made(shop(store, device))
    assert {entry.shape for entry in table.entries} == set(table_shapes(GRAPH, widths))
    assert {8, 16, 32, 64} <= set(widths["inner3.0"]) <= set(range(8, 65, 4))


def test_it_takes_few_batches_and_says_how_many_layers_were_timed(store, device) -> None:
    at = shop(store, device)
    made(at)
    assert len(at.watch.said) == 1
    timed = int(at.watch.said[0].split()[0])
    assert timed < sum(device.batches) < timed + 15 * len(device.batches)
    assert len(device.batches) <= 6


def test_a_second_deploy_times_nothing_and_comes_to_the_same(store, device) -> None:
    first = made(shop(store, device))
    device.batches.clear()
    at = shop(store, device)
    assert made(at) == first
    assert device.batches == []
    assert at.watch.said[0].startswith("0 layers timed on the device, ")


@pytest.mark.parametrize(
    "change",
    [{"version": "1.20.0"}, {"governor": "powersave"}, {"model": "another"}],
    ids=lambda each: next(iter(each)),
)
def test_another_runtime_governor_or_board_is_timed_anew(store, device, change) -> None:
    made(shop(store, device))
    device.batches.clear()
    vars(device).update(change)
    made(shop(store, device))
    assert device.batches


def test_so_are_other_threads(store, device) -> None:
    made(shop(store, device))
    device.batches.clear()
    made(shop(store, device, threads=2))
    assert device.batches


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_run_that_broke_off_goes_on_with_what_it_has_timed(store, device, batch: int) -> None:
    device.dies_in_batch = batch
    broken = shop(store, device)
    with pytest.raises(DeviceError):
        survey.make_table(broken, GRAPH)
    broken.run.close()
    done = sum(device.batches[:-1])
    device.batches, device.dies_in_batch = [], 0
    resumed = made(shop(store, device, run=broken.run.id))
    assert made(shop(store, device)) == resumed
    others = Stairway()
    made(shop(Store(store.folder / "elsewhere"), others))
    assert sum(device.batches) < sum(others.batches) - done + 20


def test_a_finished_run_does_not_ask_again_even_without_cache_or_device(store, device) -> None:
    at = shop(store, device)
    first = made(at)
    for file in (store.folder / "tables").iterdir():
        file.unlink()
    again = shop(store, None, run=at.run.id)
    assert made(again) == first
    assert again.watch.said == []


def test_a_run_that_timed_other_layers_is_not_gone_on_with(store, device, monkeypatch) -> None:
    at = shop(store, device)
    made(at)
    asked = survey.Staircase.ask
    monkeypatch.setattr(survey.Staircase, "ask", lambda search: asked(search)[::-1])  # as another version may
    with pytest.raises(RunError, match=r"'latency table: scan' of run \S+ timed other layers"):
        survey.make_table(shop(store, None, run=at.run.id), GRAPH)


def test_a_replay_takes_all_times_from_the_record_also_those_from_the_cache(store, device) -> None:
    made(shop(store, device))
    source = shop(store, device)
    first = made(source)  # nothing but the cache
    for file in (store.folder / "tables").iterdir():
        file.unlink()
    assert made(shop(store, None, replay=source.run.id)) == first
    assert not list((store.folder / "tables").iterdir())


def test_a_replay_of_another_models_table_is_refused(store, device, monkeypatch) -> None:
    source = shop(store, device)
    made(source)
    other = shop(store, None, replay=source.run.id)

    def build_otherwise(shape: LayerShape, runtime: str, path: Path) -> None:
        path.write_text(f"another {shape.key}")

    monkeypatch.setattr(survey, "build_layer_model", build_otherwise)
    with pytest.raises(RunError, match="other files"):
        survey.make_table(other, GRAPH)


def test_a_damaged_cache_is_told_and_the_run_goes_on(store, device) -> None:
    made(shop(store, device))
    (cache,) = (store.folder / "tables").glob("*.json")
    cache.write_text("{")
    at = shop(store, device)
    made(at)
    assert "damaged" in at.watch.said[0]


def test_no_files_stay(store, device) -> None:
    at = shop(store, device)
    made(at)
    assert not at.path("table").exists()


def test_a_budget_on_the_file_adds_widths_between_the_edges(store, device) -> None:
    device.clock = stairs(32, 64)
    narrow, _ = made(shop(store, device))
    wide, _ = made(shop(store, device, budgets=(parse_budget("file=50%"),)))
    assert len(wide["inner3.0"]) > len(narrow["inner3.0"])


def test_a_layer_that_the_device_refuses_is_named(store, device) -> None:
    def refuse(paths: Sequence[Path], **_: object) -> tuple[LayerTiming, ...]:
        return tuple(LayerTiming(survey.sha256(path), 0.0, 0, error="no such operator") for path in paths)

    device.measure_layers = refuse
    with pytest.raises(DeviceError, match=r"could not time the layer .*no such operator"):
        survey.make_table(shop(store, device), GRAPH)
