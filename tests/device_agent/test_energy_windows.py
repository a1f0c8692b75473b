"""Windows of inferences against sensors that are files in a real tree, good and bad."""

import dataclasses
import json
import time

import pytest
from power_player import put

from device_agent.sensors import energy
from device_agent.sensors.energy import Reading
from device_agent.sensors.energy.validity import why_invalid
from device_agent.sensors.energy.windows import Sampler, measure


class PowerFile:
    """One INA226 whose reading a test may change, or take away."""

    def __init__(self, root):
        self.path = root / "class/hwmon/hwmon0/power1_input"
        put(self.path.with_name("name"), "ina226")
        put(self.path.with_name("update_interval"), "10")
        self.show(2500)
        (self.sensor,) = energy.find(root, dev=root / "dev")

    def show(self, milliwatts):
        put(self.path, str(round(milliwatts * 1000)))

    def measure(self, call=lambda: time.sleep(0.01), tell=lambda event: None, **changes):
        return measure(
            call, self.sensor, tell=tell, **{"windows": 3, "window_s": 0.3, "idle_s": 0.0, **changes}
        )


@pytest.fixture
def power(tmp_path):
    return PowerFile(tmp_path)


def test_the_energy_of_a_whole_window_is_shared_by_its_inferences(power):
    calls = []
    figures = power.measure(lambda: calls.append(time.sleep(0.01)), windows=5)
    assert len(figures.windows) == 5
    assert sum(window.inferences for window in figures.windows) == len(calls)
    for window in figures.windows:
        assert window.valid
        assert window.duration_s >= 0.3
        assert window.energy_mj == pytest.approx(2500 * window.duration_s)
    shares = sorted(window.energy_mj / window.inferences for window in figures.windows)
    assert figures.gross_mj == shares[2]


def test_net_takes_off_what_the_idle_board_draws(power):
    phases = []

    def tell(event):
        phases.append(event["phase"])
        power.show(1000 if event["phase"] == "idle" else 3000)

    figures = power.measure(tell=tell, idle_s=0.8)
    assert phases == ["idle", "energy", "energy", "energy"]
    assert figures.idle_mw == pytest.approx(1000, rel=0.1)
    assert figures.net_mj == pytest.approx(figures.gross_mj * 2 / 3, rel=0.1)


def test_without_an_idle_window_there_is_no_net(power):
    figures = power.measure()
    assert figures.gross_mj is not None
    assert (figures.idle_mw, figures.net_mj) == (None, None)


def test_the_figures_say_how_they_were_made(power):
    figures = power.measure()
    assert (figures.method, figures.estimated, figures.missing) == ("hwmon:ina226", False, "")
    assert figures.rate_hz > 10
    assert 0 < figures.sampling_cost < 0.5
    assert json.loads(json.dumps(dataclasses.asdict(figures)))["windows"][0]["valid"] is True


def test_a_slow_inference_makes_its_window_longer(power):
    figures = power.measure(lambda: time.sleep(0.5), windows=1)
    assert figures.windows[0].inferences == 1
    assert figures.windows[0].duration_s >= 0.5


def broken_in(power, window, harm, mend=lambda: None):
    """Measure while `harm` is done in one window's first inference and `mend` at its end."""
    at = -1
    done = set()

    def tell(event):
        nonlocal at
        at = event["done"]
        mend()

    def call():
        time.sleep(0.05)
        if at == window and at not in done:
            done.add(at)
            harm()

    return power.measure(call, tell, window_s=0.5)


def test_a_sensor_that_drops_out_spoils_its_window_only(power):
    figures = broken_in(power, 1, power.path.unlink, lambda: power.show(2500))
    assert [window.valid for window in figures.windows] == [True, False, True]
    assert "readings failed" in figures.windows[1].why
    assert figures.windows[1].energy_mj is None
    assert figures.gross_mj == pytest.approx(2500 * 0.05, rel=0.2)


def test_with_fewer_than_half_of_the_windows_there_is_no_figure_but_a_reason(power):
    figures = broken_in(power, 1, power.path.unlink)
    assert [window.valid for window in figures.windows] == [True, False, False]
    assert figures.gross_mj is None
    assert figures.net_mj is None
    assert figures.missing.startswith("2 of 3 windows were invalid: ")


def test_a_sensor_that_is_gone_at_the_end_spoils_the_last_window(power):
    figures = broken_in(power, 2, power.path.unlink)
    assert [window.valid for window in figures.windows] == [True, True, False]


@pytest.mark.parametrize("milliwatts", [0, -2500])
def test_no_power_is_no_energy(power, milliwatts):
    power.show(milliwatts)
    figures = power.measure()
    assert figures.gross_mj is None
    assert "no power" in figures.missing


def test_an_error_of_the_inference_comes_through_and_ends_the_sampling(power):
    def call():
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        power.measure(call)


def judged(readings, misses=(), begin=1.0, end=9.0, interval=0.02):
    sampler = Sampler.__new__(Sampler)
    sampler.readings, sampler.misses_s, sampler.reversals_s = list(readings), list(misses), []
    return why_invalid(sampler, interval, begin, end)


def steady(times):
    return [Reading(time_s, 2500.0, None) for time_s in times]


def every(step, without=lambda t: False):
    times = [n * step for n in range(int(10 / step) + 1)]
    return steady([t for t in times if not without(t)])


def test_steady_readings_are_trusted():
    assert judged(every(0.02)) == ""


def test_a_pause_is_a_stall_only_when_it_is_long_for_the_sensor():
    assert judged(every(0.02, lambda t: 4 < t < 4.9)) == "", "a busy board may hold the sampler up"
    assert "stalled for 1." in judged(every(0.02, lambda t: 4 < t < 5.5))
    assert judged(every(1.0, lambda t: 3 < t < 7), interval=1.0) == "", (
        "a slow sensor may take five intervals"
    )
    assert "stalled" in judged(every(1.0, lambda t: 2 < t < 8), interval=1.0)


def test_a_stall_is_also_more_than_five_readings_that_fail_in_a_row():
    assert judged(every(0.02, lambda t: 4 < t < 4.1), [4.01 + n / 50 for n in range(5)]) == ""
    assert "stalled" in judged(every(0.02, lambda t: 4 < t < 4.13), [4.01 + n / 50 for n in range(6)])


def test_one_reading_in_twenty_may_fail():
    assert judged(every(0.02), [1.01 + n / 2.6 for n in range(20)]) == ""
    assert "readings failed" in judged(every(0.02), [1.01 + n / 2.9 for n in range(22)])


def test_readings_that_do_not_reach_to_both_ends_are_not_trusted():
    assert judged(every(0.02, lambda t: t < 1.5))
    assert judged(every(0.02, lambda t: t > 8.5))
    assert judged([])


def counted(*counters, wraps_at=None):
    return [Reading(float(n), None, counter, wraps_at) for n, counter in enumerate(counters)]


def test_a_counter_may_wrap_but_not_go_backwards():
    rising, falling = range(0, 11_000_000, 1_000_000), [5e6, 6e6, 7e6, 1e6, 2e6, 3e6, 4e6, 5e6, 6e6, 7e6, 8e6]
    assert judged(counted(*rising), interval=1.0) == ""
    assert "backwards" in judged(counted(*falling), interval=1.0)
    assert judged(counted(*falling, wraps_at=7.5e6), interval=1.0) == ""
    assert "backwards" in judged(counted(*falling, wraps_at=2.6e11), interval=1.0), "that was a reset"


def test_a_power_that_no_board_has_is_a_misreading():
    readings = [*every(0.02)[:300], Reading(6.01, 6.5e10, None), *every(0.02)[301:]]
    assert "impossible" in judged(readings)
