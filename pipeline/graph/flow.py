"""The state of one propagation: what each node's tensor carries, which parameters follow which units.

A rule (`pipeline.graph.rules`) reads the values of a node's inputs, couples or freezes units, claims the
dimensions of the parameters it uses, and returns the value of the node's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from pipeline.graph.units import Ids, Units

Role = Literal["out", "in", "along"]


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

    parameter: str
    dim: int
    ids: Ids | None
    role: Role
    layer: str


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

    `parameters` maps the graph's placeholders to the names of the model's parameters and buffers.
    """

    parameters: dict[str, str]
    units: Units = field(default_factory=Units)
    values: dict[fx.Node, Value | tuple[Value, ...]] = field(default_factory=dict)
    claims: dict[tuple[str, int], list[Claim]] = field(default_factory=dict)
    layers: list[LayerTrace] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    claimed_by: set[tuple[fx.Node, str]] = field(default_factory=set)
    _transposed: dict[fx.Node, str] = field(default_factory=dict)

    # --- tensors ---

    def value(self, node: fx.Node) -> Value:
        """Return the value of a node that gives one tensor."""
        value = self.values[node]
        return value if isinstance(value, Value) else value[0]

    def operand(self, user: fx.Node, node: fx.Node) -> Value:
        """Return the value of a node; a parameter used as an operand carries units that may be coupled."""
        name = self.parameter(node)
        value = self.value(node)
        if name is None or node in self._transposed:
            return value
        dims = tuple(self.units.fresh(size) for size in value.shape)
        for dim, ids in enumerate(dims):
            self.claim(user, node, dim, ids, "along")
        return Value(value.shape, dims)

    def freeze(self, value: Value, reason: str) -> None:
        """Freeze every unit that a tensor carries."""
        for ids in value.carried:
            self.units.freeze(ids, reason)

    def merge(self, parts: list[Ids | None], reason: str) -> Ids | None:
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

    def parameter(self, node: object) -> str | None:
        """Return the name of the parameter or buffer that a node is (or is the transpose of)."""
        if not isinstance(node, fx.Node):
            return None
        if node in self._transposed:
            return self._transposed[node]
        return self.parameters.get(node.name) if node.op == "placeholder" else None

    def is_transposed(self, node: fx.Node) -> bool:
        """Tell whether a node is a transposed parameter."""
        return node in self._transposed

    def transpose_parameter(self, node: fx.Node, source: fx.Node) -> None:
        """Note that `node` is the parameter `source` with its two dimensions swapped."""
        name = self.parameter(source)
        if name is not None:
            self._transposed[node] = name
            self.claimed_by.add((node, name))

    def claim(self, user: fx.Node, node: object, dim: int, ids: Ids | None, role: Role) -> None:
        """Say that `user` needs a parameter's dimension to have the units `ids` (`None`: its full size).

        A parameter that is used twice couples both uses. A missing parameter (no bias) claims nothing.
        """
        name = self.parameter(node)
        if name is None:
            return
        self.claimed_by.add((user, name))
        earlier = self.claims.setdefault((name, dim), [])
        if earlier:
            self.merge(
                [earlier[0].ids, ids], f"{name} is shared with a use of fixed width ({describe(user)})"
            )
        earlier.append(Claim(name, dim, ids, role, layer_name(name)))

    def freeze_parameter(self, name: str, reason: str) -> None:
        """Freeze every unit along any dimension of a parameter."""
        for (parameter, _), claims in self.claims.items():
            if parameter == name:
                for claim in claims:
                    if claim.ids is not None:
                        self.units.freeze(claim.ids, reason)


def layer_name(parameter: str) -> str:
    """Return the layer a parameter stands for: its module, or itself where it is no `weight`."""
    owner, _, leaf = parameter.rpartition(".")
    return owner if leaf in {"weight", "bias"} and owner else parameter


def describe(node: fx.Node) -> str:
    """Return "aten.add.Tensor in layer1.0", to tell the user where in the model something happens."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    place = stack[-1][0] if stack else ""
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
