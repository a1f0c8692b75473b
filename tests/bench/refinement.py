"""What groups lose together: loss and accuracy of a plan, before any training, as its curves are taken anew around it.

    python tests/bench/refinement.py --folder DIR [--model resnet56] [--share 50] [--reach 1 2 4] [--rounds 3]

DIR is a folder in which `accuracy.py fit` has fitted the model: the whole model's measurement and the device's table
are taken from there, no device is asked. For each reach (candidate widths that a group may step at once) the rounds
start from the plan that the curves of single groups lead to. Prints Markdown: latency is predicted, the loss is that on
the calibration images, which the steps are judged by; accuracy is on the test set, which nothing else here looks at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from pipeline.cli.progress import Terminal
from pipeline.deploy import measure_baseline
from pipeline.device.registry import find_device
from pipeline.feedback import Corrected, Feedback
from pipeline.profile import Limit, load_profile
from pipeline.recover import accuracy
from pipeline.search import MilpAllocator, Problem, Refined, kept_indices, refine
from pipeline.store import Store
from pipeline.survey import loss_at, study, survey
from pipeline.task import load_task
from pipeline.watch import Advance
from pipeline.workshop import Workshop


def main() -> None:
    """Refine with each reach and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="resnet56", choices=["resnet20", "resnet56"])
    parser.add_argument("--share", type=int, default=50, help="per cent of the dense model's latency")
    parser.add_argument("--reach", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = json.loads((options.folder / "runs.json").read_text())[options.model]
    run = Store(options.folder / "store").open(made["run"])
    try:
        profile = load_profile(find_device("local" if made["device"] == "replay" else made["device"]).profile)
        watch = Terminal(Console(stderr=True, highlight=False))
        shop = Workshop(run, load_task(f"cifar10_{options.model}.toml"), profile, None, watch)  # type: ignore[arg-type]
        bench = Bench(shop, options.share)
        print(
            "| reach | round | losses taken | seconds | latency, ms | loss | test accuracy, % | whole groups gone |"
        )
        print("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for reach in options.reach:
            bench.rounds(reach, options.rounds)
    finally:
        run.close()


class Bench:
    """A model at a share of its latency."""

    def __init__(self, shop: Workshop, share: int) -> None:
        self.shop = shop
        baseline = measure_baseline(shop)
        self.start = baseline.built
        self.ground = survey(shop, study(shop, self.start), self.start)
        limit = Limit("latency", share / 100 * baseline.measurement.latency_ms.p50, "p50", f"{share}%")
        feedback = Feedback().learn(self.ground, baseline)
        self.problem: Problem = Corrected(self.ground, (limit,), feedback).problem()
        self.taken = 0

    def loss(self, widths: Mapping[str, int]) -> float:
        self.taken += 1
        return loss_at(self.shop, self.ground, self.start, widths)

    def rounds(self, reach: int, rounds: int) -> None:
        """Print a line for the first plan and for each round."""
        self.taken, began = 0, time.monotonic()
        widths = MilpAllocator().allocate(self.problem).widths
        now = Refined(
            {name: list(rises) for name, rises in self.ground.rises.items()}, {}, widths, self.loss(widths)
        )
        self._line(reach, 0, began, now)
        for number in range(1, rounds + 1):
            with self.shop.watch.step(f"reach {reach}, round {number}") as advance:

                def shown(done: int, of: int, advance: Advance = advance) -> None:
                    advance(done=done, of=of)

                after = refine(self.problem, now, self.loss, MilpAllocator(), shown, reach)
            self._line(reach, number, began, after)
            if after == now:
                break
            now = after

    def _line(self, reach: int, number: int, began: float, now: Refined) -> None:
        plan = self.ground.graph.plan(kept_indices(self.ground.importance, now.widths))
        model = self.shop.slimmed(self.start, plan)
        score = accuracy(model, self.shop.splits.test, self.shop.task.preprocess)
        choice = {name: self.problem.widths[name].index(width) for name, width in now.widths.items()}
        ms = self.problem.predicted(choice)["latency"]
        gone = sum(width == 0 for width in now.widths.values())
        seconds = time.monotonic() - began
        print(
            f"| {reach} | {number} | {self.taken} | {seconds:.0f} | {ms:.3f} | {now.loss:.3f} | {score:.2f} | {gone} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
