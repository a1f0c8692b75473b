"""The number that a bundle gets: greater than all before it, but not whatever a device claims."""

import time

import pytest

from pipeline.delivery import FARTHEST_AHEAD_MS, next_sequence
from pipeline.errors import DeviceError


def test_it_is_the_time_or_one_more_than_the_device_has_seen() -> None:
    now = time.time_ns() // 1_000_000
    assert now <= next_sequence(0) <= now + 60_000
    assert next_sequence(now + 10**9) == now + 10**9 + 1


def test_a_device_that_claims_a_number_of_the_far_future_gets_no_bundle() -> None:
    with pytest.raises(DeviceError, match="more than a year ahead"):
        next_sequence(time.time_ns() // 1_000_000 + 2 * FARTHEST_AHEAD_MS)
