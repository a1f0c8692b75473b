"""The parameters and buffers of a slimmed graph, under the names that they have in the model."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from pipeline.graph.capture import Alive, Capture
from pipeline.graph.flow import Value
from pipeline.prune.plan import is_constant, is_within


def give_weights(
    root: nn.Module, model: nn.Module, capture: Capture, alive: Alive, dropped: Collection[str]
) -> None:
    """Give `root` what is left of a model's parameters and buffers; the model stays as it is.

    Every module becomes an empty one that holds them, in the same mode; ties stay ties. What a dropped module
    holds is left out.
    """
    stored = set(model.state_dict())
    slices = _Slices(model, capture, alive)
    holders: dict[int, nn.Module] = {id(model): root}
    for path, module in model.named_modules(remove_duplicate=False):
        if any(is_within(path, each) for each in dropped):
            continue
        parent, _, leaf = path.rpartition(".")
        holder = holders.setdefault(id(module), nn.Module())
        holder.training = module.training
        if path:
            root.get_submodule(parent).add_module(leaf, holder)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            holder.register_parameter(name, slices.parameter(parameter))
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            full = f"{path}.{name}" if path else name
            holder.register_buffer(name, slices.buffer(buffer), persistent=full in stored)
    for place, name in capture.parameters.items():
        if is_constant(name):
            data = sliced(capture.tensors[place], capture.values[place], alive)
            root.register_buffer(constant_attribute(place), data, persistent=False)


def constant_attribute(place: str) -> str:
    """Return the name for a tensor that the model's code makes, by that of its placeholder in the graph."""
    return f"_{place}"


class _Slices:
    """What is left of every tensor of a model, each made once."""

    def __init__(self, model: nn.Module, capture: Capture, alive: Alive) -> None:
        tensors: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        named = {name: capture.values[place] for place, name in capture.parameters.items()}
        self._values = {id(tensor): named[name] for name, tensor in tensors.items() if name in named}
        self._alive = alive
        self._parameters: dict[int, nn.Parameter] = {}
        self._buffers: dict[int, Tensor] = {}

    def parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in self._parameters:
            data = sliced(parameter, self._values.get(id(parameter)), self._alive)
            made = nn.Parameter(data, requires_grad=parameter.requires_grad)
            made.__dict__.update(parameter.__dict__)
            self._parameters[id(parameter)] = made
        return self._parameters[id(parameter)]

    def buffer(self, buffer: Tensor) -> Tensor:
        if id(buffer) not in self._buffers:
            self._buffers[id(buffer)] = sliced(buffer, self._values.get(id(buffer)), self._alive)
        return self._buffers[id(buffer)]


def sliced(tensor: Tensor, value: Value | tuple[Value, ...] | None, alive: Alive) -> Tensor:
    """Return a copy of the entries of a tensor that stay; all of it where nothing is known."""
    data = tensor.detach()
    for dim, mask in enumerate(alive.masks(value) if isinstance(value, Value) else ()):
        if not mask.all():
            data = data.index_select(dim, torch.from_numpy(mask.nonzero()[0]).to(data.device))
    return data.clone() if data.data_ptr() == tensor.data_ptr() else data
