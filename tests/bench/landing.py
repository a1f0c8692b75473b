"""How near below a latency budget the default search lands on a device, and after how many measurements.

    python tests/bench/landing.py [--device local] [--runtime onnxruntime --runtime tflite] [--budget 0.5 --budget 0.65]
                                  [--threads 1]

ResNet-20 with random weights: table, dense model, then up to three rounds of ask, slim, convert, push, measure, tell.
Nothing is trained. Prints a Markdown table; a round is the measured share of the budget and, in brackets, by how much
the prediction before it was off.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from prediction_data import Bench, survey_of

from pipeline.device.registry import open_device
from pipeline.feedback import Corrected, Feedback
from pipeline.measurement import Measurement
from pipeline.profile import Limit
from pipeline.search.strategies import ExactFeedback, Seen, Start
from pipeline.survey import Survey

ROUNDS = 3


def main() -> None:
    """Search and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="local")
    parser.add_argument("--runtime", action="append", help="onnxruntime or tflite; may be given twice")
    parser.add_argument("--budget", action="append", type=float, help="share of the dense model's latency")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| runtime | budget | round 1 | round 2 | round 3 | lands at | ended because |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for runtime in options.runtime or ("onnxruntime", "tflite"):
        with tempfile.TemporaryDirectory() as folder, open_device(options.device) as device:
            bench = Bench(device, runtime, options.threads, Path(folder))
            ground, dense = survey_of(bench.timings()), bench.measure({})
            for share in options.budget or (0.5, 0.65, 0.8):
                print(
                    f"| {runtime} | {share:.0%} | " + " | ".join(_row(bench, ground, dense, share)) + " |",
                    flush=True,
                )


def _row(bench: Bench, ground: Survey, dense: Measurement, share: float) -> list[str]:
    limit = Limit("latency", share * dense.latency_ms.p50, "p50", f"{share:.0%}")
    feedback = Feedback().learn_from(ground, {}, dense)
    search = ExactFeedback(Start(Corrected(ground, (limit,), feedback), ROUNDS))
    cells, landed = [], 0.0
    while (proposal := search.ask()) is not None:
        seen = Seen(bench.measure(proposal.widths))
        off = proposal.predicted["latency"] / seen.measurement.latency_ms.p50 - 1
        used = seen.fullest((limit,))
        cells.append(f"{used:.1%} ({100 * off:+.1f} %)")
        landed = max(landed, used if used <= 1 else 0.0)
        search.tell(proposal, seen)
    return [*cells, *[""] * (ROUNDS - len(cells)), f"{landed:.1%}", search.why]


if __name__ == "__main__":
    main()
