"""Profiles, budgets and their overrides."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ProfileError
from pipeline.measurement import ColdStart, Conditions, Latency, Measurement, MeasuringProtocol
from pipeline.profile import (
    AccuracyFloor,
    Budget,
    DeviceProfile,
    load_profile,
    parse_accuracy,
    parse_also,
    parse_budget,
    reached,
    with_overrides,
)
from pipeline.profile_file import MeasuringTable
from pipeline.resources import shipped_names
from pipeline.variant import Variant

CALM = Conditions(None, None, None, None, None)
MEASUREMENT = Measurement(
    file_sha256="0" * 64,
    file_bytes=2_000_000,
    runtime="onnxruntime",
    runtime_version="1",
    threads=1,
    cores=(0,),
    runs=200,
    duration_s=2.0,
    attempts=1,
    latency_ms=Latency(p50=10.0, p90=12.0, p95=None, p99=None, mean=10.5, min=9.0, max=20.0),
    steadiness=0.01,
    cold_start=ColdStart(1.0, 2.0, 3.0),
    process_peak_bytes=50_000_000,
    model_peak_bytes=8_000_000,
    energy_mj=None,
    energy_method="unavailable",
    before=CALM,
    after=CALM,
    missing={"energy_mj": "no power sensor"},
)
MINIMAL = """
[board]
model = "a board"
cores = 4
memory_mb = 512
{board}
[runtime]
{runtime}
[budgets]
{budgets}
[accuracy]
{accuracy}
[measuring]
{measuring}
"""


def write(tmp_path: Path, *, accuracy: str = "max_drop = 1.0", **tables: str) -> Path:
    path = tmp_path / "mine.toml"
    empty = dict.fromkeys(("board", "runtime", "budgets", "measuring"), "")
    path.write_text(MINIMAL.format(**{**empty, **tables}, accuracy=accuracy))
    return path


def load(path: Path) -> DeviceProfile:
    return load_profile(str(path))


def fault(path: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        load(path)
    return caught.value.message


@pytest.mark.parametrize("name", ["local", "rpi3", "rpi4", "rpi5", "zero2w"])
def test_shipped_profiles_hold_only_relative_budgets_and_no_energy(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.budgets
    assert all(budget.limit is None and budget.resource != "energy" for budget in profile.budgets)
    assert profile.accuracy.max_drop == 1.0


def test_every_shipped_profile_is_tested() -> None:
    assert shipped_names("profiles") == ("local", "rpi3", "rpi4", "rpi5", "zero2w")


def test_a_profile_file_is_read_whole(tmp_path: Path) -> None:
    profile = load(
        write(
            tmp_path,
            board='power_sensor = "hwmon:ina226"',
            runtime='name = "tflite"\nthreads = 2\nalso = ["onnxruntime:4", "tflite:2:fp16", "onnxruntime:4"]',
            budgets="""
                latency_ms = 12.0
                latency_percentile = "p90"
                model_peak = "120%"
                file_mb = 1
                energy = "60%"
            """,
            accuracy="floor = 91.0",
            measuring="min_runs = 64",
        )
    )
    assert profile.name == "mine"
    assert (profile.runtime, profile.threads) == ("tflite", 2)
    assert profile.also == (Variant("onnxruntime", 4), Variant("tflite", 2, "fp16"))
    assert profile.board["power_sensor"] == "hwmon:ina226"
    assert profile.budgets == (
        Budget("latency", 12.0, None, "p90", "12 ms"),
        Budget("model_peak", None, 1.2, "p50", "120%"),
        Budget("file", 1.0, None, "p50", "1 MB"),
        Budget("energy", None, 0.6, "p50", "60%"),
    )
    assert profile.accuracy == AccuracyFloor(None, 91.0)
    assert profile.measuring == MeasuringProtocol(min_runs=64, energy=True)  # for there is a budget of energy


@pytest.mark.parametrize("share", ["50%%", "0%", "-5%", "101%", "50", "20 ms", "", "NaN%", "1e2%"])
def test_an_impossible_share_is_refused(tmp_path: Path, share: str) -> None:
    text = fault(write(tmp_path, budgets=f'latency = "{share}"'))
    assert f'mine.toml: budgets.latency: found "{share}"; allowed: a share such as "50%"' in text


@pytest.mark.parametrize("value", ["-3", "0", "nan", "inf", "true", '"12"'])
def test_an_impossible_absolute_budget_is_refused(tmp_path: Path, value: str) -> None:
    assert "budgets.latency_ms: found" in fault(write(tmp_path, budgets=f"latency_ms = {value}"))


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"budgets": 'latncy = "50%"'}, 'budgets.latncy: unknown key; did you mean "latency"?'),
        (
            {"budgets": 'latency = "50%"\nlatency_ms = 3'},
            "found both latency and latency_ms; allowed: one of them",
        ),
        ({"budgets": 'latency_percentile = "p80"'}, 'found "p80"; allowed: "p50", "p90", "p95" or "p99"'),
        ({"budgets": "model_peak_mb = 600"}, "budgets.model_peak_mb: found 600; allowed: up to 512"),
        ({"budgets": "energy_mj = 3"}, "budgets.energy_mj: found 3 on a board without a power sensor"),
        ({"runtime": 'name = "onnx"'}, 'runtime.name: found "onnx"; allowed: "onnxruntime" or "tflite"'),
        ({"runtime": "threads = 5"}, "runtime.threads: found 5; allowed: 1 to 4"),
        ({"runtime": 'storage = "half"'}, 'runtime.storage: found "half"; allowed: "fp32", or "fp16"'),
        ({"runtime": 'also = ["tflite:5"]'}, 'runtime.also: found "tflite:5"; allowed: 1 to 4 threads'),
        (
            {"runtime": 'also = ["onnx"]'},
            'allowed: a list of variants to choose from by measurement, each "RUNTIME"',
        ),
        ({"accuracy": "floor = 0.91"}, "accuracy.floor: found 0.91; allowed: percent from 1 to 100"),
        ({"accuracy": "floor = 91\nmax_drop = 1"}, "found both max_drop and floor; allowed: exactly one"),
        ({"accuracy": ""}, "found neither max_drop nor floor; allowed: exactly one"),
        ({"measuring": "min_duration_s = 90"}, "measuring.min_duration_s: found 90; allowed: no more than"),
    ],
)
def test_a_fault_names_key_found_and_allowed(tmp_path: Path, tables: dict[str, str], expected: str) -> None:
    assert expected in fault(write(tmp_path, **tables))


def test_an_energy_budget_without_sensor_says_what_to_attach(tmp_path: Path) -> None:
    assert "INA226" in fault(write(tmp_path, budgets='energy = "50%"'))


def test_all_faults_of_a_profile_come_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, runtime="threads = 0", budgets='latency = "x"\nfile_mb = -1', accuracy="max_drop = -1"
    )
    assert len(fault(path).splitlines()) == 4


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("rpi44")
    assert 'unknown profile "rpi44"' in str(caught.value)
    assert 'did you mean "rpi4"' in str(caught.value)
    assert "zero2w" in caught.value.hint


def test_a_missing_profile_file_is_named() -> None:
    with pytest.raises(ProfileError, match=r"profile no/such\.toml: no such file"):
        load_profile("no/such.toml")


def test_the_measuring_table_has_the_protocols_fields_and_defaults() -> None:
    assert MeasuringTable().model_dump() == dataclasses.asdict(MeasuringProtocol())


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency=20ms", Budget("latency", 20.0, None, "p50", "20ms")),
        ("latency = 0.02 s", Budget("latency", 20.0, None, "p50", "0.02 s")),
        ("latency=50%", Budget("latency", None, 0.5, "p50", "50%")),
        ("latency=p90:20ms", Budget("latency", 20.0, None, "p90", "20ms")),
        ("latency=p99:70%", Budget("latency", None, 0.7, "p99", "70%")),
        ("model_peak=8MB", Budget("model_peak", 8.0, None, "p50", "8MB")),
        ("file=500kB", Budget("file", 0.5, None, "p50", "500kB")),
        ("energy=3mJ", Budget("energy", 3.0, None, "p50", "3mJ")),
    ],
)
def test_a_budget_flag_is_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latncy=20ms", 'unknown resource "latncy"; did you mean "latency"?'),
        ("latency=20", 'found "20"; allowed: latency=20ms'),
        ("latency=50%%", 'found "50%%"'),
        ("latency=150%", 'found "150%"; allowed: a share'),
        ("latency=-3ms", 'found "-3ms"'),
        ("latency=0ms", "a number above 0"),
        ("latency=20MB", 'found "20MB"'),
        ("latency=p42:20ms", 'found "p42:20ms"'),
        ("file=p90:2MB", 'found "p90:2MB"'),
        ("latency", 'found ""'),
        ("", 'unknown resource ""'),
    ],
)
def test_a_bad_budget_flag_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_budget(text)
    assert expected in caught.value.message


def test_reached_gives_the_budgets_units() -> None:
    assert reached("latency", MEASUREMENT) == 10.0
    assert reached("latency", MEASUREMENT, "p90") == 12.0
    assert reached("model_peak", MEASUREMENT) == 8.0
    assert reached("file", MEASUREMENT) == 2.0
    assert reached("energy", MEASUREMENT) is None


def test_a_share_is_resolved_against_the_measured_baseline() -> None:
    limit = parse_budget("latency=p90:50%").resolve(MEASUREMENT)
    assert (limit.value, limit.percentile, limit.stated) == (6.0, "p90", "50%")
    assert parse_budget("file=80%").resolve(MEASUREMENT).value == pytest.approx(1.6)
    assert parse_budget("model_peak=8MB").resolve(MEASUREMENT).value == 8.0


@pytest.mark.parametrize(
    ("text", "reason"), [("energy=50%", "no power sensor"), ("latency=p99:50%", "too few runs")]
)
def test_a_share_of_what_was_not_measured_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ProfileError, match=reason):
        parse_budget(text).resolve(MEASUREMENT)


def test_the_accuracy_rule_is_resolved_and_told() -> None:
    assert AccuracyFloor(1.5, None).resolve(91.73) == pytest.approx(90.23)
    assert AccuracyFloor(None, 91.0).resolve(99.0) == 91.0
    assert AccuracyFloor(1.0, None).stated == "at most 1.0 points below the baseline"
    assert AccuracyFloor(None, 91.0).stated == "at least 91 %"


def test_an_accuracy_flag_is_read_or_refused() -> None:
    assert parse_accuracy(None, None) is None
    assert parse_accuracy(2.0, None) == AccuracyFloor(2.0, None)
    assert parse_accuracy(None, 91.0) == AccuracyFloor(None, 91.0)
    with pytest.raises(ProfileError, match="exactly one of them"):
        parse_accuracy(1.0, 91.0)
    with pytest.raises(ProfileError, match=r"found 0\.9; allowed: percent from 1 to 100"):
        parse_accuracy(None, 0.9)


def test_flags_replace_the_profiles_budget_on_the_same_resource() -> None:
    profile = with_overrides(
        load_profile("rpi4"), [parse_budget("latency=20ms"), parse_budget("file=1MB")], "tflite", 2
    )
    assert [(budget.resource, budget.limit) for budget in profile.budgets] == [
        ("latency", 20.0),
        ("file", 1.0),
    ]
    assert (profile.runtime, profile.threads) == ("tflite", 2)
    assert with_overrides(profile, [], None, None) == profile


@pytest.mark.parametrize(
    ("budgets", "runtime", "threads", "expected"),
    [
        (["latency=1ms", "latency=2ms"], None, None, "two budgets"),
        (["energy=3mJ"], None, None, "no power sensor"),
        ([], "onnx", None, "unknown runtime"),
        ([], None, 5, "allowed: 1 to 4 on rpi4"),
        ([], None, 0, "allowed: 1 to 4 on rpi4"),
    ],
)
def test_impossible_overrides_are_refused(
    budgets: list[str], runtime: str | None, threads: int | None, expected: str
) -> None:
    with pytest.raises(ProfileError, match=expected):
        with_overrides(load_profile("rpi4"), [parse_budget(text) for text in budgets], runtime, threads)


def test_variants_are_read_and_told() -> None:
    profile = load_profile("rpi4")
    assert parse_also("tflite", profile) == Variant("tflite", 1)
    assert str(parse_also("onnxruntime:4:fp16", profile)) == "onnxruntime, 4 threads, fp16 weights"
    assert profile.running(Variant("tflite", 2)).variant == Variant("tflite", 2)
    given = with_overrides(profile, [], None, None, also=[Variant("tflite", 1)])
    assert (given.variant, given.also) == (profile.variant, (Variant("tflite", 1),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "onnx",
        "tflite:",
        "tflite:0",
        "tflite:x",
        "tflite:-1",
        "tflite:1:int4",
        "tflite:1:fp16:2",
        "tflite:257",
        "tflite:٣",
    ],
)
def test_what_is_no_variant_is_refused(text: str) -> None:
    with pytest.raises(ProfileError, match="RUNTIME:THREADS"):
        parse_also(text, load_profile("rpi4"))


def test_more_threads_than_cores_are_refused_for_a_variant_too() -> None:
    with pytest.raises(ProfileError, match="allowed: 1 to 4 on rpi4"):
        parse_also("tflite:5", load_profile("rpi4"))


def test_the_pi_5_takes_an_energy_budget() -> None:
    profile = with_overrides(load_profile("rpi5"), [parse_budget("energy=60%")], None, None)
    assert profile.budgets[-1].resource == "energy"


def test_profiles_and_tasks_are_read_without_torch() -> None:
    code = "import sys, pipeline.profile, pipeline.task; pipeline.task.load_task('digits'); "
    code += "pipeline.profile.load_profile('local'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
