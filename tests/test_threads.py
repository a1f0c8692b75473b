"""How many threads this computer is said to train best with, where steps take as long as they are told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from pipeline.threads import best_thread_count


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def step(seconds: dict[int, float]) -> Callable[[], None]:
    return lambda: time.sleep(seconds[torch.get_num_threads()])


def test_all_threads_are_taken_where_they_save_time() -> None:
    assert best_thread_count(step({1: 0.04, 2: 0.02})) == 2
    assert torch.get_num_threads() == 2, "as it was before"


def test_one_is_taken_where_more_wait_for_each_other() -> None:
    assert best_thread_count(step({1: 0.01, 2: 0.2})) == 1
    assert torch.get_num_threads() == 2, "as it was before"


def test_a_small_gain_is_not_worth_a_second_thread() -> None:
    assert best_thread_count(step({1: 0.1, 2: 0.096})) == 1
