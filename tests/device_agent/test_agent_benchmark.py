import json
import threading
import time
from array import array

import pytest

from device_agent.errors import RequestError
from device_agent.measure import benchmark, pace, timing
from device_agent.measure.pace import Pace
from device_agent.measure.protocol import MeasuringProtocol, from_params
from device_agent.measure.runtimes import InputSpec
from device_agent.sensors.conditions import ConditionSensors
from device_agent.sensors.energy import Reading

QUICK = MeasuringProtocol(
    min_runs=20, min_duration_s=0.02, max_duration_s=0.5, warmup_max_s=0.1, max_attempts=3, cooldown_s=0.0
)


@pytest.fixture(autouse=True)
def at_full_pace(monkeypatch):
    """What the core of this computer does is for test_agent_pace.py."""
    monkeypatch.setattr(pace, "_yardstick_ns", lambda: 1000)


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


class Supply:
    """A power sensor that always shows two watts."""

    method = "hwmon:test"
    interval_s = 0.01

    def __init__(self, estimated=False):
        self.estimated = estimated
        self.readings = 0

    def read(self):
        self.readings += 1
        return Reading(time.monotonic(), 2000.0, None)


def measure(runtime, protocol, tmp_path, tell=lambda _: None, power=()):
    return benchmark.measure(
        runtime,
        tmp_path,
        threads=1,
        protocol=protocol,
        sensors=ConditionSensors(0, tmp_path, tmp_path / "proc"),
        power=power,
        pace=Pace(),
        tell=tell,
    )


def board(root, temperature="50000", throttled="0"):
    """A board with a thermal zone and Pi firmware; returns the two files."""
    zone = root / "class/thermal/thermal_zone0"
    firmware = root / "devices/platform/soc/soc:firmware"
    for folder in (zone, firmware):
        folder.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal")
    (zone / "temp").write_text(temperature)
    (firmware / "get_throttled").write_text(throttled)
    return zone / "temp", firmware / "get_throttled"


def test_it_runs_until_both_the_least_runs_and_the_least_time_are_reached(tmp_path):
    by_time = measure(
        Sleeper(lambda _: 0.1), QUICK._replace(min_runs=1, min_duration_s=0.2, max_attempts=1), tmp_path
    )
    assert by_time["duration_s"] >= 0.2
    assert by_time["runs"] > 1
    by_runs = measure(Sleeper(lambda _: 1), QUICK._replace(min_duration_s=0.0, max_attempts=1), tmp_path)
    assert by_runs["runs"] == 20


def test_the_longest_duration_ends_it_before_the_least_runs(tmp_path):
    protocol = QUICK._replace(min_runs=10**6, max_duration_s=0.05, max_attempts=1)
    found = measure(Sleeper(lambda _: 1), protocol, tmp_path)
    assert 1 <= found["runs"] <= 60


def test_one_run_longer_than_the_longest_duration_is_still_measured(tmp_path):
    protocol = QUICK._replace(max_duration_s=0.001, warmup_max_s=0.0, max_attempts=1)
    found = measure(Sleeper(lambda _: 5), protocol, tmp_path)
    assert found["runs"] == 1
    assert found["latency_ms"]["p50"] >= 5


def test_an_unsteady_measurement_is_repeated_and_the_tries_counted(tmp_path):
    events = []
    grows = Sleeper(lambda calls: 0.2 + calls * 0.01)
    found = measure(grows, QUICK._replace(warmup_max_s=0.01), tmp_path, events.append)
    assert found["attempts"] == 3
    assert found["flags"] == ["unsteady"]
    assert found["steadiness"] > 0.05
    assert [event["phase"] for event in events].count("cooldown") == 2


def test_an_attempt_without_flags_is_reported_before_a_steadier_one_with():
    def attempt(flags, steadiness):
        return benchmark.Attempt([1], 1.0, steadiness, flags, {}, {}, {})

    plain, flagged = attempt((), 0.04), attempt(("throttled",), 0.01)
    assert benchmark.best_of([flagged, plain]) is plain
    assert benchmark.best_of([flagged, attempt(("unsteady",), 0.2)]) is flagged


def test_no_further_attempt_is_begun_that_the_workers_time_does_not_hold(tmp_path):
    grows = Sleeper(lambda calls: 0.2 + calls * 0.01)
    found = measure(grows, QUICK._replace(warmup_max_s=0.01, min_duration_s=0.2, timeout_s=0.3), tmp_path)
    assert found["attempts"] == 1
    assert found["flags"] == ["unsteady"]


def test_throttling_during_an_attempt_flags_it_although_it_was_over_before_the_end(tmp_path):
    _, firmware = board(tmp_path)
    looks = iter(["4", "0"])

    def tell(event):
        if event["phase"] == "measure":
            firmware.write_text(next(looks, "0"))

    protocol = QUICK._replace(min_duration_s=1.2, max_duration_s=3.0, max_attempts=1)
    found = measure(Sleeper(lambda _: 1), protocol, tmp_path, tell)
    assert "throttled" in found["flags"]
    assert found["during"]["throttled"] is True
    assert found["before"]["throttled"] is found["after"]["throttled"] is False


def test_a_board_that_stays_too_warm_is_measured_hot_and_says_so(tmp_path):
    temperature, _ = board(tmp_path, "71000")
    protocol = QUICK._replace(max_temperature_c=60.0, timeout_s=0.8, max_attempts=1)
    found = measure(Sleeper(lambda _: 0.5), protocol, tmp_path)
    assert "hot" in found["flags"]
    assert found["during"]["temperature_max_c"] == 71.0
    temperature.write_text("59000")
    assert "hot" not in measure(Sleeper(lambda _: 0.5), protocol, tmp_path)["flags"]


def test_a_cool_down_ends_when_it_is_cool_and_not_before_its_least_time(tmp_path):
    temperature, _ = board(tmp_path, "71000")
    sensors = ConditionSensors(0, tmp_path)

    def took(to_c, least_s, longest_s):
        begin = time.monotonic()
        benchmark.cool_down(sensors, to_c, least_s, longest_s)
        return time.monotonic() - begin

    assert took(60.0, 0.05, 0.2) >= 0.2
    assert 0.05 <= took(None, 0.05, 60.0) < 30
    cooling = threading.Timer(0.1, temperature.write_text, ("50000",))
    cooling.start()
    assert 0.1 <= took(60.0, 0.0, 60.0) < 30
    cooling.join()


def test_warming_up_lasts_half_a_second_at_least_and_ends_when_two_medians_agree():
    steady = Sleeper(lambda _: 0.02)
    begin = time.monotonic()
    timing.warm_up(steady.call, 60.0, lambda _: None)
    assert 0.5 <= time.monotonic() - begin < 30
    slow = Sleeper(lambda _: 300)
    timing.warm_up(slow.call, 60.0, lambda _: None)
    assert 2 <= slow.calls <= 20, "one inference is a window"


def test_the_cap_of_the_warm_up_is_exceeded_by_less_than_one_inference():
    restless = Sleeper(lambda calls: 1 + calls * 0.1)
    timing.warm_up(restless.call, 0.1, lambda _: None)
    assert restless.calls < 100
    slow = Sleeper(lambda _: 300)
    timing.warm_up(slow.call, 0.1, lambda _: None)
    assert slow.calls == 1
    timing.warm_up(slow.call, 0.0, lambda _: None)
    assert slow.calls == 1


def test_what_could_not_be_measured_is_none_with_a_reason(tmp_path):
    found = measure(Sleeper(lambda _: 0.1), QUICK._replace(energy=True), tmp_path)
    assert found["energy_mj"] is None
    assert found["energy_method"] == "unavailable: no power sensor found"
    assert "attach a power sensor" in found["missing"]["energy_mj"]
    assert found["energy"] is None
    assert found["operators"] is None
    own = ("slowed_share", "slowdown")  # needs no board that tells
    assert {value for name, value in found["during"].items() if name not in own} == {None}
    absent = ("energy_mj", "governor", "frequency_mhz", "temperature_c", "throttled", "operators")
    for name in (*absent, "during.others_share"):
        assert found["missing"][name]


ENERGY = QUICK._replace(
    energy=True, energy_windows=2, energy_window_s=0.1, idle_window_s=0.05, max_attempts=1
)


def test_energy_is_measured_after_the_latency_and_folded_in(tmp_path):
    supply, phases = Supply(), []
    found = measure(
        Sleeper(lambda _: 1), ENERGY, tmp_path, lambda event: phases.append(event["phase"]), (supply,)
    )
    assert found["energy_method"] == "hwmon:test"
    assert found["energy_mj"] == found["energy"]["gross_mj"] >= 2.0, "2000 mW for at least 1 ms"
    assert len(found["energy"]["windows"]) == 2
    assert found["energy"]["during"]["throttled"] is None
    assert "energy_mj" not in found["missing"]
    assert max(n for n, phase in enumerate(phases) if phase == "measure") < phases.index("energy")


def test_no_sensor_is_read_when_no_energy_was_asked_for(tmp_path):
    supply = Supply()
    found = measure(Sleeper(lambda _: 0.1), QUICK, tmp_path, power=(supply,))
    assert supply.readings == 0
    assert found["energy_mj"] is None
    assert found["energy_method"] == "unavailable: not asked for"


def test_an_estimating_sensor_is_used_only_where_that_is_allowed(tmp_path):
    guess = Supply(estimated=True)
    found = measure(Sleeper(lambda _: 0.1), ENERGY, tmp_path, power=(guess,))
    assert found["energy_method"].startswith("unavailable: only an estimate is possible")
    assert "energy_estimates" in found["missing"]["energy_mj"]
    allowed = ENERGY._replace(energy_estimates=True)
    assert measure(Sleeper(lambda _: 0.1), allowed, tmp_path, power=(guess,))["energy_mj"] > 0


def test_a_model_that_fails_while_it_runs_is_refused(tmp_path):
    def fail(_):
        raise ValueError("no such operator\nsecond line")

    with pytest.raises(RequestError) as caught:
        measure(Sleeper(fail), QUICK, tmp_path)
    assert caught.value.code == "model_refused"
    assert caught.value.message.endswith("no such operator")


def test_timed_runs_stop_at_the_count_and_at_the_time():
    samples = array("q")
    timing.timed_runs(lambda: None, samples, 7, time.perf_counter() + 60)
    assert len(samples) == 7
    timing.timed_runs(lambda: None, samples, 7, time.perf_counter() - 1)
    assert len(samples) == 8


def test_a_protocol_is_read_with_its_defaults():
    assert from_params({"min_runs": 3, "timeout_s": 5, "energy": True}) == MeasuringProtocol()._replace(
        min_runs=3, timeout_s=5, energy=True
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
        {"energy": 1},
        {"energy_windows": 0},
        {"more": 1},
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(values):
    with pytest.raises(RequestError) as caught:
        from_params(values)
    assert caught.value.code == "bad_request"


def test_the_host_reads_what_is_measured_and_older_records_too(tmp_path):
    from pydantic import TypeAdapter

    from pipeline.measurement import During, Measurement

    agents = {"file_sha256": "0" * 64, "file_bytes": 1, "runtime": "tflite", "threads": 1, "cores": [0]}
    found = {
        **measure(Sleeper(lambda _: 0.5), ENERGY._replace(operators=True), tmp_path, power=(Supply(),)),
        **agents,
        "runtime_version": "1",
        "model_peak_bytes": None,
    }
    found["cold_start"]["spawn_ms"] = 1.0
    read = TypeAdapter(Measurement).validate_json(json.dumps(found))
    assert read.energy.gross_mj == found["energy_mj"]
    assert read.spread_ms == found["spread_ms"]
    assert read.operators is None
    assert read.missing["operators"]
    new = ("spread_ms", "during", "operators", "energy")
    older = TypeAdapter(Measurement).validate_python({k: v for k, v in found.items() if k not in new})
    assert (older.spread_ms, older.during, older.operators, older.energy) == (None, During(), None, None)


def test_protocol_fields_are_those_of_the_host():
    from pipeline.measurement import MeasuringProtocol as OnHost

    assert vars(OnHost()) == MeasuringProtocol()._asdict()
