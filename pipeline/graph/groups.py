"""What a traced model can lose: its pruning groups, compute layers and memory terms, all plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from pipeline.graph.capture import Capture
from pipeline.graph.units import Ids
from pipeline.prune.plan import InputSpec, SlimmingPlan, make_plan

Granularity = Literal["channel", "head", "head width"]


@dataclass(frozen=True)
class FrozenDimension:
    """Channels that must all stay, and why. `name` is the layer that makes them, or an input of the model."""

    name: str
    reason: str


@dataclass(frozen=True)
class Member:
    """One dimension of a parameter or buffer that a group slices.

    `indices[u]` are the entries along `dim` that go when unit `u` goes; shape (units, entries of one). `size`
    is the dimension's full size, of which other groups may hold the rest, or also have a say in these entries.
    """

    parameter: str
    dim: int
    size: int
    indices: Ids = field(compare=False)
    role: Literal["out", "in", "along"]


@dataclass(frozen=True)
class PruningGroup:
    """Units that can be dropped one by one; dropping a unit takes its entries out of every member.

    `name` is that of the first producing layer in order of execution. `producers` are the layers whose
    outputs shrink, `consumers` those whose inputs do. Where channels form a grid (heads by head width, groups
    by channels a group), one axis is the group to prune; the others are groups `within` it.
    """

    name: str
    width: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    members: tuple[Member, ...] = field(repr=False)
    granularity: Granularity = "channel"
    within: str | None = None


@dataclass(frozen=True)
class Block:
    """A residual block that can go as a whole: `nn.Identity()` in place of the submodule `name`.

    `layers` are the compute layers and `groups` the pruning groups that go with it. `group` is the one group
    whose width 0 stands for dropping the block in a search over widths; `None` where there are several to choose
    from, or none.
    """

    name: str
    group: str | None
    layers: tuple[str, ...]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComputeLayer:
    """One execution of a convolution or linear layer, at full width.

    Its input width under chosen group widths is `in_fixed + in_repeat * sum(widths[g] for g in in_groups)`,
    where a group may be listed more than once; its output width is `out_fixed + out_repeat *
    widths[out_group]`. `bias` is also true where a batch norm follows, since folding gives one.
    `activation` is what directly follows the layer (or its batch norm) alone. For a linear layer `input_hw`
    is (rows, 1). With `whole_groups` the units in front are the groups of a grouped convolution, which then
    shrink in number, not in size. `only_with` is the group of the block that the layer is in: at its width 0 the
    layer is gone. `takes` names the layers whose outputs this one takes, with nothing between but additions and what
    fuses into those layers, in order of execution.
    """

    name: str
    kind: Literal["conv2d", "linear"]
    in_width: int
    out_width: int
    in_groups: tuple[str, ...]
    in_repeat: int
    out_group: str | None
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    depthwise: bool
    input_hw: tuple[int, int]
    output_hw: tuple[int, int]
    bias: bool
    activation: Literal["relu", "relu6"] | None
    dilation: tuple[int, int] = (1, 1)
    in_fixed: int = 0
    out_repeat: int = 1
    out_fixed: int = 0
    only_with: str | None = None
    whole_groups: bool = False
    takes: tuple[str, ...] = ()

    def is_gone(self, widths: Mapping[str, int]) -> bool:
        """Tell whether the layer goes with its block under chosen group widths."""
        return self.only_with is not None and widths[self.only_with] == 0

    def widths(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Return the layer's input and output width under chosen group widths; (0, 0) when it is gone."""
        if self.is_gone(widths):
            return 0, 0
        inner = self.in_fixed + self.in_repeat * sum(widths[group] for group in self.in_groups)
        outer = self.out_repeat * widths[self.out_group] if self.out_group is not None else 0
        return inner, self.out_fixed + outer


@dataclass(frozen=True)
class LiveSet:
    """Bytes of activations alive while one node runs: `fixed_bytes + sum(per_unit_bytes[g] * width of g)`.

    For one sample in float32. Weights are not counted. `only_with` is the group of the block that the node is
    in: at its width 0 the node does not run.
    """

    step: str
    fixed_bytes: int
    per_unit_bytes: Mapping[str, float]
    only_with: str | None = None

    def bytes(self, widths: Mapping[str, int]) -> float:
        """Return the bytes alive under chosen group widths; 0 where the node does not run."""
        if self.only_with is not None and widths[self.only_with] == 0:
            return 0.0
        return self.fixed_bytes + sum(each * widths[group] for group, each in self.per_unit_bytes.items())


@dataclass(frozen=True)
class DependencyGraph:
    """All that slimming needs to know of a model; groups, layers and blocks are in order of execution.

    `choosable` names the groups whose widths alone make up the shapes of the compute layers; these and the
    memory terms take all other groups as whole.

    `model` is a twin of the traced model, in eval mode, that shares its weights; `examples` are inputs to
    run it with.
    """

    groups: tuple[PruningGroup, ...]
    frozen: tuple[FrozenDimension, ...]
    layers: tuple[ComputeLayer, ...]
    liveness: tuple[LiveSet, ...]
    model_digest: str
    model: nn.Module = field(repr=False, compare=False)
    blocks: tuple[Block, ...] = ()
    choosable: tuple[str, ...] = ()
    examples: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)
    capture: Capture = field(kw_only=True, repr=False, compare=False)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model was traced with."""
        return tuple(InputSpec.of(one) for one in self.examples)

    def group(self, name: str) -> PruningGroup:
        """Return a group by its name."""
        return next(group for group in self.groups if group.name == name)

    def widths(self) -> dict[str, int]:
        """Return the full width of every group."""
        return {group.name: group.width for group in self.groups}

    def plan(self, keep: Mapping[str, Sequence[int]], drop: Collection[str] = ()) -> SlimmingPlan:
        """Return the plan that keeps these units of the named groups and all of the others.

        The blocks named in `drop` go as a whole; keeping no unit of a block's `group` drops it, too.

        Raises:
            ModelError: a group or block is unknown, kept units are double or out of range, or none are kept of
                a group without a block.
        """
        from pipeline.prune.forms import with_form  # it runs slimmed models, and so needs this module

        return with_form(self, make_plan(self, keep, drop))
