"""What measurements teach: the corrected prediction goes through what was measured, and budgets become limits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent / "search"))

from small_graphs import joined, macs
from synthetic_device import MEASURED, WIDTHS, SyntheticDevice, stairs

from pipeline.feedback import Corrected, Feedback
from pipeline.graph import trace
from pipeline.measurement import Measurement, OperatorTime
from pipeline.profile import Limit
from pipeline.search import LatencyTable, TimedShape, candidate_widths, table_shapes
from pipeline.search.terms import REST, family, operator_parts, terms_of, untimed
from pipeline.survey import Survey

HALF = {name: choices[len(choices) // 2] for name, choices in WIDTHS.items()}
QUARTER = {name: choices[len(choices) // 4] for name, choices in WIDTHS.items()}


def learnt(device: SyntheticDevice, *plans: dict[str, int]) -> Feedback:
    feedback, ground = Feedback(), device.survey()
    for widths in plans:
        feedback = feedback.learn_from(ground, widths, device.measure(widths).measurement)
    return feedback


def error(device: SyntheticDevice, feedback: Feedback, widths: dict[str, int]) -> float:
    return abs(feedback.predict_ms(device.survey(), widths) / device.exact_ms(widths) - 1)


def test_before_any_measurement_the_table_alone_is_believed() -> None:
    ground = SyntheticDevice().survey()
    assert Feedback().predict_ms(ground, HALF) == pytest.approx(ground.table_ms(HALF))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    constant=st.floats(0.0, 2.0),
    factor=st.floats(0.1, 5.0),
    table_error=st.floats(0.0, 0.3),
    plans=st.lists(st.sampled_from([{}, HALF, QUARTER]), min_size=1, max_size=4),
)
def test_the_prediction_is_exact_where_it_was_measured_last(
    constant: float, factor: float, table_error: float, plans: list[dict[str, int]]
) -> None:
    device = SyntheticDevice(stairs, constant, factor, table_error)
    feedback = learnt(device, {}, *plans)
    assert error(device, feedback, plans[-1]) < 1e-3
    terms = feedback.correction.learnt
    assert terms.constant_ms >= 0
    assert terms.ms_per_byte >= 0
    assert all(each > 0 for each in (*terms.families.values(), *terms.shapes.values()))


def slowed(device: SyntheticDevice, widths: dict[str, int], p50: float) -> Measurement:
    """What a processor measures that its yardstick finds twice as slow as at full pace."""
    found = device.measure(widths).measurement
    during = replace(found.during, slowed_share=1.0, slowdown=2.0)
    return replace(found, latency_ms=replace(found.latency_ms, p50=p50), flags=("slowed",), during=during)


@pytest.mark.parametrize(("times", "believed"), [(0.9, 0.9), (1.5, 1.0), (3.0, 1.5)])
def test_what_a_slowed_processor_explains_is_not_learnt(times: float, believed: float) -> None:
    device = SyntheticDevice()
    feedback, ground = learnt(device, {}), device.survey()
    expected = feedback.predict_ms(ground, HALF)
    wiser = feedback.learn_from(ground, HALF, slowed(device, HALF, times * expected))
    assert wiser.predict_ms(ground, HALF) == pytest.approx(believed * expected)


def test_a_processor_that_is_slowed_twice_in_a_row_is_taken_as_it_is() -> None:
    device = SyntheticDevice()
    feedback, ground = learnt(device, {}), device.survey()
    for widths in (HALF, QUARTER):
        feedback = feedback.learn_from(ground, widths, slowed(device, widths, 10.0))
    assert feedback.predict_ms(ground, QUARTER) == pytest.approx(10.0)


def test_a_processor_that_was_slowed_from_the_first_is_taken_as_it_is() -> None:
    device = SyntheticDevice()
    feedback, ground = Feedback(), device.survey()
    for widths in ({}, HALF):
        feedback = feedback.learn_from(ground, widths, slowed(device, widths, 10.0))
        assert feedback.predict_ms(ground, widths) == pytest.approx(10.0)


def test_a_constant_that_the_table_lacks_is_not_taken_for_a_factor() -> None:
    device = SyntheticDevice(constant=0.2)
    feedback = learnt(device, {})
    scaled = device.exact_ms({}) / device.survey().table_ms({}) * device.survey().table_ms(QUARTER)
    assert error(device, feedback, QUARTER) < 0.3 * abs(scaled / device.exact_ms(QUARTER) - 1)


def test_a_second_measurement_tells_constant_and_factor_apart() -> None:
    device = SyntheticDevice(constant=0.15, factor=1.1)
    once, twice = learnt(device, {}), learnt(device, {}, QUARTER)
    assert error(device, twice, HALF) < min(0.005, error(device, once, HALF))


def test_a_table_that_says_too_much_is_scaled_down_and_no_constant_is_taken_away() -> None:
    device = SyntheticDevice(constant=0.0, factor=0.9)
    feedback = learnt(device, {})
    assert feedback.correction.learnt.constant_ms == 0
    assert error(device, feedback, QUARTER) < 0.02


def test_two_near_measurements_do_not_make_a_line_of_noise() -> None:
    device = SyntheticDevice(constant=0.0, noise=0.02)
    near = {**HALF, "inner1.0": WIDTHS["inner1.0"][-1]}
    feedback = learnt(device, {}, HALF, near)
    assert error(device, feedback, QUARTER) < 0.05


def test_the_problem_costs_what_the_correction_predicts() -> None:
    device = SyntheticDevice(stairs, constant=0.1, power_w=2.5)
    feedback = learnt(device, {}, HALF)
    problem = feedback.problem(device.survey(), [])
    choice = {name: problem.widths[name].index(width) for name, width in QUARTER.items()}
    predicted = problem.predicted(choice)
    assert predicted["latency"] == pytest.approx(feedback.predict_ms(device.survey(), QUARTER))
    assert predicted["energy"] == pytest.approx(2.5 * predicted["latency"])
    assert predicted["file"] == pytest.approx(device.survey().file_bytes(QUARTER) + 20_000, abs=2)
    assert predicted["model_peak"] == pytest.approx(device.survey().peak_bytes(QUARTER) + 300_000, abs=2)


def test_the_problem_is_exact_behind_a_concatenation_too() -> None:
    graph = joined()
    widths = candidate_widths(graph)
    timed = tuple(TimedShape(shape, 0.01 + macs(shape)) for shape in table_shapes(graph, widths))
    rises = {name: -np.array(choices) / 100 for name, choices in widths.items()}
    ground = Survey(graph, {}, widths, rises, LatencyTable(timed, 0.002))
    chosen = {name: choices[len(choices) // 2] for name, choices in widths.items()}
    feedback = Feedback()
    for plan, ms in (({}, 0.5), (chosen, 0.41)):
        latency = replace(MEASURED.latency_ms, p50=ms)
        feedback = feedback.learn_from(ground, plan, replace(MEASURED, latency_ms=latency))
    choice = {name: widths[name].index(width) for name, width in chosen.items()}
    assert feedback.problem(ground, []).predicted(choice)["latency"] == pytest.approx(0.41)


def test_operators_tell_what_the_table_lacks() -> None:
    ground = SyntheticDevice().survey()
    parts = operator_parts(
        ground.graph, ground.table, {}, operators(ground, 0.8, rest_ms=0.3), _sum(ground, 0.8, 0.3)
    )
    assert parts is not None
    assert parts[REST] == pytest.approx(0.3)
    for name in set(parts) - {REST}:
        shapes = terms_of(ground.graph, ground.table, {}).shape_ms.items()
        assert parts[name] == pytest.approx(0.8 * sum(ms for shape, ms in shapes if family(shape) == name))


def test_the_profilers_own_cost_is_taken_from_every_operator_alike() -> None:
    ground = SyntheticDevice().survey()
    slowed = operators(ground, 1.0, rest_ms=0.3, overhead_ms=0.01)
    parts = operator_parts(ground.graph, ground.table, {}, slowed, _sum(ground, 1.0, 0.3))
    assert parts is not None
    assert parts[REST] == pytest.approx(0.3)


@pytest.mark.parametrize("change", [lambda rows: rows[2:], lambda _: (), lambda rows: (*rows, rows[0])])
def test_operators_that_do_not_match_the_layers_are_left_aside(change) -> None:
    ground = SyntheticDevice().survey()
    rows = change(operators(ground, 1.0, rest_ms=0.3))
    assert operator_parts(ground.graph, ground.table, {}, rows, 1.0) is None


def test_shortcuts_that_became_convolutions_are_no_layers() -> None:
    graph = trace(PaddedBlock().eval(), torch.zeros(1, 3, 8, 8))
    widths = {group.name: (group.width,) for group in graph.groups}
    timed = tuple(TimedShape(shape, 0.01 + macs(shape)) for shape in table_shapes(graph, widths))
    ground = Survey(graph, {}, widths, {}, LatencyTable(timed, 0.002))
    rows = operators(ground, 1.0, rest_ms=0.1, shortcuts=1)
    parts = operator_parts(graph, ground.table, {}, rows, _sum(ground, 1.0, 0.1) + 1e-4)
    assert parts is not None
    assert parts[REST] == pytest.approx(0.1 + 1e-4)
    two = operators(ground, 1.0, rest_ms=0.1, shortcuts=2)
    assert operator_parts(graph, ground.table, {}, two, _sum(ground, 1.0, 0.1) + 2e-4) is None


def test_one_measurement_with_operators_tells_factor_and_rest_apart() -> None:
    device = SyntheticDevice(constant=0.2, factor=0.8)
    ground, whole = device.survey(), device.measure({}).measurement
    rest = device.exact_ms({}) - 0.8 * (ground.table_ms({}) - ground.table.empty_ms)
    told = replace(whole, operators=operators(ground, 0.8, rest_ms=rest))
    with_operators = Feedback().learn_from(ground, {}, told)
    without = Feedback().learn_from(ground, {}, whole)
    assert error(device, with_operators, QUARTER) < 0.3 * error(device, without, QUARTER)


def test_limits_keep_a_margin() -> None:
    device = SyntheticDevice(noise=0.0)
    feedback = learnt(device, {})
    limits = feedback.predicted_limits([Limit("latency", 0.75, "p50", "50%")])
    assert limits == {"latency": pytest.approx(0.75 * 0.99)}
    spread = Feedback().learn_from(device.survey(), {}, replace(MEASURED, steadiness=0.04))
    assert spread.predicted_limits([Limit("latency", 0.75, "p50", "")])["latency"] == pytest.approx(
        0.75 * 0.98
    )


def test_a_percentile_is_reached_through_the_measured_ratio() -> None:
    feedback = learnt(SyntheticDevice(), {})
    limits = feedback.predicted_limits([Limit("latency", 1.2, "p90", "1.2 ms")])
    assert limits["latency"] == pytest.approx(1.0 * 0.99)


def test_energy_is_latency_at_the_power_measured_last() -> None:
    device = SyntheticDevice(power_w=3.0)
    feedback = learnt(device, {})
    assert feedback.power_w == pytest.approx(3.0)
    limits = [Limit("energy", 6.0, "p50", "6 mJ"), Limit("latency", 1.0, "p50", "1 ms")]
    assert feedback.predicted_limits(limits) == {
        "energy": pytest.approx(5.94),
        "latency": pytest.approx(0.99),
    }
    device.power_w = 2.0
    assert feedback.learn_from(
        device.survey(), HALF, device.measure(HALF).measurement
    ).power_w == pytest.approx(2.0)


def test_energy_that_was_never_measured_limits_nothing() -> None:
    feedback = learnt(SyntheticDevice(), {})
    assert feedback.predicted_limits([Limit("energy", 6.0, "p50", "6 mJ")]) == {}
    assert "energy" not in feedback.problem(SyntheticDevice().survey(), []).predicted(
        dict.fromkeys(WIDTHS, 0)
    )


def test_memory_and_file_limits_are_in_bytes() -> None:
    limits = Feedback().predicted_limits(
        [Limit("model_peak", 11.5, "p50", ""), Limit("file", 0.75, "p50", "")]
    )
    assert limits == {"model_peak": pytest.approx(11_500_000), "file": pytest.approx(750_000)}


def test_caution_doubles_the_margin_up_to_a_bound() -> None:
    feedback = Feedback(margin=0.02)
    assert feedback.cautious().margin == 0.04
    assert feedback.cautious().cautious().cautious().margin == 0.06


def test_an_outlook_learns_without_changing() -> None:
    device = SyntheticDevice(constant=0.1)
    outlook = device.outlook(latency=0.5)
    wiser = outlook.learn(HALF, device.measure(HALF))
    assert isinstance(wiser, Corrected)
    assert len(wiser.feedback.correction.points) == len(outlook.feedback.correction.points) + 1


def test_bytes_are_counted_where_the_table_times_nothing() -> None:
    import torch
    from torch import nn

    from pipeline.graph import trace

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.body = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(self.body(x) + x)
            return self.head(torch.nn.functional.max_pool2d(x, 8).flatten(1))

    graph = trace(Net().eval(), torch.zeros(1, 3, 8, 8))
    steps = {step.step.rstrip("_0123456789") for step in untimed(graph)}
    assert "add" in steps
    assert any("pool" in step for step in steps)
    assert not steps & {"conv2d", "batch_norm", "relu", "linear"}


class PaddedBlock(nn.Module):
    """A convolution, then one beside a shortcut without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wider = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.wider(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


def operators(
    ground, factor: float, *, rest_ms: float, overhead_ms: float = 0.0, shortcuts: int = 0
) -> tuple[OperatorTime, ...]:
    """What a profiler would tell of the dense model: its layers in another order, and three other operators.

    `shortcuts` convolutions that are no layers take 0.0001 ms each.
    """
    layers = {layer.name: layer for layer in ground.graph.layers}
    times = [
        (name, "Conv" if layers[name].kind == "conv2d" else "Gemm", factor * ms)
        for name, ms in ground.table.layer_ms(ground.graph, {}).items()
    ]
    times = [
        *((f"shortcut {number}", "Conv", 1e-4) for number in range(shortcuts)),
        *reversed(times),
        ("add", "Add", rest_ms / 2),
        ("pad", "Pad", rest_ms / 4),
        ("pool", "Pool", rest_ms / 4),
    ]
    spent = np.array([ms + overhead_ms for _, _, ms in times])
    return tuple(
        OperatorTime(name, kind, 100, float(ms), float(ms / spent.sum()))
        for (name, kind, _), ms in zip(times, spent, strict=True)
    )


def _sum(ground, factor: float, rest_ms: float) -> float:
    return factor * sum(ground.table.layer_ms(ground.graph, {}).values()) + rest_ms
