"""`pipeline deploy`: the whole road in one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from pipeline.cli.progress import Terminal
from pipeline.cli.text import printable
from pipeline.errors import InputError, PipelineError, RunError
from pipeline.watch import Silent

if TYPE_CHECKING:
    from pipeline.conduct import Order
    from pipeline.report.summary import RunSummary

EXISTING_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--device", help="A device's name; `pipeline device list` shows them.  [local]")
@click.option("--task", help="A task file, or the name of a shipped one.  [digits]")
@click.option("--profile", help="A profile's name or file.  [the device's own]")
@click.option(
    "--runtime", type=click.Choice(["onnxruntime", "tflite"]), help="Overrides the profile's runtime."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Overrides the profile's threads.")
@click.option(
    "--also",
    multiple=True,
    metavar="RUNTIME[:THREADS[:fp16]]",
    help="Another way to run the model; the device measures all, and the best is taken. Repeatable.",
)
@click.option(
    "--budget", "budgets", multiple=True, metavar="NAME=VALUE", help="latency=20ms, file=50%, model_peak=8MB."
)
@click.option("--max-drop", type=float, metavar="POINTS", help="Accuracy may fall by so many points.")
@click.option("--floor", type=float, metavar="PERCENT", help="Accuracy may not fall below this.")
@click.option(
    "--factory", metavar="MODULE:FUNCTION", help="Your model: package.module:function or file.py:function."
)
@click.option("--weights", type=EXISTING_FILE, help="Its weights: safetensors, or a PyTorch state_dict.")
@click.option("--input-shape", metavar="C,H,W", help="The shape of one input, such as 3,32,32.")
@click.option("--data-source", metavar="SOURCE", help="digits, cifar10:DIR, npz:FILE or images:DIR.")
@click.option(
    "--data", type=EXISTING_FILE, help="Where data and weights are looked for, before PIPELINE_DATA."
)
@click.option(
    "--epochs",
    type=click.IntRange(0, 10_000),
    help="Overrides the epochs of the recovery; 0: layers are fitted anew, nothing is trained.",
)
@click.option("--cuts", type=click.IntRange(1, 20), help="Cut in so many steps, with recovery between.  [1]")
@click.option("--strategy", metavar="NAME", help="How widths are searched; docs/search.md.  [feedback]")
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="Whole models measured a cut before training, at most.  [3]",
)
@click.option("--resume", metavar="RUN", help='Go on with a run that was stopped; "latest" is the newest.')
@click.option("--replay", metavar="RUN", help="Use the measurements of an earlier run instead of new ones.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, how often the device measures, and how long."
)
@click.option(
    "--json", "json_file", type=EXISTING_FILE, metavar="FILE", help="Write the result as JSON (- for stdout)."
)
@click.option(
    "--report", "report_file", type=EXISTING_FILE, metavar="FILE", help="Where the HTML report goes."
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
def deploy(**options: Any) -> int:
    """Shrink a model until it measurably fits a device's budgets, and leave it running there.

    \b
    Examples:
      pipeline deploy --device local
      pipeline deploy --device local --runtime tflite --budget latency=60%
      pipeline deploy --device pi --also tflite:4 --also onnxruntime:2
      pipeline deploy --strategy evolutionary --rounds 12
      pipeline deploy --task examples/cifar10_resnet20.toml --data ~/data --json result.json
      pipeline deploy --factory my_net.py:build --weights net.safetensors \\
          --data-source npz:train.npz --input-shape 1,49,10 --budget latency=5ms
      pipeline deploy --resume latest

    \b
    Exit codes: 0 budgets met and model active, 2 bad input, 3 budgets can't be met,
    4 the device failed, 130 interrupted.
    """
    console = Console(stderr=options["json_file"] == Path("-"), quiet=options["quiet"], highlight=False)
    if options["resume"]:
        return _resume(options, console)
    order = _order(options, console)
    if options["dry_run"]:
        return _dry_run(order, console)
    return _start(order, options, console)


_LOADING = "loading …"  # torch and friends take seconds; what is wrong with the options is said before


def _order(options: dict[str, Any], console: Console) -> Order:
    """Read task, profile and device from the options; everything that can be wrong is found here, at once."""
    from pipeline.device.registry import find_device
    from pipeline.profile import load_profile, parse_accuracy, parse_also, parse_budget, with_overrides
    from pipeline.store import Store
    from pipeline.task import load_task

    device = find_device(options["device"] or "local")
    own = load_profile(options["profile"] or device.profile)
    profile = with_overrides(
        own,
        budgets=[parse_budget(text) for text in options["budgets"]],
        runtime=options["runtime"],
        threads=options["threads"],
        accuracy=parse_accuracy(options["max_drop"], options["floor"]),
        also=[parse_also(text, own) for text in options["also"]],
    )
    task = load_task(
        options["task"] or (None if options["factory"] else "digits"),
        factory=options["factory"],
        weights=options["weights"],
        input_shape=_shape(options["input_shape"]),
        data_source=options["data_source"],
        data=options["data"],
        epochs=options["epochs"],
    )
    replay = Store().row(options["replay"]).id if options["replay"] else None
    with console.status(_LOADING):
        from pipeline.conduct import Order
        from pipeline.method import make_method
    method = make_method(options["strategy"], options["rounds"], options["cuts"])
    return Order(device.name, task, profile, replay, method)


def _shape(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--input-shape {text!r} is no list of whole numbers", hint="such as 3,32,32"
        ) from None


def _start(order: Order, options: dict[str, Any], console: Console) -> int:
    from pipeline.conduct import start
    from pipeline.device.registry import open_device
    from pipeline.store import Store

    store = Store()
    order.task.build_model()
    order.task.load_data()
    with open_device(order.device, _notice(console)) as device:
        device.status()
        run = start(store, order)
        return _work(run, order, device, options, console)


def _resume(options: dict[str, Any], console: Console) -> int:
    from pipeline.device.registry import open_device
    from pipeline.store import Store

    given = [name for name in _FIXED if options[name] not in {None, (), False}]
    if given:
        flag = (
            given[0].replace("_", "-").removesuffix("s")
            if given[0] == "budgets"
            else given[0].replace("_", "-")
        )
        raise InputError(
            f"--{flag} can't be changed for a run that has begun", hint="leave it out, or start a new run"
        )
    run = Store().open(Store().row(options["resume"]).id)
    with console.status(_LOADING):
        from pipeline.conduct import Order
    order = Order.from_config(run.config)
    with open_device(order.device, _notice(console)) as device:
        return _work(run, order, device, options, console)


def _notice(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(printable(text), style="yellow", markup=False, soft_wrap=True)


_FIXED = (
    "device",
    "task",
    "profile",
    "runtime",
    "threads",
    "also",
    "budgets",
    "max_drop",
    "floor",
    "factory",
    "weights",
    "input_shape",
    "data_source",
    "data",
    "epochs",
    "cuts",
    "strategy",
    "rounds",
    "replay",
    "dry_run",
)


def _work(run: Any, order: Order, device: Any, options: dict[str, Any], console: Console) -> int:
    from pipeline.conduct import conduct

    console.print(f"run [bold]{run.id}[/]: {escape(order.task.name)} → {order.device} ({_ways(order)})")
    watch = Silent() if options["quiet"] else Terminal(console)
    try:
        summary = conduct(run, order, device, watch)
    except (PipelineError, KeyboardInterrupt) as error:
        if options["json_file"]:
            with suppress(RunError):  # nothing is known of a run whose device did not even answer
                _write_json(run.store.summary(run.id), options["json_file"])
        _say_how_to_go_on(run.id, error)
        raise
    finally:
        run.close()
    return _close(summary, options, console)


def _say_how_to_go_on(run: str, error: BaseException) -> None:
    text = f"pipeline deploy --resume {run}  goes on where this stopped"
    if isinstance(error, PipelineError):
        error.hint = f"{error.hint}; {text}" if error.hint else text
    else:
        click.echo(f"\n{text}", err=True)


def _close(summary: RunSummary, options: dict[str, Any], console: Console) -> int:
    from pipeline.files import write_text
    from pipeline.report.html import render
    from pipeline.report.summary import to_json
    from pipeline.report.table import closing_table
    from pipeline.store import Store

    console.print(closing_table(summary))
    console.print(
        escape(summary.message), style="green" if summary.status == "met" else "yellow", soft_wrap=True
    )
    if summary.variants:
        console.print(_ways_measured(summary), soft_wrap=True)
    report = options["report_file"] or Store().run_folder(summary.run) / "report.html"
    write_text(report, render(json.loads(to_json(summary))))
    console.print(f"report: {escape(str(report))}", soft_wrap=True)
    if options["json_file"]:
        _write_json(json.loads(to_json(summary)), options["json_file"])
    return 0 if summary.status == "met" else 3


def _write_json(summary: dict[str, Any], target: Path) -> None:
    from pipeline.files import write_text

    text = json.dumps(summary, indent=2)
    if target == Path("-"):
        click.echo(text)
    else:
        write_text(target, text + "\n")


def _dry_run(order: Order, console: Console) -> int:
    from pipeline.baseline import needs_training
    from pipeline.estimate import Experience, estimate
    from pipeline.store import Store, state_folder

    known = Experience.with_device(Store(), order.device) if state_folder().exists() else Experience()
    ahead = estimate(
        order.task, order.profile, order.method, known, train_baseline=needs_training(order.task)
    )
    source = f"by the last deploys to {order.device}" if known.runs else "a slow board takes much longer"
    budgets = ", ".join(f"{budget.resource} {budget.stated}" for budget in order.profile.budgets)
    lines = [
        f"task {order.task.name} → device {order.device} ({_ways(order)})",
        f"budgets: {budgets}; accuracy: {order.profile.accuracy.stated}",
        f"the device times up to {ahead.layer_models} layers alone, those that it has not timed before",
        f"{ahead.groups} groups of channels can shrink; {ahead.frozen} dimensions stay whole",
        f"then it measures the whole model {ahead.measurements_least} to {ahead.measurements_most} times",
        f"training: {ahead.epochs} epochs, about {_span(ahead.training_s)} on this computer (estimated)",
        f"everything else: about {_span(ahead.other_s)} (estimated; {source})",
        "nothing was done: this was a dry run",
    ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    return 0


def _ways_measured(summary: RunSummary) -> str:
    """Return a line for each way to run the model."""
    lines = []
    for way in summary.variants:
        then = "" if way.fitted_ms is None else f", fitted {way.fitted_ms:.4g} ms"
        taken = "  ← taken" if way.chosen else ""
        lines.append(f"  {way.name}: whole {way.baseline_ms:.4g} ms{then}{taken}")
    return "ways to run it, as measured:\n" + "\n".join(lines)


def _ways(order: Order) -> str:
    return "; ".join(map(str, (order.profile.variant, *order.profile.also)))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
