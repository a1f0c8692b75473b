"""Capture a model as an ATen graph and find out which of its channels hang together.

    graph = trace(model, example_inputs)

The given model is never changed: a deep copy in eval mode is exported.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pipeline.errors import ModelError
from pipeline.graph import rules
from pipeline.graph.assemble import Grouping, assemble
from pipeline.graph.blocks import find_blocks, mark_layers, mark_steps
from pipeline.graph.flow import Flow, describe, fixed_value
from pipeline.graph.groups import DependencyGraph, FrozenDimension
from pipeline.graph.layers import compute_layers
from pipeline.graph.liveness import liveness
from pipeline.graph.probe import probe
from pipeline.prune.plan import model_digest
from pipeline.prune.slim import copied


def trace(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> DependencyGraph:
    """Return the dependency graph of a model.

    Args:
        model: any module that `torch.export` can capture; it stays bit for bit as it is.
        example_inputs: what `model` is called with, batch first (N, C, H, W); any values of the right shapes.

    Raises:
        ModelError: the model cannot be copied, run on these inputs, or captured.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    traced = copied(model).eval()
    _check_runs(traced, inputs)
    program = _export(copied(traced), inputs)
    nodes = list(program.graph.nodes)
    flow = propagate(program, traced)
    digest = model_digest(traced)
    grouping = _without_refused(flow, traced, digest, inputs)
    layers = compute_layers(flow, grouping)
    blocks = find_blocks(traced, grouping.groups, layers, inputs)
    return DependencyGraph(
        groups=grouping.groups,
        frozen=(*_inputs(program), *grouping.frozen),
        layers=mark_layers(layers, blocks),
        liveness=mark_steps(liveness(flow, grouping, nodes, _batch(inputs)), nodes, blocks),
        model_digest=digest,
        model=traced,
        blocks=blocks,
    )


def propagate(program: ExportedProgram, model: nn.Module) -> Flow:
    """Walk the graph once in order of execution, applying each operator's rule."""
    flow = Flow(_parameter_names(program, model))
    unclaimed: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                rules.freeze_all(flow, source, "it is part of the model's output")
                _note_unclaimed(flow, node, unclaimed, "is part of the model's output")
        elif node.op == "call_function":
            flow.values[node] = rules.apply(flow, node)
            _note_unclaimed(flow, node, unclaimed, f"is used as a whole by {describe(node)}")
        else:
            flow.values[node] = fixed_value(node.meta.get("val"))
    for name, reason in unclaimed.items():
        flow.freeze_parameter(name, f"{name} {reason}")
    return flow


def _note_unclaimed(flow: Flow, node: fx.Node, unclaimed: dict[str, str], reason: str) -> None:
    """A parameter that an operator uses without claiming its dimensions must keep its shape."""
    for source in node.all_input_nodes:
        name = flow.parameter(source)
        if name is not None and (node, name) not in flow.claimed_by:
            unclaimed.setdefault(name, reason)


def _without_refused(flow: Flow, model: nn.Module, digest: str, inputs: tuple[Tensor, ...]) -> Grouping:
    """Assemble the groups, and freeze those that the model's own code cannot run with at another width."""
    grouping = assemble(flow)
    refused = probe(model, grouping.groups, digest, inputs)
    for group in grouping.groups:
        if group.name in refused:
            member = group.members[0]
            ids = flow.claims[member.parameter, member.dim][0].ids
            if ids is not None:
                flow.units.freeze(ids, refused[group.name])
    return assemble(flow) if refused else grouping


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be captured: {_summary(error)}",
            hint="forward must not branch on tensor values or leave PyTorch; torch.export says more",
        ) from error


def _check_runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    name, hint = (
        type(model).__name__,
        "give what the model is called with, for example torch.zeros(1, 3, 32, 32)",
    )
    if not inputs or not all(isinstance(one, Tensor) for one in inputs):
        raise ModelError(f"example inputs for {name} must be one tensor or a tuple of tensors", hint=hint)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
        raise ModelError(f"{name} does not run on inputs {shapes}: {_summary(error)}", hint=hint) from error


def _parameter_names(program: ExportedProgram, model: nn.Module) -> dict[str, str]:
    """Map the graph's placeholders to names of parameters and buffers; tied ones go by their first name."""
    first: dict[int, str] = {}
    canonical: dict[str, str] = {}
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        canonical[name] = first.setdefault(id(tensor), name)
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {place: canonical[name] for place, name in places.items() if name in canonical}


def _inputs(program: ExportedProgram) -> list[FrozenDimension]:
    return [
        FrozenDimension(str(name), "it is an input of the model")
        for name in program.graph_signature.user_inputs
    ]


def _batch(inputs: tuple[Tensor, ...]) -> int:
    return max(1, inputs[0].shape[0]) if inputs[0].ndim > 1 else 1


def _summary(error: Exception) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
