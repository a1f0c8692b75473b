"""Accuracy at equal measured latency: ours against other ways to choose what goes, all trained alike.

    python tests/bench/accuracy.py fit    --folder DIR --device emu --model resnet20 --share 50 [--methods …]
    python tests/bench/accuracy.py train  --folder DIR --model resnet20 --share 50 --seeds 0 1 2 --epochs 8
    python tests/bench/accuracy.py again  --folder DIR --device emu --model resnet20 --share 50 --rounds 5
    python tests/bench/accuracy.py report --folder DIR

`fit`: each method makes a model whose p50, measured on the device as one converted file, is at most `share` % of the
dense model's. `train`: each such model is trained once a seed, all with the same recipe, images, augmentation and
teacher. `again`: all fitted models are measured once more, turn by turn. `report`: Markdown. What is finished is kept
in DIR, one folder a device, and a bench that was stopped goes on where it was.

PIPELINE_DATA says where CIFAR-10 and the dense weights are. Torch-Pruning is needed by `fit` for its own methods alone.

`--device replay --recorded DIR2` takes the measurements from the bench kept in DIR2 instead of a device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from accuracy_again import measure_again
from accuracy_fit import METHODS, Fits, fit_methods
from accuracy_report import report
from accuracy_training import Terms, Trainings, train_one
from rich.console import Console

from pipeline.cli.progress import Terminal
from pipeline.device.registry import find_device, open_device
from pipeline.errors import InputError, PipelineError
from pipeline.files import write_text
from pipeline.profile import load_profile
from pipeline.replay import Replay
from pipeline.store import Run, Store
from pipeline.task import load_task
from pipeline.workshop import Workshop

REPLAY = "replay"
INDEX = "runs.json"


def main() -> None:
    """Run the part that was asked for."""
    options = _options()
    try:
        if options.part == "fit":
            _fit(options)
        elif options.part == "train":
            _train(options)
        elif options.part == "again":
            _again(options)
        else:
            print(report(options.folder))
    except PipelineError as error:
        sys.exit(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    fit, train, again, shown = (parts.add_parser(name) for name in ("fit", "train", "again", "report"))
    for part in (fit, train, again, shown):
        part.add_argument("--folder", type=Path, required=True)
    for part in (fit, train, again):
        part.add_argument("--model", default="resnet20", choices=["resnet20", "resnet56"])
        part.add_argument("--share", type=int, default=50, help="per cent of the dense model's latency")
    for part in (fit, train):
        part.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    for part in (fit, again):
        part.add_argument("--device", default="local", help=f"a device's name; for fit also {REPLAY}")
        part.add_argument("--profile")
    again.add_argument("--rounds", type=int, default=5)
    fit.add_argument(
        "--recorded", type=Path, help=f"with --device {REPLAY}: the folder of the bench to replay"
    )
    train.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    train.add_argument("--epochs", type=int, default=8)
    train.add_argument("--learning-rate", type=float, default=0.05)
    train.add_argument("--train-share", type=float, default=1.0, help="of the training images, above 0")
    train.add_argument("--anew", action="store_true", help="fit layers anew before, as a deploy does")
    train.add_argument("--threads", type=int, default=1, help="of each training")
    train.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    options = parser.parse_args()
    if options.part == "train" and not (options.epochs >= 1 and 0 < options.train_share <= 1):
        parser.error("--epochs is at least 1, --train-share above 0 and at most 1")
    if options.part != "report" and not 0 < options.share < 100:
        parser.error("--share is above 0 and below 100")
    return options


# --- fit ----------------------------------------------------------------------------------------------------------


def _fit(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    fits = Fits(options.folder, options.model, options.share)
    replayed = options.device == REPLAY
    name = "local" if replayed else options.device  # a replay asks its device nothing
    profile = load_profile(options.profile or find_device(name).profile)
    with _run(options.folder, options.model, options.device) as run, open_device(name) as device:
        replay = _replay(options.recorded, options.model) if replayed else None
        where = f"replayed from {replay.source}" if replay else str(device.status().board.model)
        console = Console(stderr=True, highlight=False)
        task = load_task(f"cifar10_{options.model}.toml")
        shop = Workshop(run, task, profile, device, Terminal(console), replay)
        threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
        fit_methods(shop, fits, options.methods, options.share, f"{where}, {profile.runtime}, {threads}")


@contextmanager
def _run(folder: Path, model: str, device: str) -> Iterator[Run]:
    """Make the run that holds all measurements of one model, or go on with it."""
    index, store = folder / INDEX, Store(folder / "store")
    known = json.loads(index.read_text()) if index.exists() else {}
    made = known.setdefault(model, {"device": device, "run": ""})
    if made["device"] != device:
        raise InputError(
            f"{folder} holds what was measured on {made['device']!r}", hint="take another folder"
        )
    run = store.open(made["run"]) if made["run"] else store.create({"bench": model})
    made["run"] = run.id
    write_text(index, json.dumps(known, indent=2))
    try:
        yield run
    finally:
        run.close()


def _replay(recorded: Path | None, model: str) -> Replay:
    """Return the measurements of the bench in the folder `recorded`."""
    index = None if recorded is None else recorded / INDEX
    known = json.loads(index.read_text()) if index and index.exists() else {}
    if recorded is None or model not in known:
        raise InputError(f"--device {REPLAY} needs --recorded, the folder of a bench that measured {model}")
    return Replay(Store(recorded / "store"), known[model]["run"])


def _again(options: argparse.Namespace) -> None:
    fits = Fits(options.folder, options.model, options.share)
    profile = load_profile(options.profile or find_device(options.device).profile)
    with open_device(options.device) as device:
        measure_again(device, profile, fits, options.rounds, Terminal(Console(stderr=True, highlight=False)))


# --- train --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One training, for a process of its own."""

    folder: Path
    model: str
    share: int
    method: str
    seed: int
    terms: Terms
    threads: int


def _train(options: argparse.Namespace) -> None:
    terms = Terms(options.epochs, options.learning_rate, options.train_share, options.anew)
    fits = Fits(options.folder, options.model, options.share)
    trainings = Trainings(options.folder, fits.key)
    jobs = []
    for seed in options.seeds:  # whole seeds first, so that a bench that is stopped has pairs to compare
        for method in options.methods:
            found = fits.read(method)
            if found is None or not found.within:
                print(
                    f"{method}: {'not fitted yet' if found is None else 'not within the budget'}",
                    file=sys.stderr,
                )
            elif not trainings.has(method, seed, terms):
                jobs.append(
                    Job(options.folder, options.model, options.share, method, seed, terms, options.threads)
                )
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for _ in pool.map(_work, jobs):
            pass


def _work(job: Job) -> None:
    torch.set_num_threads(job.threads)
    fits = Fits(job.folder, job.model, job.share)
    task = load_task(f"cifar10_{job.model}.toml")
    fit = fits.read(job.method)
    assert fit is not None
    watch = Terminal(Console(stderr=True, highlight=False))
    with watch.step(f"{fits.key} {job.method}, seed {job.seed}, {job.terms.name}") as advance:
        done = train_one(fits, Trainings(job.folder, fits.key), task, fit, job.seed, job.terms, advance)
    watch.say(f"test accuracy {done.before:.2f} % -> {done.after:.2f} %")


if __name__ == "__main__":
    main()
