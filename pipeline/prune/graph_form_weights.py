"""The parameters and buffers of a slimmed graph, under the names that they have in the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from torch import Tensor, nn

from pipeline.graph.capture import Alive, Capture
from pipeline.graph.flow import Value
from pipeline.prune.copies import sliced
from pipeline.prune.plan import is_constant, is_within

T = TypeVar("T", bound=Tensor)


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
            holder.register_parameter(name, slices.of(parameter))
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            full = f"{path}.{name}" if path else name
            holder.register_buffer(name, slices.of(buffer), persistent=full in stored)
    for place, name in capture.parameters.items():
        if is_constant(name):
            data = sliced(capture.tensors[place], _kept(capture.values[place], alive))
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
        self._made: dict[int, Tensor] = {}

    def of(self, tensor: T) -> T:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = sliced(tensor, _kept(self._values.get(id(tensor)), self._alive))
        return self._made[id(tensor)]  # type: ignore[return-value]


def _kept(value: Value | tuple[Value, ...] | None, alive: Alive) -> dict[int, Sequence[int]]:
    """Return the entries that stay along each dimension that loses some; nothing where nothing is known."""
    masks = enumerate(alive.masks(value) if isinstance(value, Value) else ())
    return {dim: mask.nonzero()[0].tolist() for dim, mask in masks if not mask.all()}
