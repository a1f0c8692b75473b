import time
from array import array
from dataclasses import replace

import pytest

from device_agent import benchmark
from device_agent.errors import RequestError
from device_agent.protocol import MeasuringProtocol, from_params
from device_agent.runtimes import InputSpec
from device_agent.sensors.conditions import ConditionSensors

QUICK = MeasuringProtocol(
    min_runs=20, min_duration_s=0.02, max_duration_s=0.5, warmup_max_s=0.1, max_attempts=3, cooldown_s=0.0
)


class Sleeper:
    """A runtime whose model takes the milliseconds that `pace` gives for the count of its calls so far."""

    version = "1"

    def __init__(self, pace):
        self.pace = pace
        self.calls = 0
        self.inputs = (InputSpec("x", (1, 2), "float32"),)

    def load(self, path, threads):
        return self

    def prepare(self, arrays):
        return self.call

    def call(self):
        self.calls += 1
        end = time.perf_counter() + self.pace(self.calls) / 1e3
        while time.perf_counter() < end:
            pass


def measure(runtime, protocol, tmp_path, tell=lambda _: None):
    return benchmark.measure(
        runtime,
        tmp_path,
        threads=1,
        protocol=protocol,
        sensors=ConditionSensors(0, tmp_path),
        power=None,
        tell=tell,
    )


def test_it_runs_until_both_the_least_runs_and_the_least_time_are_reached(tmp_path):
    by_time = measure(
        Sleeper(lambda _: 0.1), replace(QUICK, min_runs=1, min_duration_s=0.2, max_attempts=1), tmp_path
    )
    assert by_time["duration_s"] >= 0.2
    assert by_time["runs"] > 1
    by_runs = measure(Sleeper(lambda _: 1), replace(QUICK, min_duration_s=0.0, max_attempts=1), tmp_path)
    assert by_runs["runs"] == 20


def test_the_longest_duration_ends_it_before_the_least_runs(tmp_path):
    protocol = replace(QUICK, min_runs=10**6, max_duration_s=0.05, max_attempts=1)
    found = measure(Sleeper(lambda _: 1), protocol, tmp_path)
    assert 1 <= found["runs"] <= 60


def test_one_run_longer_than_the_longest_duration_is_still_measured(tmp_path):
    protocol = replace(QUICK, max_duration_s=0.001, warmup_max_s=0.0, max_attempts=1)
    found = measure(Sleeper(lambda _: 5), protocol, tmp_path)
    assert found["runs"] == 1
    assert found["latency_ms"]["p50"] >= 5


def test_an_unsteady_measurement_is_repeated_and_the_tries_counted(tmp_path):
    events = []
    grows = Sleeper(lambda calls: 0.2 + calls * 0.01)
    found = measure(grows, replace(QUICK, warmup_max_s=0.01), tmp_path, events.append)
    assert found["attempts"] == 3
    assert found["flags"] == ["unsteady"]
    assert found["steadiness"] > 0.05
    assert [event["phase"] for event in events].count("cooldown") == 2


def test_an_attempt_without_flags_is_reported_before_a_steadier_one_with():
    def attempt(flags, steadiness):
        return benchmark.Attempt([1], 1.0, steadiness, flags, None, {}, {})

    plain, flagged = attempt((), 0.04), attempt(("throttled",), 0.01)
    assert benchmark.best_of([flagged, plain]) is plain
    assert benchmark.best_of([flagged, attempt(("unsteady",), 0.2)]) is flagged


def test_warming_up_ends_when_two_windows_agree_or_the_time_is_over():
    steady = Sleeper(lambda _: 1)
    benchmark.warm_up(steady.call, 60.0, lambda _: None)
    assert steady.calls >= 6
    restless = Sleeper(lambda calls: 1 + calls * 0.1)
    benchmark.warm_up(restless.call, 0.1, lambda _: None)
    assert restless.calls < 100


def test_what_could_not_be_measured_is_none_with_a_reason(tmp_path):
    found = measure(Sleeper(lambda _: 0.1), QUICK, tmp_path)
    assert found["energy_mj"] is None
    assert found["energy_method"] == "unavailable: no power sensor found"
    for name in ("energy_mj", "governor", "frequency_mhz", "temperature_c", "throttled"):
        assert found["missing"][name]


def test_a_model_that_fails_while_it_runs_is_refused(tmp_path):
    def fail(_):
        raise ValueError("no such operator\nsecond line")

    with pytest.raises(RequestError) as caught:
        measure(Sleeper(fail), QUICK, tmp_path)
    assert caught.value.code == "model_refused"
    assert caught.value.message.endswith("no such operator")


def test_timed_runs_stop_at_the_count_and_at_the_time():
    samples = array("q")
    benchmark.timed_runs(lambda: None, samples, 7, time.perf_counter() + 60)
    assert len(samples) == 7
    benchmark.timed_runs(lambda: None, samples, 7, time.perf_counter() - 1)
    assert len(samples) == 8


def test_a_protocol_is_read_with_its_defaults():
    assert from_params({"min_runs": 3, "timeout_s": 5}) == replace(
        MeasuringProtocol(), min_runs=3, timeout_s=5
    )


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"min_runs": 0},
        {"min_runs": 1.5},
        {"min_runs": True},
        {"cooldown_s": -1},
        {"timeout_s": "1"},
        {"more": 1},
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(values):
    with pytest.raises(RequestError) as caught:
        from_params(values)
    assert caught.value.code == "bad_request"


def test_protocol_fields_are_those_of_the_host():
    from pipeline.measurement import MeasuringProtocol as OnHost

    assert vars(OnHost()) == vars(MeasuringProtocol())
