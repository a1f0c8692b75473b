"""Capture a model as an ATen graph and find out which of its channels hang together.

    graph = trace(model, example_inputs)

The given model is never changed: what is exported is a twin in eval mode that shares its tensors.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.graph import rules
from pipeline.graph.assemble import Grouping, assemble
from pipeline.graph.blocks import find_blocks, mark_layers, mark_steps
from pipeline.graph.capture import Capture, constant_name
from pipeline.graph.export import export
from pipeline.graph.flow import Flow, Value, fixed_value, shape_of
from pipeline.graph.groups import DependencyGraph, FrozenDimension
from pipeline.graph.layers import choosable, compute_layers
from pipeline.graph.liveness import liveness
from pipeline.prune.copies import no_collection, twin
from pipeline.prune.plan import InputSpec, model_digest

# Graph modules are made from what was captured of the very same model; it lives as long as its graph does.
_KNOWN: WeakKeyDictionary[nn.Module, WeakValueDictionary[tuple[InputSpec, ...], Capture]] = (
    WeakKeyDictionary()
)


def trace(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> DependencyGraph:
    """Return the dependency graph of a model.

    Args:
        model: any module that `torch.export` can capture; it stays bit for bit as it is.
        example_inputs: what `model` is called with, batch first (N, C, H, W); any values of the right shapes.

    Raises:
        ModelError: the model cannot be copied, run on these inputs, or captured.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    traced = twin(model).eval()
    program = export(traced, inputs)
    with no_collection():
        graph = _graph(traced, program, inputs)
    _KNOWN.setdefault(model, WeakValueDictionary())[tuple(map(InputSpec.of, inputs))] = graph.capture
    return graph


def _graph(traced: nn.Module, program: ExportedProgram, inputs: tuple[Tensor, ...]) -> DependencyGraph:
    flow = propagate(program, traced)
    grouping = assemble(flow)
    nodes = list(program.graph.nodes)
    names = choosable(flow, grouping)
    chosen = grouping.only(names)
    layers = compute_layers(flow, chosen)
    blocks = find_blocks(traced, flow, nodes, grouping.groups, layers, names)
    capture = _capture(program, flow, grouping)
    examples = tuple(lively(one) for one in inputs)
    return DependencyGraph(
        groups=grouping.groups,
        frozen=(*_inputs(program), *grouping.frozen),
        layers=mark_layers(layers, blocks),
        liveness=mark_steps(liveness(flow, chosen, nodes, _batch(inputs)), nodes, blocks),
        model_digest=model_digest(traced),
        model=traced,
        blocks=blocks,
        choosable=names,
        examples=examples,
        capture=capture,
    )


def captured(model: nn.Module, inputs: tuple[InputSpec, ...]) -> Capture:
    """Return what `trace` knows of a model's tensors, without tracing again what is still in use.

    Raises:
        ModelError: the model cannot be captured with these inputs.
    """
    known = _KNOWN.get(model)
    capture = None if known is None else known.get(inputs)
    if capture is not None:
        return capture
    examples = tuple(one.example() for one in inputs)
    dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
    if len(dtypes) == 1:  # the model may have been cast since
        (dtype,) = dtypes
        examples = tuple(one.to(dtype) if one.is_floating_point() else one for one in examples)
    return trace(model, examples).capture


def lively(given: Tensor) -> Tensor:
    """Replace a constant input, which would hide differences, by noise from 0 to 1."""
    if not given.is_floating_point() or (given != given.flatten()[:1]).any():
        return given
    noise = torch.rand(given.shape, generator=torch.Generator().manual_seed(0))
    return noise.to(given.device, given.dtype)


def _capture(program: ExportedProgram, flow: Flow, grouping: Grouping) -> Capture:
    values: dict[str, Value | tuple[Value, ...]] = {node.name: value for node, value in flow.values.items()}
    for node in program.graph.nodes:
        name = flow.parameter(node)
        if name is not None:
            shape = shape_of(node)
            values[node.name] = Value(shape, tuple(flow.labels.get((name, dim)) for dim in range(len(shape))))
    return Capture(program, values, flow.parameters, flow.tensors, flow.units.atoms(), grouping.atoms)


def propagate(program: ExportedProgram, model: nn.Module) -> Flow:
    """Walk the graph once in order of execution, applying each operator's rule."""
    flow = Flow(*_parameters(program, model))
    for node in program.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                rules.freeze_all(flow, source, "it is part of the model's output")
        elif node.op == "call_function":
            sources = node.all_input_nodes
            if sources and all(flow.is_weight(source) for source in sources):
                flow.weights.add(node)
            flow.values[node] = rules.apply(flow, node)
        elif flow.parameter(node) is None:
            flow.values[node] = fixed_value(node.meta.get("val"))
    return flow


def _parameters(program: ExportedProgram, model: nn.Module) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Map placeholders to the names of parameters, buffers and constants, and the latter two to their values.

    Tied ones go by their first name.
    """
    first: dict[int, str] = {}
    canonical: dict[str, str] = {}
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in tensors.items():
        canonical[name] = first.setdefault(id(tensor), name)
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {place: canonical[name] for place, name in places.items() if name in canonical}
    values = {place: tensors[name] for place, name in signature.inputs_to_buffers.items() if name in tensors}
    for place, name in signature.inputs_to_lifted_tensor_constants.items():
        names[place] = constant_name(name)
        values[place] = program.constants[name]
    return names, values


def _inputs(program: ExportedProgram) -> list[FrozenDimension]:
    return [
        FrozenDimension(str(name), "it is an input of the model")
        for name in program.graph_signature.user_inputs
    ]


def _batch(inputs: tuple[Tensor, ...]) -> int:
    return max(1, inputs[0].shape[0]) if inputs[0].ndim > 1 else 1
