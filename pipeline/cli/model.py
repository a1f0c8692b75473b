"""`pipeline model`: look at what a model could lose, and slim it without a device."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.graph import DependencyGraph
    from pipeline.prune import SlimmingPlan

_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool")
_SHOWN = 12


@click.group()
def model() -> None:
    """Look at what a model could lose, or slim it without a device.

    \b
    Examples:
      pipeline model inspect my_net.py:build --input 1,3,32,32
      pipeline model slim my_net.py:build --input 1,3,32,32 --keep 0.5 --out small
    """


def _common(command: Any) -> Any:
    options = (
        click.argument("factory", metavar="MODULE:FUNCTION"),
        click.option(
            "--input",
            "inputs",
            multiple=True,
            required=True,
            metavar="N,C,H,W[:DTYPE]",
            help="What the model is called with, batch first; once for each input, as 1,128:int64.",
        ),
        click.option(
            "--kwargs", "arguments", default="{}", metavar="JSON", help="Keyword arguments of the factory."
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="Its weights: safetensors, or a PyTorch state_dict.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@model.command()
@_common
def inspect(
    factory: str, inputs: tuple[str, ...], arguments: str, weights: Path | None, as_json: bool
) -> None:
    """Show which channels of a model hang together, and which must stay and why.

    MODULE:FUNCTION makes the model: package.module:function or file.py:function.

    \b
    Examples:
      pipeline model inspect my_net.py:build --input 1,3,32,32
      pipeline model inspect package.nets:gpt --input 1,64:int64 --json
    """
    with _waiting("capturing …", as_json):
        graph = _traced(_made(factory, _arguments(arguments), weights), inputs)
    if as_json:
        click.echo(json.dumps(_description(graph), indent=2))
    else:
        _print_graph(graph)


@model.command()
@_common
@click.option("--keep", type=float, default=0.5, show_default=True, help="Share of every group to keep.")
@click.option(
    "--importance",
    type=click.Choice(["l1", "l2"]),
    default="l1",
    show_default=True,
    help="What decides who stays.",
)
@click.option(
    "--multiple-of",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Round widths to multiples of this.",
)
@click.option("--ignore", multiple=True, metavar="GROUP", help="A group to leave whole.")
@click.option("--drop", multiple=True, metavar="BLOCK", help="A residual block to leave out.")
@click.option(
    "--connections", metavar="SHARE|N:M", help="Zero single weights, too: keep this share, or N of every M."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder to write; load it with pipeline.load.",
)
@click.option("--force", is_flag=True, help="Replace a model that was saved there.")
def slim(
    factory: str,
    inputs: tuple[str, ...],
    arguments: str,
    weights: Path | None,
    as_json: bool,
    out: Path,
    force: bool,
    **choice: Any,
) -> None:
    """Keep a share of every group of channels, heads and units, and save the smaller model.

    \b
    Examples:
      pipeline model slim my_net.py:build --input 1,3,32,32 --weights net.pt --keep 0.5 --out small
      pipeline model slim my_net.py:build --input 1,3,32,32 --keep 1 --connections 2:4 --out sparse
      python -c "import pipeline; model = pipeline.load('small')"
    """
    if out.exists() and not force:
        raise InputError(f"{out} exists", hint="give another folder, or --force to replace the model in it")
    from pipeline.prune import SlimmingWarning, save
    from pipeline.prune import slim as slimmed_by

    given = _arguments(arguments)
    with _waiting("slimming …", as_json):
        whole = _made(factory, given, weights)
        graph = _traced(whole, inputs)
        plan = _plan(graph, **choice)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlimmingWarning)  # the table tells
            smaller = slimmed_by(whole, plan)
        after = _traced(smaller, inputs)
        save(out, (factory, given), plan, smaller)
    result = {
        "out": str(out),
        "form": plan.form,
        "parameters": [_size(whole), _size(smaller)],
        "zero_weights": sum(int((one == 0).sum()) for one in smaller.parameters()) if plan.connections else 0,
        "macs": [_macs(graph), _macs(after)],
        "dropped": list(plan.dropped),
    }
    click.echo(json.dumps(result, indent=2)) if as_json else _print_result(result)


# --- reading ---


def _waiting(text: str, as_json: bool) -> Any:
    return Console(stderr=as_json, highlight=False).status(text)


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"--kwargs is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError("--kwargs must be a JSON object", hint='such as {"classes": 10}')
    return found


def _made(factory: str, arguments: dict[str, Any], weights: Path | None) -> nn.Module:
    from pipeline.model_source import load_weights, make_model

    made = make_model(factory, arguments)
    if weights is not None:
        load_weights(made, weights)
    return made.eval()


def _traced(whole: nn.Module, inputs: tuple[str, ...]) -> DependencyGraph:
    from pipeline.graph import trace

    return trace(whole, tuple(map(_example, inputs)))


def _example(text: str) -> Tensor:
    import torch

    shape, _, dtype = text.partition(":")
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or (dtype or "float32") not in _DTYPES:
        raise InputError(
            f"--input {text} is no shape", hint=f"such as 1,3,32,32 or 1,128:int64 ({', '.join(_DTYPES)})"
        )
    return torch.zeros(sizes, dtype=getattr(torch, dtype or "float32"))


def _plan(
    graph: DependencyGraph,
    keep: float,
    importance: str,
    multiple_of: int,
    ignore: tuple[str, ...],
    drop: tuple[str, ...],
    connections: str | None,
) -> SlimmingPlan:
    from pipeline.prune import connection_plan, uniform_plan

    plan = uniform_plan(graph, keep, importance, multiple_of, ignore)
    if drop:
        plan = graph.plan(plan.left, drop)
    if connections is None:
        return plan
    if ":" in connections:
        return connection_plan(graph, pattern=connections, base=plan)
    try:
        return connection_plan(graph, keep=float(connections), base=plan)
    except ValueError as error:
        raise InputError(
            f"--connections {connections} is neither a share nor N:M", hint="0.3 or 2:4"
        ) from error


# --- telling ---


def _size(of: nn.Module) -> int:
    return sum(parameter.numel() for parameter in of.parameters())


def _macs(graph: DependencyGraph) -> int:
    from pipeline.graph.operations import operations

    return sum(each.macs for each in operations(graph.capture))


def _description(graph: DependencyGraph) -> dict[str, Any]:
    from pipeline.graph.operations import operations

    parameters = dict(graph.model.named_parameters())
    return {
        "parameters": _size(graph.model),
        "macs": _macs(graph),
        "groups": [
            {
                "name": group.name,
                "granularity": group.granularity,
                "within": group.within,
                "width": group.width,
                "producers": group.producers,
                "consumers": group.consumers,
                "parameters_a_unit": sum(
                    parameters[member.parameter].numel() // member.size * member.indices.shape[1]
                    for member in group.members
                    if member.parameter in parameters
                ),
            }
            for group in graph.groups
        ],
        "frozen": [{"name": each.name, "reason": each.reason} for each in graph.frozen],
        "blocks": [{"name": block.name, "layers": block.layers} for block in graph.blocks],
        "layers": [
            {
                "name": each.name,
                "kind": each.kind,
                "input": each.input_shape,
                "output": each.output_shape,
                "macs": each.macs,
                "parameters": sum(
                    tensor.numel()
                    for name, tensor in parameters.items()
                    if name.rpartition(".")[0] == each.name or name == each.name
                ),
            }
            for each in operations(graph.capture)
        ],
    }


def _print_graph(graph: DependencyGraph) -> None:
    told, console = _description(graph), Console(highlight=False)
    groups = _table("group", "what", ">width", ">parameters a unit", "made by", "used by")
    for each in told["groups"]:
        what = each["granularity"] + (f" (within {each['within']})" if each["within"] else "")
        names = (_few(each["producers"]), _few(each["consumers"]))
        groups.add_row(each["name"], what, str(each["width"]), f"{each['parameters_a_unit']:,}", *names)
    layers = _table("layer", "kind", "input", "output", ">parameters", ">MACs a sample")
    for each in told["layers"]:
        shapes = ["×".join(map(str, each[name])) for name in ("input", "output")]
        layers.add_row(each["name"], each["kind"], *shapes, f"{each['parameters']:,}", f"{each['macs']:,}")
    frozen = _table("left whole", "why")
    for each in told["frozen"]:
        frozen.add_row(escape(each["name"]), escape(each["reason"]))
    console.print(groups if told["groups"] else "nothing can be pruned")
    console.print()
    console.print(layers)
    console.print()
    console.print(frozen)
    if told["blocks"]:
        console.print(f"\nblocks that can go: {_few([block['name'] for block in told['blocks']], _SHOWN)}")
    console.print(f"\n{told['parameters']:,} parameters, {told['macs']:,} MACs a sample")


def _print_result(result: dict[str, Any]) -> None:
    console, table = Console(highlight=False), _table("", ">before", ">after", ">left")
    for name in ("parameters", "macs"):
        before, after = result[name]
        left = f"{after / before:.1%}" if before else ""
        table.add_row({"macs": "MACs"}.get(name, name), f"{before:,}", f"{after:,}", left)
    console.print(table)
    if result["zero_weights"]:
        console.print(f"{result['zero_weights']:,} of the weights left are zero")
    if result["form"] == "graph":
        console.print(
            "its code bakes widths in, so it was saved as a graph, not as a module of its own class"
        )
    saved = f"saved in {result['out']}: pipeline.load({result['out']!r})"
    console.print(saved, markup=False, soft_wrap=True)


def _few(names: Any, shown: int = 2) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _table(*headings: str) -> Table:
    """Return a plain table; ">" aligns a column to the right."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(
            heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left", overflow="fold"
        )
    return table
