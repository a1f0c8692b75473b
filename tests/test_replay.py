"""What a run recorded is read again in another run, or it is said why it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.files import sha256
from pipeline.measurement import LayerTiming, TimedLayers
from pipeline.replay import Replay
from pipeline.store import Store

STEP = "latency table: scan"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer.onnx"
    path.write_bytes(b"a layer")
    return path


def recorded(tmp_path: Path, kind: type, value: object) -> Replay:
    store = Store(tmp_path / "state")
    run = store.create({})
    run.step(STEP, kind, lambda: value)
    run.close()
    return Replay(store, run.id)


def test_timings_are_those_of_the_run(tmp_path: Path, layer: Path) -> None:
    timing = LayerTiming(sha256(layer), 0.25, 50)
    replay = recorded(tmp_path, TimedLayers, TimedLayers(("a layer",), (timing,)))
    assert replay.timings(STEP, [layer]) == (timing,)


def test_another_file_is_not_taken_for_the_one_that_was_measured(tmp_path: Path, layer: Path) -> None:
    timing = LayerTiming("0" * 64, 0.25, 50)
    replay = recorded(tmp_path, TimedLayers, TimedLayers(("a layer",), (timing,)))
    with pytest.raises(RunError, match="measured other files"):
        replay.timings(STEP, [layer])


def test_what_another_version_recorded_is_one_clear_line(tmp_path: Path, layer: Path) -> None:
    timing = LayerTiming(sha256(layer), 0.25, 50)
    replay = recorded(tmp_path, tuple[LayerTiming, ...], (timing,))
    with pytest.raises(RunError, match="another version recorded it") as caught:
        replay.timings(STEP, [layer])
    assert "replay a run of this version" in str(caught.value.hint)


def test_a_step_that_was_not_done_is_named(tmp_path: Path, layer: Path) -> None:
    replay = recorded(tmp_path, int, 1)
    with pytest.raises(RunError, match="no step 'baseline: measure' to replay"):
        replay.measurement("baseline: measure", layer)
