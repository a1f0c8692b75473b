"""How well the latency of a slimmed model is predicted: by the table alone, after the dense model, after one more.

    python tests/bench/prediction.py [--device local] [--runtime onnxruntime --runtime tflite] [--plans 8] [--threads 1]
                                     [--save FILE | --load FILE]

ResNet-20 with random weights, the device's table of its layers, and random widths (blocks dropped, too), each measured
as a whole. "Line" is what feedback did before: a factor after one measurement, a straight line through two. "Causes"
is `pipeline/search/correction.py`. "After one more" is over all choices of that one. Prints a Markdown table: median
(largest) error in percent of the measured latency.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from prediction_data import Bench, collect, read

from pipeline.device.registry import open_device
from pipeline.feedback import Feedback
from pipeline.measurement import Measurement
from pipeline.survey import Survey

FAR_APART = 0.1  # of the table time: through nearer points the line was not drawn

Models = Sequence[tuple[dict[str, int], Measurement]]
Predict = Callable[[Survey, Models, dict[str, int]], float]


def main() -> None:
    """Measure, or read what was measured, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="local")
    parser.add_argument("--runtime", action="append", help="onnxruntime or tflite; may be given twice")
    parser.add_argument("--plans", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    options = parser.parse_args()
    if options.load:
        found = json.loads(options.load.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder, open_device(options.device) as device:
            found = {
                runtime: collect(
                    Bench(device, runtime, options.threads, Path(folder)), options.plans, options.seed
                )
                for runtime in options.runtime or ("onnxruntime", "tflite")
            }
    if options.save:
        options.save.write_text(json.dumps(found))
    print("| runtime | table alone | after the dense model: line | causes | after one more: line | causes |")
    print("|---|---:|---:|---:|---:|---:|")
    for runtime, data in found.items():
        ground, models = read(data)
        print("| " + " | ".join((runtime, *_errors(ground, models))) + " |")
        if models[0][1].operators:
            plain = [(widths, replace(made, operators=None)) for widths, made in models]
            print("| " + " | ".join((f"{runtime}, operators not looked at", *_errors(ground, plain))) + " |")


def _errors(ground: Survey, models: Models) -> list[str]:
    dense, others = models[0], models[1:]
    columns = [_error(_table, ground, [()], others)]
    once, twice = [(dense,)], [(dense, more) for more in others]
    for learnt in (once, twice):
        columns += [_error(predict, ground, learnt, others) for predict in (_line, _causes)]
    return columns


def _error(predict: Predict, ground: Survey, learnt: Sequence[Models], models: Models) -> str:
    """Return the error over all models that were not learnt from, for all that could be learnt from."""
    errors = [
        100 * abs(predict(ground, known, widths) / made.latency_ms.p50 - 1)
        for known in learnt
        for widths, made in models
        if all(widths != each for each, _ in known)
    ]
    return f"{statistics.median(errors):.2f} ({max(errors):.2f})"


def _table(ground: Survey, known: Models, widths: dict[str, int]) -> float:
    del known
    return ground.table_ms(widths)


def _line(ground: Survey, known: Models, widths: dict[str, int]) -> float:
    first, last = ((ground.table_ms(each), made.latency_ms.p50) for each, made in (known[0], known[-1]))
    run, rise = last[0] - first[0], last[1] - first[1]
    if abs(run) > FAR_APART * first[0] and rise / run > 0:
        return last[1] + rise / run * (ground.table_ms(widths) - last[0])
    return last[1] / last[0] * ground.table_ms(widths)


def _causes(ground: Survey, known: Models, widths: dict[str, int]) -> float:
    feedback = Feedback()
    for each, made in known:
        feedback = feedback.learn_from(ground, each, made)
    return feedback.predict_ms(ground, widths)


if __name__ == "__main__":
    main()
