"""The state of one propagation: what each node's tensor carries, which parameters follow which units.

A rule (`pipeline.graph.rules`) reads the values of a node's inputs, couples or freezes units, claims the
dimensions of the parameters it uses, and returns the value of the node's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from pipeline.graph.units import Ids, Units

Role = Literal["out", "in", "along"]
_COPIES = {
    "lift_fresh_copy",
    "lift_fresh",
    "detach",
    "detach_",
    "alias",
    "clone",
    "contiguous",
    "to",
    "_to_copy",
}


@dataclass(frozen=True)
class Value:
    """One tensor: its shape, and for each dimension the unit ids along it (`None`: of fixed size)."""

    shape: tuple[int, ...]
    dims: tuple[Ids | None, ...]

    @classmethod
    def fixed(cls, shape: tuple[int, ...]) -> Value:
        """Return a tensor that carries no units."""
        return cls(shape, (None,) * len(shape))

    @property
    def carried(self) -> list[Ids]:
        """The ids of the dimensions that carry units."""
        return [ids for ids in self.dims if ids is not None]


@dataclass(frozen=True)
class Claim:
    """A use of one dimension of a parameter or buffer.

    `role` is "out" for a layer's output channels, "in" for its input channels, "along" for what merely
    follows (biases, normalisation).
    """

    role: Role
    layer: str


@dataclass(frozen=True)
class ComputedClaim:
    """The same for a weight that is computed from parameters: a layer's node, the weight's, and its labels."""

    user: fx.Node
    weight: fx.Node
    ids: Ids
    role: Role


@dataclass(frozen=True)
class LayerTrace:
    """One call of a convolution or linear layer as traced, at full width."""

    name: str
    kind: Literal["conv2d", "linear"]
    node: fx.Node
    in_ids: Ids | None
    out_ids: Ids | None
    in_width: int
    out_width: int
    input_hw: tuple[int, int]
    output_hw: tuple[int, int]
    bias: bool
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass
class Flow:
    """What is known after propagating through the nodes so far.

    `parameters` maps the graph's placeholders to the names of the model's parameters, buffers and constants,
    `tensors` to the values of buffers and constants. `labels` holds what is known of every dimension of a
    parameter that was looked at; `claims` its uses, in order of execution. `heads` are labels along which an
    attention works independently, `weights` the nodes computed from parameters alone.
    """

    parameters: dict[str, str]
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    units: Units = field(default_factory=Units)
    values: dict[fx.Node, Value | tuple[Value, ...]] = field(default_factory=dict)
    labels: dict[tuple[str, int], Ids | None] = field(default_factory=dict)
    claims: dict[tuple[str, int], list[Claim]] = field(default_factory=dict)
    computed: list[ComputedClaim] = field(default_factory=list)
    layers: list[LayerTrace] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    heads: list[Ids] = field(default_factory=list)
    weights: set[fx.Node] = field(default_factory=set)

    # --- tensors ---

    def value(self, node: fx.Node) -> Value:
        """Return what is known of a node's tensor; a parameter carries labels of its own in every dimension."""
        name = self.parameter(node)
        if name is not None:
            shape = shape_of(node)
            return Value(shape, tuple(self._own(name, dim, size) for dim, size in enumerate(shape)))
        value = self.values[node]
        return value if isinstance(value, Value) else value[0]

    def freeze(self, value: Value, reason: str) -> None:
        """Freeze every unit that a tensor carries."""
        for ids in value.carried:
            self.units.freeze(ids, reason)

    def merge(self, parts: Sequence[Ids | None], reason: str) -> Ids | None:
        """Couple the same dimension of several tensors; where one is of fixed size, the others are frozen."""
        carried = [ids for ids in parts if ids is not None]
        if not carried:
            return None
        if len(carried) < len(parts):
            for ids in carried:
                self.units.freeze(ids, reason)
            return None
        for ids in carried[1:]:
            self.units.couple(carried[0], ids, reason)
        return carried[0]

    # --- parameters ---

    def is_weight(self, node: fx.Node) -> bool:
        """Tell whether a node is a parameter or computed from parameters alone."""
        return node in self.weights or self.parameter(node) is not None

    def parameter(self, node: object) -> str | None:
        """Return the name of the parameter, buffer or constant that a node is."""
        if not isinstance(node, fx.Node) or node.op != "placeholder":
            return None
        return self.parameters.get(node.name)

    def constant(self, node: fx.Node) -> torch.Tensor | None:
        """Return the value of a buffer or constant, or of a copy of one; `None` for parameters and results."""
        return self.tensors.get(origin(node).name)

    def claim(self, user: fx.Node, node: fx.Node | None, dim: int, ids: Ids | None, role: Role) -> None:
        """Say that a dimension of an operand of `user` must have the units `ids` (`None`: its full size).

        The operand may be a parameter, a buffer or computed from some; a missing one (no bias) claims nothing.
        """
        if node is None:
            return
        name = self.parameter(node)
        if name is None:
            ids = self.merge(
                [self.value(node).dims[dim], ids], f"{describe(user)} uses it with a fixed width"
            )
            self._note_computed(user, node, ids, role)
            return
        place = (name, dim)
        if place in self.labels:
            reason = f"{name} is shared with a use of fixed width ({describe(user)})"
            ids = self.merge([self.labels[place], ids], reason)
        self.labels[place] = ids
        self._note_claim(name, dim, role)

    def produce(self, user: fx.Node, weight: fx.Node, dim: int) -> Ids | None:
        """Return the units along the dimension of a weight that holds the output channels of `user`."""
        name = self.parameter(weight)
        if name is None:
            ids = self.value(weight).dims[dim]
            self._note_computed(user, weight, ids, "out")
            return ids
        ids = self._own(name, dim, shape_of(weight)[dim])
        self._note_claim(name, dim, "out")
        return ids

    def _own(self, name: str, dim: int, size: int) -> Ids | None:
        if (name, dim) not in self.labels:
            self.labels[name, dim] = self.units.fresh(size)
        return self.labels[name, dim]

    def _note_claim(self, name: str, dim: int, role: Role) -> None:
        self.claims.setdefault((name, dim), []).append(Claim(role, layer_name(name)))

    def _note_computed(self, user: fx.Node, node: fx.Node, ids: Ids | None, role: Role) -> None:
        if ids is not None and role != "along":
            self.computed.append(ComputedClaim(user, node, ids, role))


def layer_name(parameter: str) -> str:
    """Return the layer a parameter stands for: its module, or itself where it is no `weight`."""
    owner, _, leaf = parameter.rpartition(".")
    return owner if leaf in {"weight", "bias"} and owner else parameter


def operator_name(node: fx.Node) -> str:
    """Return "view" for aten.view.default, "" for what is no ATen operator."""
    return str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))


def origin(node: fx.Node) -> fx.Node:
    """Return the node that a copy was made of, itself for anything else."""
    while operator_name(node) in _COPIES:
        node = node.all_input_nodes[0]
    return node


def modules_of(node: fx.Node) -> list[str]:
    """Return the paths of the modules whose code runs a node, the outermost first, without the model itself."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def describe_place(node: fx.Node) -> str:
    """Return the module whose own code runs a node, "" for the model itself."""
    return str(next(reversed(modules_of(node)), ""))


def describe(node: fx.Node) -> str:
    """Return "aten.add.Tensor in layer1.0", to tell the user where in the model something happens."""
    place = describe_place(node)
    return f"{node.target} in {place}" if place else str(node.target)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the tensor that a node gives."""
    value = node.meta["val"]
    return tuple(int(size) for size in value.shape)


def fixed_value(meta: Any) -> Value | tuple[Value, ...]:
    """Return what a node gives (a tensor, several, or a plain number) as carrying no units."""
    if isinstance(meta, list | tuple):
        return tuple(Value.fixed(tuple(one.shape)) for one in meta if isinstance(one, torch.Tensor))
    return Value.fixed(tuple(meta.shape) if isinstance(meta, torch.Tensor) else ())
