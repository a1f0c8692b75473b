from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.measurement import LayerTiming
from pipeline.search.layer_clock import ANCHORS, MOST_FILES, LayerClock, LayerFile, repeated, timing_noise
from pipeline.search.table_cache import MOST_TRIES, TableCache


class Device:
    """Takes as long for a file as its number says, times a speed that a test changes; counts what it is asked."""

    def __init__(self) -> None:
        self.slowness = 1.0
        self.jitter = 0.0
        self.batches: list[list[str]] = []
        self.refuses: set[str] = set()

    def __call__(self, paths: Sequence[Path]) -> tuple[LayerTiming, ...]:
        self.batches.append([path.name for path in paths])
        return tuple(self._timing(path.name, position) for position, path in enumerate(paths))

    def _timing(self, name: str, position: int) -> LayerTiming:
        if name in self.refuses:
            return LayerTiming(f"sha {name}", 0.0, 0, error="no such operator")
        swing = 1 + self.jitter * (-1) ** position
        return LayerTiming(f"sha {name}", float(name) * self.slowness * swing, 50)

    @property
    def asked(self) -> int:
        return sum(map(len, self.batches))


def files(*numbers: int) -> list[LayerFile]:
    return [LayerFile(Path(str(number)), f"sha {number}", f"shape {number}") for number in numbers]


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def new_clock(tmp_path: Path):
    return lambda level=(): LayerClock(TableCache(tmp_path, {"board": "b"}, print), dict(level))


def ms(timings: Sequence[LayerTiming]) -> list[float]:
    return [round(timing.p50_ms, 6) for timing in timings]


def test_times_come_in_order_then_those_of_the_files_timed_twice(device, new_clock) -> None:
    numbers = range(1, 41)
    timings = new_clock().times(files(*numbers), device)
    again = [numbers[index] for index in repeated(40)]
    assert ms(timings) == [*numbers, *again]
    assert [timing.file_sha256 for timing in timings] == [f"sha {number}" for number in (*numbers, *again)]
    assert 6 <= len(again) <= 8


def test_the_second_run_asks_the_device_nothing_and_records_the_same(device, new_clock) -> None:
    first, second = new_clock(), new_clock()
    device.jitter = 0.01
    timings = first.times(files(*range(1, 41)), device)
    assert second.times(files(*range(1, 41)), device) == timings
    assert len(device.batches) == 1
    assert (first.timed, first.known, second.timed, second.known) == (40, 0, 0, 40)


def test_only_what_is_new_is_timed_and_a_few_old_ones_to_compare(device, new_clock) -> None:
    new_clock().times(files(*range(1, 41)), device)
    clock = new_clock()
    assert ms(clock.times(files(*range(21, 61)), device))[:40] == list(range(21, 61))
    new, twice = 20, sum(21 + index > 40 for index in repeated(40))
    old_but_not_twice = sum(21 + index <= 40 and index + 20 not in repeated(40) for index in repeated(40))
    assert len(device.batches[1]) == new + twice + ANCHORS + 2 * old_but_not_twice
    assert clock.known == 20 - old_but_not_twice


def test_a_batch_on_a_slower_machine_is_brought_to_the_level_of_the_run(device, new_clock) -> None:
    clock = new_clock()
    clock.times(files(*range(1, 21)), device)
    device.slowness = 1.3
    assert ms(clock.times(files(*range(21, 41)), device))[:20] == list(range(21, 41))


def test_so_is_one_of_a_run_that_was_resumed(device, new_clock) -> None:
    device.slowness = 1.3
    clock = new_clock({file: float(file.shape.split()[1]) for file in files(5, 6, 7)}.items())
    assert ms(clock.times(files(*range(21, 41)), device))[:20] == list(range(21, 41))


def test_a_cache_of_another_level_is_not_used_but_timed_again(device, new_clock) -> None:
    new_clock().times(files(*range(1, 41)), device)
    device.slowness = 1.5
    clock = new_clock()
    timings = clock.times(files(*range(1, 51)), device)
    assert ms(timings)[:50] == [1.5 * number for number in range(1, 51)]
    assert (clock.timed, clock.known) == (50, 0)
    assert ms(new_clock().times(files(*range(1, 51)), device)) == ms(timings)


def test_one_or_two_known_files_say_nothing_of_the_level(device, new_clock) -> None:
    new_clock().times(files(1, 2), device)
    device.slowness = 1.5
    clock = new_clock()
    assert ms(clock.times(files(1, 2, *range(10, 40)), device))[2:32] == [
        1.5 * each for each in range(10, 40)
    ]
    assert len(device.batches) == 2


def test_more_files_than_a_process_can_open_go_in_several_batches(device, new_clock) -> None:
    numbers = range(1, 2 * MOST_FILES + 2)
    timings = new_clock().times(files(*numbers), device)
    assert ms(timings)[: len(numbers)] == list(numbers)
    assert len(device.batches) == 3
    assert max(map(len, device.batches)) <= MOST_FILES + 8 + ANCHORS


def test_a_file_that_the_runtime_refuses_is_told_and_asked_again_next_time(device, new_clock) -> None:
    device.refuses = {"3"}
    assert new_clock().times(files(1, 2, 3, 4), device)[2].error == "no such operator"
    device.refuses = set()
    assert ms(new_clock().times(files(1, 2, 3, 4), device))[:4] == [1, 2, 3, 4]
    assert "3" in device.batches[1]


def test_noisy_times_are_made_again_in_later_runs_until_the_best_of_three_counts(device, new_clock) -> None:
    device.jitter = 0.2
    for _ in range(MOST_TRIES + 2):
        new_clock().times(files(1, 2, 3, 4, 5), device)
    assert len(device.batches) == MOST_TRIES


def test_quiet_times_replace_noisy_ones_and_stay(device, new_clock) -> None:
    device.jitter = 0.2
    new_clock().times(files(1, 2, 3, 4, 5), device)
    device.jitter = 0.0
    assert ms(new_clock().times(files(1, 2, 3, 4, 5), device))[:5] == [1, 2, 3, 4, 5]
    device.jitter = 0.2
    assert ms(new_clock().times(files(1, 2, 3, 4, 5), device))[:5] == [1, 2, 3, 4, 5]


def test_noise_is_how_far_two_timings_of_a_file_lie_apart() -> None:
    once = [LayerTiming("a", 1.0, 50) for _ in range(5)]
    twice = [LayerTiming("a", 1.02, 50) for _ in range(5)]
    assert timing_noise(once, twice) == pytest.approx(0.02, rel=0.1)
    assert 0 < timing_noise(once, once) < 0.01
    assert timing_noise([], []) > 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 321])
def test_a_few_files_are_timed_twice(count: int) -> None:
    chosen = repeated(count)
    assert len(set(chosen)) == len(chosen) <= 8
    assert all(0 <= index < count for index in chosen)
    assert count == 0 or chosen
