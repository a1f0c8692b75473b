"""The number that a bundle gets: greater than all before it, but not whatever a device claims."""

import time
from types import SimpleNamespace

import pytest

from pipeline.errors import DeviceError
from pipeline.workshop import FARTHEST_AHEAD_MS, Workshop


def shop_with_device_at(sequence: int) -> Workshop:
    device = SimpleNamespace(status=lambda: SimpleNamespace(update=SimpleNamespace(sequence=sequence)))
    return Workshop(None, None, None, device, None)  # type: ignore[arg-type]


def test_it_is_the_time_or_one_more_than_the_device_has_seen() -> None:
    now = time.time_ns() // 1_000_000
    assert now <= shop_with_device_at(0)._next_sequence() <= now + 60_000
    assert shop_with_device_at(now + 10**9)._next_sequence() == now + 10**9 + 1


def test_a_device_that_claims_a_number_of_the_far_future_gets_no_bundle() -> None:
    with pytest.raises(DeviceError, match="more than a year ahead"):
        shop_with_device_at(time.time_ns() // 1_000_000 + 2 * FARTHEST_AHEAD_MS)._next_sequence()
