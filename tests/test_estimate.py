"""What a dry run knows of how long things take on a device: from deploys there, else rules of thumb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.estimate import Experience
from pipeline.store import Store

STEPS = (
    ("baseline: train", 500.0, {}),
    ("baseline: convert", 4.0, {}),
    ("baseline: measure", 90.0, {}),
    ("importance", 30.0, {}),
    ("latency table: scan", 40.0, {"layers": ["a", "b", "c"]}),
    ("latency table: steps", 20.0, {"layers": ["d"]}),
    ("fit 1: slim and convert", 6.0, {}),
    ("fit 1: measure", 70.0, {}),
    ("recovered 1: train", 300.0, {}),
    ("recovered 1: measure again", 80.0, {}),
    ("check and activate", 12.0, {}),
)


def deployed(
    store: Store, device: str, *, slower: float = 1.0, status: str = "met", replay: str = ""
) -> None:
    run = store.create({"device": device, "replay": replay or None})
    run.close()
    with store.transaction() as database:
        database.execute("UPDATE runs SET status = ? WHERE id = ?", (status, run.id))
        for position, (name, seconds, value) in enumerate(STEPS):
            database.execute(
                "INSERT INTO steps (run, position, name, seconds, value) VALUES (?, ?, ?, ?, ?)",
                (run.id, position, name, slower * seconds, json.dumps(value)),
            )


def test_what_deploys_to_the_device_took_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    deployed(store, "pi")
    found = Experience.with_device(store, "pi")
    assert found == Experience(conversion_s=5.0, measurement_s=80.0, layer_s=15.0, rest_s=42.0, runs=1)


@pytest.mark.parametrize(
    "other", [{"device": "local"}, {"status": "failed"}, {"status": "running"}, {"replay": "an-earlier-run"}]
)
def test_others_say_nothing(tmp_path: Path, other: dict[str, str]) -> None:
    store = Store(tmp_path)
    deployed(store, **{"device": "pi", **other})  # type: ignore[arg-type]
    assert Experience.with_device(store, "pi") == Experience()


def test_the_last_five_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for slower in (100.0, 100.0, *[1.0] * 5):
        deployed(store, "pi", slower=slower)
    assert Experience.with_device(store, "pi") == Experience(5.0, 80.0, 15.0, 42.0, runs=5)
