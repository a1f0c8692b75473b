from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.search.table_cache import MOST_TRIES, CachedTiming, TableCache

FACTS = {"board": "Raspberry Pi 4 Model B Rev 1.5", "runtime": "onnxruntime 1.31.1", "threads": "1"}
DIGEST = "ab" * 32


def timing(ms: float = 1.5, **more) -> CachedTiming:
    return CachedTiming(
        shape="conv2d 3>16", p50_ms=ms, runs=50, noise=0.01, at="2026-11-21T11:00:00Z", **more
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> TableCache:
    return TableCache(tmp_path / "tables", FACTS, said.append)


def test_what_was_added_is_there_for_the_next_run(cache, tmp_path: Path, said) -> None:
    assert cache.entries() == {}
    cache.add({DIGEST: timing()})
    cache.add({"cd" * 32: timing(2.0, again_ms=2.1)})
    again = TableCache(tmp_path / "tables", dict(reversed(FACTS.items())), said.append)
    assert again.entries() == {DIGEST: timing(), "cd" * 32: timing(2.0, again_ms=2.1)}
    assert said == []


@pytest.mark.parametrize("fact", FACTS)
def test_under_other_facts_nothing_is_known(cache, tmp_path: Path, fact: str, said) -> None:
    cache.add({DIGEST: timing()})
    other = TableCache(tmp_path / "tables", {**FACTS, fact: "another"}, said.append)
    assert other.path != cache.path
    assert other.entries() == {}
    assert said == []


def test_a_person_can_tell_the_files_apart(cache) -> None:
    cache.add({DIGEST: timing()})
    assert cache.path.name.startswith("raspberry-pi-4-model-b-rev-1.5-onnxruntime-1.31.1-")
    assert json.loads(cache.path.read_text())["facts"] == FACTS


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "\x00" * 100,
        lambda text: text.replace("1.5", "-1.5"),
        lambda text: text.replace("1.5", "NaN"),
        lambda text: text.replace("1.5", '"fast"'),
        lambda text: text.replace('"version": 1', '"version": 99'),
        lambda text: text.replace("onnxruntime 1.31.1", "onnxruntime 1.20.0"),
    ],
)
def test_a_damaged_file_is_set_aside_with_a_word(cache, said, damage) -> None:
    cache.add({DIGEST: timing()})
    cache.path.write_text(damage(cache.path.read_text()))
    assert cache.entries() == {}
    assert len(said) == 1
    assert cache.path.name in said[0]
    assert cache.path.with_suffix(".damaged").exists()
    cache.add({DIGEST: timing(3.0)})
    assert cache.entries() == {DIGEST: timing(3.0)}
    assert len(said) == 1


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("a file is in the way")
    cache = TableCache(tmp_path / "tables", FACTS, print)
    with pytest.raises(StorageError):
        cache.add({DIGEST: timing()})
    with pytest.raises(StorageError):
        cache.entries()


WRITER = """
import sys
from pathlib import Path
from pipeline.search.table_cache import CachedTiming, TableCache
folder, name = sys.argv[1:]
cache = TableCache(Path(folder), {"board": "b"}, print)
for number in range(8):
    cache.add({f"{name}{number}": CachedTiming("s", 1.0, 5, 0.0, "now")})
"""


def test_no_timing_of_two_processes_at_once_is_lost(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("first", "second", "third")
    ]
    assert [writer.communicate()[0] for writer in writers] == ["", "", ""]
    found = TableCache(tmp_path, {"board": "b"}, print).entries()
    assert set(found) == {f"{name}{number}" for name in ("first", "second", "third") for number in range(8)}


def test_a_noisy_timing_is_made_again_but_not_for_ever() -> None:
    assert timing().settled
    noisy = [CachedTiming("s", 1.0, 5, 0.2, "now", tries=tries) for tries in range(1, MOST_TRIES + 1)]
    assert [each.settled for each in noisy] == [False] * (MOST_TRIES - 1) + [True]
