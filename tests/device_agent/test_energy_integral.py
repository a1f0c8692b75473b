"""The integral alone, against traces whose energy is known on paper."""

import math
import random

import pytest

from device_agent.sensors.energy import Reading
from device_agent.sensors.energy.integral import integrate, step_mj


def powers(times, power_mw):
    return [Reading(time_s, power_mw(time_s), None) for time_s in times]


def uneven_times(begin_s, end_s, step_s, seed=0):
    chance = random.Random(seed)
    times = [begin_s]
    while times[-1] < end_s:
        times.append(times[-1] + step_s * chance.uniform(0.5, 1.5))
    return times


def test_a_constant_power_is_exact_whatever_the_timestamps():
    readings = powers(uneven_times(0, 10, 0.3), lambda _: 2500)
    assert integrate(readings, 1.234, 8.765) == pytest.approx(2500 * (8.765 - 1.234), rel=1e-12)


def test_a_ramp_is_exact_with_both_ends_between_readings():
    readings = powers(uneven_times(0, 10, 0.3), lambda t: 1000 + 200 * t)
    begin, end = 0.777, 9.321
    assert integrate(readings, begin, end) == pytest.approx(1000 * (end - begin) + 100 * (end**2 - begin**2))


def test_a_window_between_two_readings_is_interpolated():
    readings = powers([0.0, 1.0], lambda t: 1000 * t)
    assert integrate(readings, 0.25, 0.75) == pytest.approx(1000 * (0.75**2 - 0.25**2) / 2)


def test_ends_on_readings_are_not_counted_twice():
    readings = powers([0.0, 1.0, 2.0, 3.0], lambda t: 500)
    assert integrate(readings, 1.0, 2.0) == 500


def test_windows_side_by_side_add_up():
    readings = powers(uneven_times(0, 10, 0.1), lambda t: 2000 + 900 * math.sin(7 * t))
    parts = [integrate(readings, n, n + 1) for n in range(1, 9)]
    assert sum(parts) == pytest.approx(integrate(readings, 1, 9), rel=1e-12)


def test_a_square_wave_is_off_by_at_most_half_a_step_an_edge():
    readings = powers(uneven_times(0, 12, 0.02), lambda t: 4000 if t % 1 < 0.5 else 2000)
    assert integrate(readings, 1, 11) == pytest.approx(30_000, rel=0.003)


def test_unsteady_steps_are_weighed_by_their_time():
    """The mean of the values, which is what ignoring the timestamps gives, would be 1900 mW."""
    readings = powers([0, 1, *(1 + n / 10 for n in range(1, 11))], lambda t: 1000 if t <= 1 else 2000)
    assert integrate(readings, 0, 2) == pytest.approx(1000 + 2000 - 50)


def test_a_counter_is_a_difference():
    readings = [Reading(t, None, 1000.0 * t + 5e6) for t in range(11)]
    assert integrate(readings, 2.5, 7.5) == pytest.approx(5.0)


def test_a_counter_that_wraps_goes_on():
    readings = [Reading(t, None, (4e6 * t + 9e6) % 1e7, 1e7) for t in range(11)]
    assert integrate(readings, 0, 10) == pytest.approx(40_000)


def test_a_wrap_that_no_board_could_cause_is_none():
    """A counter that was reset looks like a wrap, of 262 kJ in a moment."""
    before, after = Reading(1.0, None, 5e9, 2.6e11), Reading(1.05, None, 0.0, 2.6e11)
    assert step_mj(before, after) is None
    assert step_mj(Reading(1.0, None, 2.6e11 - 100, 2.6e11), after) == pytest.approx(0.1)
    assert step_mj(Reading(1.0, None, 5.0), Reading(2.0, None, 4.0)) is None, "no width known, no wrap"


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 1), (1, 2.1), (3, 4)])
def test_a_time_that_the_readings_do_not_span_has_no_energy(begin, end):
    with pytest.raises(ValueError, match="no readings"):
        integrate(powers([0, 1, 2], lambda _: 1), begin, end)
