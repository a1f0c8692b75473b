"""A core that runs at half its pace for a while: what the agent leaves out, and what it says where it cannot."""

import time
from math import inf

import pytest
from test_agent_benchmark import QUICK, Sleeper

from device_agent.measure import benchmark, layers, pace
from device_agent.measure.pace import Pace, Stretches
from device_agent.sensors.conditions import ConditionSensors

FULL_NS = 1000.0
LONGER = QUICK._replace(min_duration_s=0.3, max_duration_s=5.0, warmup_max_s=0.01, max_attempts=1)


class Core:
    """A core whose yardstick and whose models take `factor` times longer; `slow` says when, from looks made so far."""

    def __init__(self, monkeypatch, slow, factor=2.0):
        self.looks = 0
        self._slow, self._factor = slow, factor
        monkeypatch.setattr(pace, "_RUNS", 1)
        monkeypatch.setattr(pace, "_yardstick_ns", self._yardstick_ns)

    def times(self):
        return self._factor if self._slow(self.looks) else 1.0

    def model(self, ms):
        return Sleeper(lambda _: ms * self.times())

    def _yardstick_ns(self):
        self.looks += 1
        return FULL_NS * self.times()


def measure(core, tmp_path, protocol=LONGER, usual_ns=None):
    return benchmark.measure(
        core.model(1.0),
        tmp_path,
        threads=1,
        protocol=protocol,
        sensors=ConditionSensors(0, tmp_path, tmp_path / "proc"),
        power=(),
        pace=Pace(usual_ns),
        tell=lambda _: None,
    )


@pytest.mark.parametrize(
    "slow",
    [lambda looks: looks % 8 < 4, lambda looks: looks < 6],
    ids=["now and then", "until late, when nobody knew the full pace yet"],
)
def test_what_ran_below_full_pace_is_left_out(monkeypatch, tmp_path, slow):
    found = measure(Core(monkeypatch, slow), tmp_path)
    assert 1.0 <= found["latency_ms"]["p50"] < 1.3
    assert "slowed" not in found["flags"]
    assert 0.05 < found["during"]["slowed_share"] < 0.9
    assert found["during"]["slowdown"] == pytest.approx(2.0)
    assert found["duration_s"] > 0.3, "the least duration is meant at full pace"


def test_a_core_at_full_pace_all_along_loses_nothing(monkeypatch, tmp_path):
    found = measure(Core(monkeypatch, lambda _: False), tmp_path)
    assert found["during"]["slowed_share"] == 0.0
    assert found["during"]["slowdown"] is None


def test_a_core_that_stays_slow_is_not_waited_for_and_flagged(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "LEAST_S", 0.1)
    core = Core(monkeypatch, lambda _: True)
    found = measure(core, tmp_path, usual_ns=FULL_NS)
    assert found["latency_ms"]["p50"] >= 2.0
    assert "slowed" in found["flags"]
    assert found["during"] == {**found["during"], "slowed_share": 1.0}
    assert found["during"]["slowdown"] == pytest.approx(2.0 / pace.ELSEWHERE)
    assert 0.9 <= found["duration_s"] < 4.5, "three times the least duration, then it is enough"


def test_a_slow_attempt_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "LEAST_S", 0.1)
    core = Core(monkeypatch, lambda looks: looks < 60)
    found = measure(core, tmp_path, LONGER._replace(max_attempts=3), usual_ns=FULL_NS)
    assert found["attempts"] >= 2
    assert "slowed" not in found["flags"]
    assert found["latency_ms"]["p50"] < 1.3


def test_nobody_takes_a_core_for_slow_that_was_never_faster(monkeypatch, tmp_path):
    assert "slowed" not in measure(Core(monkeypatch, lambda _: True), tmp_path)["flags"]


def test_a_clock_that_wide_instructions_lower_is_full_pace(monkeypatch):
    core = Core(monkeypatch, lambda looks: looks > 2, factor=1.29)
    known = Pace()
    known.look()  # before any inference, at the higher clock
    stretches = Stretches(known)
    for _ in range(5):
        stretches.add([1], 1.0)
    assert core.looks > 5
    assert stretches.at_full_pace() == (5, 5.0)


def test_less_than_a_quarter_at_full_pace_is_too_little_to_count_alone(monkeypatch):
    monkeypatch.setattr(pace, "LEAST_S", 0.1)
    fast = Core(monkeypatch, lambda looks: looks > 4)
    stretches = Stretches(Pace())
    for _ in range(2):
        stretches.add([1], 0.1)
    assert stretches.counted()[1] is False
    for _ in range(9):
        stretches.add([2], 0.1)
    assert fast.looks == 22
    samples, slowed = stretches.counted()
    assert slowed
    assert list(samples) == [1] * 2 + [2] * 9
    assert stretches.hopeless(0.1)
    assert not stretches.hopeless(1.0)


@pytest.mark.parametrize(
    ("full", "slow", "counted", "flagged"),
    [
        (6, 94, [1] * 120, False),
        (4, 96, [1] * 80 + [2] * 1920, True),
        (3, 27, [1] * 60 + [2] * 540, True),
    ],
    ids=["rare, but enough", "hardly any time", "too few inferences"],
)
def test_full_pace_counts_alone_though_rare_if_there_is_enough(monkeypatch, full, slow, counted, flagged):
    Core(monkeypatch, lambda looks: looks > 2 * full)
    stretches = Stretches(Pace())
    for _ in range(full):
        stretches.add([1] * 20, 0.05)
    for _ in range(slow):
        stretches.add([2] * 20, 0.05)
    samples, slowed = stretches.counted()
    assert (list(samples), slowed) == (counted, flagged)


def test_the_least_number_of_runs_is_made_however_slow_the_core_is(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "LEAST_S", 0.01)
    protocol = LONGER._replace(min_runs=200, min_duration_s=0.01)
    found = measure(Core(monkeypatch, lambda _: True), tmp_path, protocol, usual_ns=FULL_NS)
    assert "slowed" in found["flags"]
    assert found["runs"] >= 200


def test_layers_are_visited_again_until_enough_passes_were_at_full_pace(monkeypatch, tmp_path):
    core = Core(monkeypatch, lambda looks: looks <= 12)
    protocol = QUICK._replace(layer_min_runs=10, layer_max_duration_s=0.05)
    [(index, timing)] = layers.measure_layers(
        core.model(0.5), [tmp_path], 1, protocol, Pace(), lambda _: None
    )
    assert (index, timing["error"]) == (0, None)
    assert 0.5 <= timing["p50_ms"] < 0.65
    assert timing["runs"] > 10, "more than five passes of two runs"


def test_layers_on_a_core_that_stays_slow_are_timed_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(layers, "LEAST_WAIT_S", 0.1)
    core = Core(monkeypatch, lambda _: True)
    protocol = QUICK._replace(layer_min_runs=10, layer_max_duration_s=0.05)
    began = time.monotonic()
    [(_, timing)] = layers.measure_layers(
        core.model(0.5), [tmp_path], 1, protocol, Pace(FULL_NS), lambda _: None
    )
    assert timing["p50_ms"] >= 1.0
    assert time.monotonic() - began < 30


def test_the_yardstick_takes_time_and_a_look_its_median():
    known = Pace()
    looks = [known.look() for _ in range(20)]
    assert min(looks) == known.shortest_ns > 0
    assert known.slowdown(2 * known.shortest_ns, inf) == pytest.approx(2 / pace.ELSEWHERE)
    assert known.slowdown(2 * known.shortest_ns, known.shortest_ns) == pytest.approx(2)
