"""Made-up but realistic summaries of runs: a ResNet-20, a small digits network, and runs that ended early."""

from __future__ import annotations

from dataclasses import replace

from pipeline.measurement import ColdStart, Conditions, Latency, Measurement
from pipeline.report import (
    AccuracyLine,
    AgreementLine,
    BudgetLine,
    BundleLine,
    Candidate,
    FixedLine,
    LayerLine,
    RunSummary,
    RuntimeLine,
    StepLine,
)

ZERO = ColdStart(spawn_ms=212.0, load_ms=18.3, first_inference_ms=1.9)
BOARD = {
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "soc": "BCM2711",
    "arch": "aarch64",
    "cores": 4,
    "memory_bytes": 3_978_000_000,
    "os": "Debian GNU/Linux 12",
    "python": "3.11.2",
    "libc": "glibc 2.36",
}


def measurement(
    p50: float, *, runs: int = 240, peak: int | None = 3_400_000, **changes: object
) -> Measurement:
    latency = Latency(
        p50=p50,
        p90=p50 * 1.04 if runs >= 64 else None,
        p95=p50 * 1.07 if runs >= 130 else None,
        p99=p50 * 1.2 if runs >= 662 else None,
        mean=p50 * 1.01,
        min=p50 * 0.97,
        max=p50 * 1.6,
    )
    least = {"p90": 64, "p95": 130, "p99": 662}
    refused = {f"latency_ms.{name}": f"needs {n} runs, had {runs}" for name, n in least.items() if runs < n}
    made = Measurement(
        file_sha256="9f2c" * 16,
        file_bytes=1_082_000,
        runtime="onnxruntime",
        runtime_version="1.23.2",
        threads=1,
        cores=(3,),
        runs=runs,
        duration_s=runs * p50 / 1000,
        attempts=1,
        latency_ms=latency,
        steadiness=0.012,
        cold_start=ZERO,
        process_peak_bytes=48_300_000,
        model_peak_bytes=peak,
        energy_mj=None,
        energy_method="unavailable: no power sensor found",
        before=Conditions("performance", 1500.0, 52.1, False, 0.31),
        after=Conditions("performance", 1500.0, 55.0, False, 0.88),
        missing={"energy_mj": "no power sensor found", **refused},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def candidate(name: str, stage: str, p50: float, validation: float | None, **changes: object) -> Candidate:
    made = measurement(p50)
    base = Candidate(
        name=name,
        stage=stage,  # type: ignore[arg-type]
        latency_ms=made.latency_ms,
        model_peak_mb=3.4,
        file_mb=1.082,
        validation_accuracy=validation,
        parameters=269_722,
        measurement=made,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def resnet_layers(depth: int = 20) -> tuple[LayerLine, ...]:
    blocks = (depth - 2) // 6
    lines = [LayerLine("conv1", "conv2d", 3, 16, 3, 16, 0.412, 0.412)]
    for stage, (width, kept) in enumerate(((16, 8), (32, 16), (64, 48)), start=1):
        for block in range(blocks):
            entry = width // 2 if block == 0 and stage > 1 else width
            name, cost = f"layer{stage}.{block}", 1.02 + 0.07 * stage
            thin = kept if block else width
            share = thin / width
            lines.append(LayerLine(f"{name}.conv1", "conv2d", entry, width, entry, thin, cost, cost * share))
            lines.append(
                LayerLine(f"{name}.conv2", "conv2d", width, width, thin, width, cost * 1.1, cost * share)
            )
    return (*lines, LayerLine("linear", "linear", 64, 10, 64, 10, 0.011, 0.011))


def met() -> RunSummary:
    baseline = candidate("baseline", "baseline", 14.21, 98.92, predicted_ms=13.72, accuracy=91.73)
    first = candidate("fit 1", "fit", 7.62, 11.4, predicted_ms=6.95, calibrated_ms=7.09, file_mb=0.402)
    second = candidate("fit 2", "fit", 6.71, 10.02, predicted_ms=6.43, calibrated_ms=6.80, file_mb=0.371)
    last = candidate(
        "recovered 1", "recovered", 6.74, 98.31, predicted_ms=6.43, calibrated_ms=6.71, file_mb=0.371,
        model_peak_mb=2.61, accuracy=91.41, parameters=91_300,
        measurement=measurement(6.74, runs=700, peak=2_610_000, attempts=2, flags=("unsteady",)),
    )  # fmt: skip
    return RunSummary(
        run="20250314-101502-resnet20",
        created="2025-03-14 10:15",
        status="met",
        message="all budgets met",
        task="cifar10_resnet20",
        device="kitchen-pi",
        profile="rpi4",
        runtime=RuntimeLine("onnxruntime", "1.23.2", 1),
        board=BOARD,
        budgets=(
            BudgetLine("latency", "ms", "p50", "50%", 7.105, 14.21, 6.74, True),
            BudgetLine("file", "MB", "p50", "0.5 MB", 0.5, 1.082, 0.371, True),
        ),
        accuracy=AccuracyLine(
            "at most 1.0 points below the baseline", 97.92, 98.92, 98.31, 91.73, 91.41, True,
            validation_seen_by_baseline=True,
        ),
        baseline=baseline,
        reached=last,
        candidates=(baseline, first, second, last),
        layers=resnet_layers(),
        fixed=(
            FixedLine("linear", "its outputs are the classes"),
            FixedLine("conv1", "its inputs are the image's colours"),
        ),
        device_measurements=4,
        table_entries=202,
        bundle=BundleLine("5b1d" * 16, "model.onnx", 3),
        agreement=AgreementLine(2.1e-6, 3.4e-5, 118.0, 64),
        steps=(
            StepLine("baseline: convert", 3.2), StepLine("baseline: measure", 9.1),
            StepLine("latency table", 81.4),
            StepLine("fit 1: allocate", 0.04), StepLine("fit 1: measure", 8.4),
            StepLine("recovered 1: train", 2471.0),
        ),
        notes=("The training images include the validation split of the given weights.",),
    )  # fmt: skip


def digits() -> RunSummary:
    baseline = candidate(
        "baseline", "baseline", 0.605, 98.6, predicted_ms=0.611, accuracy=98.33, file_mb=0.31
    )
    fit = candidate("fit 1", "fit", 0.288, 91.2, predicted_ms=0.281, calibrated_ms=0.278, file_mb=0.09)
    last = candidate(
        "recovered 1",
        "recovered",
        0.291,
        98.4,
        predicted_ms=0.281,
        calibrated_ms=0.288,
        accuracy=98.06,
        file_mb=0.09,
    )
    return replace(
        met(),
        task="digits",
        device="local",
        profile="local",
        budgets=(BudgetLine("latency", "ms", "p50", "50%", 0.3025, 0.605, 0.291, True),),
        accuracy=AccuracyLine("at most 1.0 points below the baseline", 97.6, 98.6, 98.4, 98.33, 98.06, True),
        baseline=baseline,
        reached=last,
        candidates=(baseline, fit, last),
        notes=(),
    )


def infeasible() -> RunSummary:
    full = met()
    nearest = candidate("fit 3", "fit", 5.43, 10.0, predicted_ms=5.01, calibrated_ms=5.40, file_mb=0.21)
    return replace(
        full,
        status="infeasible",
        message="the budgets can't be met: latency is in the way; nearest candidate 'fit 3'",
        budgets=(BudgetLine("latency", "ms", "p50", "3 ms", 3.0, 14.21, None, False),),
        accuracy=AccuracyLine("at most 1.0 points below the baseline", 97.92, 98.92),
        reached=None,
        nearest=nearest,
        candidates=(*full.candidates[:3], nearest),
        bundle=None,
        agreement=None,
    )


def inaccurate() -> RunSummary:
    full = met()
    assert full.accuracy is not None
    last = replace(full.candidates[-1], validation_accuracy=94.11, accuracy=None)
    return replace(
        full,
        status="infeasible",
        message="the budgets can't be met: accuracy is in the way",
        accuracy=replace(
            full.accuracy, reached_validation=94.11, met=False, baseline_test=None, reached_test=None
        ),
        reached=None,
        nearest=last,
        candidates=(*full.candidates[:3], last),
        bundle=None,
    )


def failed() -> RunSummary:
    return RunSummary(
        run="20250314-093000-digits",
        created="2025-03-14 09:30",
        status="failed",
        message="the agent on 'kitchen-pi' stopped while it measured 'baseline'",
        task="digits",
        device="kitchen-pi",
        profile="rpi4",
    )


def running() -> RunSummary:
    full = met()
    return replace(
        full, status="running", message="", reached=None, candidates=full.candidates[:2],
        accuracy=None, bundle=None, agreement=None, layers=(),
        budgets=(BudgetLine("latency", "ms", "p50", "50%", 7.105, 14.21),),
    )  # fmt: skip


def hostile() -> RunSummary:
    bad = "<script>alert('&$x_{')</script>\x00\u202e\ud800"
    full = met()
    return replace(
        full,
        task=bad,
        device=bad,
        message=bad,
        notes=(bad,),
        fixed=(FixedLine(bad, bad),),
        layers=(replace(full.layers[0], name=bad), LayerLine("$\\frac{", "<b>", 1, 4)),
        candidates=tuple(replace(each, name=bad) for each in full.candidates),
        steps=(StepLine(bad, 1.0),),
    )


SAMPLES = {each.__name__: each for each in (met, digits, infeasible, inaccurate, failed, running, hostile)}
