"""Proof that a slimmed model is right: what the full model gives once removed channels are ignored.

`reference` runs the captured graph at full width in double precision. After every node the entries that were
removed of its result are overwritten with NaN, so that nothing can use them unseen. Contractions get zeros in
their place; norms, means and other statistics are of the kept entries alone; all else runs as it is. An operator
that meets removed entries and is of no known kind raises `UnprovedError`, so that nothing passes for want of
knowledge. Nothing here slices a parameter or knows a pruning rule: it and the slimmed model agree only if both
are right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from exactness_operators import CONTRACT, NORM, REDUCE, SPATIAL, UNTOUCHED, WHOLE
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.graph import DependencyGraph
from pipeline.graph.capture import Alive, Capture, Mask
from pipeline.graph.flow import Value
from pipeline.prune import SlimmingPlan

TOLERANCE = 1e-9
_NARROW = {torch.float32, torch.float16, torch.bfloat16}


class UnprovedError(AssertionError):
    """An operator meets removed entries, and nothing says what it should make of them."""


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute in double precision whatever asks for a narrower floating point type."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is torch.ops.aten._assert_tensor_metadata.default:
            return None
        wide = partial(_wide, also_tensors=not func._schema.is_mutable)
        return func(*pytree.tree_map(wide, args), **pytree.tree_map(wide, kwargs or {}))


def reference(
    capture: Capture,
    alive: Alive,
    inputs: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
    dropped: Sequence[str] = (),
) -> list[Tensor]:
    """Return the tensors that the model gives, with every channel in place and the removed ones ignored.

    Args:
        capture: the traced graph, with what each of its tensors carries.
        alive: which entries stay.
        inputs: as many as the model takes, of the shapes it was traced with.
        parameters: the model's parameters and buffers by name; the graph's own stand in for missing ones.
        dropped: blocks that were replaced by an identity.

    Raises:
        UnprovedError: an operator meets removed entries that this file does not know how to treat, or an output of
            the model has removed entries.
    """
    program = capture.program
    values = [*_lifted(capture, parameters), *inputs]
    with _double_precision():
        found = _Masked(capture, alive, dropped).run(
            *(one.detach().clone() for one in map(_to_double, values))
        )
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    wanted = [one for kind, one in zip(kinds, found, strict=True) if kind == OutputKind.USER_OUTPUT]
    return [one for one in wanted if isinstance(one, Tensor)]


def check(
    model: nn.Module, graph: DependencyGraph, plan: SlimmingPlan, slimmed: nn.Module, inputs: Any
) -> float:
    """Return by how much the slimmed model is off: the largest difference relative to the largest output.

    Both models are evaluated in double precision, on copies; `inputs` is one tensor or a tuple of them.

    Raises:
        UnprovedError: see `reference`.
    """
    return max(differences(model, graph, plan, slimmed, inputs), default=0.0)


def assert_exact(
    model: nn.Module,
    graph: DependencyGraph,
    plan: SlimmingPlan,
    slimmed: nn.Module,
    inputs: Any,
    tolerance: float = TOLERANCE,
) -> None:
    """Fail with the number of the output and the figure where the slimmed model is not what was asked for."""
    for number, off in enumerate(differences(model, graph, plan, slimmed, inputs)):
        assert off <= tolerance, (
            f"output {number} of the slimmed model is off by {off:.3g} of its largest value"
        )


def differences(
    model: nn.Module, graph: DependencyGraph, plan: SlimmingPlan, slimmed: nn.Module, inputs: Any
) -> list[float]:
    """Return for every tensor that the model gives max |slimmed - reference| / max |reference|."""
    assert graph.capture is not None
    given = tuple(map(_to_double, inputs if isinstance(inputs, tuple) else (inputs,)))
    alive = graph.capture.alive(plan.keep)
    wanted = reference(graph.capture, alive, given, _connected(model, plan), plan.dropped)
    found = evaluated(slimmed, given)
    assert len(found) == len(wanted), f"the slimmed model gives {len(found)} tensors, not {len(wanted)}"
    return [_off(mine, theirs) for mine, theirs in zip(found, wanted, strict=True)]


def evaluated(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return all tensors that a copy of `model` gives in eval mode and double precision."""
    wide = copy.deepcopy(model).double()
    with _double_precision():
        out = wide.eval()(*(one.clone() for one in inputs))
    return [one for one in pytree.tree_leaves(out) if isinstance(one, Tensor)]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _connected(model: nn.Module, plan: SlimmingPlan) -> dict[str, Tensor]:
    """Return a model's tensors with zeros in place of the single weights that the plan removes."""
    tensors = tensors_of(model)
    for name, connections in plan.connections.items():
        pruned = tensors[name].where(connections.mask(), 0.0)
        tensors.update({tied: pruned for tied, one in tensors.items() if one is tensors[name]})
    return tensors


# --- the interpreter ---


class _Masked(fx.Interpreter):
    """Runs the graph node by node, with the masks of what every node gives."""

    def __init__(self, capture: Capture, alive: Alive, dropped: Sequence[str]) -> None:
        super().__init__(capture.program.graph_module, garbage_collect_values=not dropped)
        self.masks = {name: _masks(alive, value) for name, value in capture.values.items()}
        self.detours = dict(_detour(capture, block) for block in dropped)
        self.gone = {
            node for node in capture.program.graph.nodes if any(_is_inside(node, b) for b in dropped)
        }

    def run_node(self, n: fx.Node) -> Any:
        if n in self.detours:
            return self.env[self.detours[n]]
        if n in self.gone:
            return None
        if n.op == "output":
            self._assert_whole(n)
            return super().run_node(n)
        meets = n.op == "call_function" and any(self._dead(source) for source in n.all_input_nodes)
        result = self._meet(n) if meets else super().run_node(n)
        if meets or self._dead(n):
            several = isinstance(result, list | tuple)
            for value, masks in zip(result if several else [result], self._all_masks(n), strict=False):
                self._spoil(n, value, masks)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let views copy where they must: other kernels than the traced ones may leave other strides."""
        same = torch.ops.aten.view.default, torch.ops.aten.reshape.default
        return super().call_function(same[1] if target is same[0] else target, args, kwargs)

    def _spoil(self, node: fx.Node, value: Any, masks: tuple[Mask, ...]) -> None:
        """Overwrite what was removed with NaN, and make sure that there is none elsewhere.

        In place, since later nodes may write into this tensor through a view. Of copies that share their
        memory (after expand) some are kept and some are not: these stay as they are.
        """
        if not isinstance(value, Tensor) or not value.is_floating_point() or _overlaps(value):
            return
        for dim, mask in enumerate(masks):
            if not mask.all():
                value.index_fill_(dim, torch.from_numpy((~mask).nonzero()[0]), float("nan"))
        kept = math.prod(int(mask.sum()) for mask in masks)
        if int(value.isnan().sum()) != value.numel() - kept:
            raise UnprovedError(f"{node.target} ({node.name}): kept entries are computed from removed ones")

    def _meet(self, node: fx.Node) -> Any:
        """Apply an operator some of whose operands have removed entries."""
        target: Any = node.target
        name = _name(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if name in CONTRACT:
            self._assert_proper(node, name)
            args, kwargs = self._zeroed(node.args, args), self._zeroed(node.kwargs, kwargs)
        elif name == "batch_norm" and _arguments(node)["training"]:
            return self._statistics_of_batch(node)
        elif name in NORM:
            return self._norm(node, name)
        elif name in REDUCE and target._overloadname != "other":  # the larger of two is elementwise
            return self._reduced(node, target)
        elif name in WHOLE:
            dim = int(_arguments(node).get("dim", -1))
            self._assert_along(node, node.all_input_nodes[0], [dim])
        elif name in SPATIAL:
            self._assert_along(node, node.all_input_nodes[0], range(-SPATIAL[name], 0))
        elif name == "instance_norm":
            self._assert_along(node, node.all_input_nodes[0], range(2, node.meta["val"].ndim))
        elif name not in UNTOUCHED | REDUCE and not _is_pointwise(target):
            raise UnprovedError(f"{node.target} ({node.name}) meets removed entries")
        return self.call_function(target, args, kwargs)

    # --- operands ---

    def _dead(self, node: fx.Node) -> bool:
        """Tell whether a tensor has removed entries."""
        return any(not bool(mask.all()) for masks in self._all_masks(node) for mask in masks)

    def _all_masks(self, node: fx.Node) -> list[tuple[Mask, ...]]:
        masks = self.masks.get(node.name, ())
        return masks if isinstance(masks, list) else [masks]

    def _of(self, node: fx.Node) -> tuple[Mask, ...]:
        return self._all_masks(node)[0]

    def _zeroed(self, nodes: Any, values: Any) -> Any:
        """Return operands with zeros in their removed entries, whatever stood there."""

        def zero(node: Any, value: Any) -> Any:
            if isinstance(node, fx.Node) and isinstance(value, Tensor):
                for dim, mask in enumerate(self._of(node)):
                    if not mask.all():
                        value = value.index_fill(dim, torch.from_numpy((~mask).nonzero()[0]), 0)
            return value

        return pytree.tree_map(zero, nodes, values)

    def _kept(self, node: fx.Node, dim: int) -> Tensor:
        """Return the indices of the kept entries of a tensor along one dimension."""
        return torch.from_numpy(self._of(node)[dim].nonzero()[0])

    # --- statistics ---

    def _reduced(self, node: fx.Node, target: Any) -> Any:
        """Take the removed entries out along the dimensions that vanish, then reduce."""
        source = node.all_input_nodes[0]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        value = args[0]
        given = _arguments(node).get("dim")
        every = range(value.ndim)
        for dim in every if given is None or given == [] else [given] if isinstance(given, int) else given:
            value = value.index_select(dim, self._kept(source, dim))
        return target(value, *args[1:], **kwargs)

    def _norm(self, node: fx.Node, name: str) -> Tensor:
        """Normalise the kept entries by themselves; removed ones become zeros."""
        given = _arguments(node)
        source = given["input"]
        value, weight, bias = (self._value(given.get(key)) for key in ("input", "weight", "bias"))
        if name == "group_norm":
            return self._group_norm(source, value, given["num_groups"], weight, bias, given["eps"])
        count = len(given["normalized_shape"])
        last = range(value.ndim - count, value.ndim)
        small = _picked(value, {dim: self._kept(source, dim) for dim in last})
        inner = {dim - last[0]: self._kept(source, dim) for dim in last}
        weight, bias = (None if one is None else _picked(one, inner) for one in (weight, bias))
        shape = list(small.shape[-count:])
        if name == "layer_norm":
            done = functional.layer_norm(small, shape, weight, bias, given["eps"])
        else:
            done = functional.rms_norm(small, shape, weight, given["eps"])
        return _put_back(value, done, {dim: self._kept(source, dim) for dim in last})

    def _statistics_of_batch(self, node: fx.Node) -> Tensor:
        """Batch norm that always takes its statistics (of standardised weights): those of the kept entries."""
        given = _arguments(node)
        source, value = given["input"], self._value(given["input"])
        kept = {dim: self._kept(source, dim) for dim in range(value.ndim) if dim != 1}
        weight, bias = (self._value(given[key]) for key in ("weight", "bias"))
        small = _picked(value, kept)
        done = functional.batch_norm(small, None, None, weight, bias, True, 0.0, given["eps"])
        return _put_back(value, done, kept)

    def _group_norm(
        self, source: fx.Node, value: Tensor, groups: int, weight: Any, bias: Any, eps: float
    ) -> Tensor:
        """Input (N, C, ...); each group's statistics are of its own kept channels and all positions."""
        self._assert_along(source, source, range(2, value.ndim))
        result = torch.zeros_like(value)
        channels = self._kept(source, 1)
        size = value.shape[1] // groups
        for group in range(groups):
            mine = channels[channels // size == group]
            if len(mine):
                scale, shift = (None if one is None else one[mine] for one in (weight, bias))
                result[:, mine] = functional.group_norm(value[:, mine], 1, scale, shift, eps)
        return result

    def _value(self, node: Any) -> Any:
        return self.env[node] if isinstance(node, fx.Node) else node

    # --- what must not happen ---

    def _assert_proper(self, node: fx.Node, name: str) -> None:
        """Products are of all kinds of entries, but positions of a sequence or an image must all be there."""
        if name == "scaled_dot_product_attention":
            for operand in ("key", "value"):
                self._assert_along(node, _arguments(node)[operand], [-2])
        elif name.startswith("conv"):
            kernel = _arguments(node)["weight"].meta["val"].shape[2:]
            wide = [dim - len(kernel) for dim, size in enumerate(kernel) if size > 1]
            self._assert_along(node, node.all_input_nodes[0], wide)
        elif name in {"lstm", "gru"}:
            self._assert_along(node, node.all_input_nodes[0], [0, 1])

    def _assert_along(self, node: fx.Node, source: fx.Node, dims: Sequence[int]) -> None:
        for dim in dims:
            if not self._of(source)[dim].all():
                raise UnprovedError(
                    f"{node.target} ({node.name}) mixes dimension {dim}, where entries were removed"
                )

    def _assert_whole(self, output: fx.Node) -> None:
        for node in output.all_input_nodes:
            if node not in self.gone - set(self.detours) and self._dead(node):
                raise UnprovedError(f"{node.name} is an output of the model, and entries of it were removed")


def _masks(alive: Alive, value: Value | tuple[Value, ...]) -> Any:
    """Return a tuple of masks for a tensor, a list of such for several."""
    return alive.masks(value) if isinstance(value, Value) else [alive.masks(one) for one in value]


def _picked(value: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    for dim, indices in kept.items():
        value = value.index_select(dim, indices)
    return value


def _put_back(full: Tensor, part: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """Return zeros of the full shape with `part` in the kept entries."""
    places = [kept.get(dim, torch.arange(size)) for dim, size in enumerate(full.shape)]
    result = torch.zeros_like(full)
    result[torch.meshgrid(*places, indexing="ij")] = part
    return result


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by their names in the operator's schema, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {one.name: one.default_value for one in schema}
    named.update(zip(named, node.args, strict=False))
    named.update(node.kwargs)
    return named


def _name(node: fx.Node) -> str:
    """Return "add" for aten.add_.Tensor."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rstrip("_")


def _overlaps(value: Tensor) -> bool:
    return any(step == 0 < size - 1 for step, size in zip(value.stride(), value.shape, strict=True))


def _is_pointwise(target: Any) -> bool:
    return torch.Tag.pointwise in getattr(target, "tags", ())


# --- dropped blocks ---


def _detour(capture: Capture, block: str) -> tuple[fx.Node, fx.Node]:
    """Return the node that gives what a block gives, and the one that gives what it takes."""
    inside = {node: None for node in capture.program.graph.nodes if _is_inside(node, block)}
    leaving = [node for node in inside if any(user not in inside for user in node.users)]
    assert len(leaving) == 1, f"block {block} gives {[node.name for node in leaving]}"
    shape = leaving[0].meta["val"].shape
    sources = {one: None for node in inside for one in node.all_input_nodes if one not in inside}
    entering = [
        one for one in sources if one.name not in capture.parameters and one.meta["val"].shape == shape
    ]
    assert len(entering) == 1, f"block {block} takes {[node.name for node in entering]}"
    return leaving[0], entering[0]


def _is_inside(node: fx.Node, block: str) -> bool:
    stack = node.meta.get("nn_module_stack", {}).values()
    return node.op == "call_function" and any(str(path) == block for path, _ in stack)


# --- double precision ---


def _lifted(capture: Capture, parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what the graph's placeholders of parameters, buffers and constants stand for, in their order."""
    program = capture.program
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in targets:
            name = targets[node.name]
            found.append(parameters[name] if name in parameters else stored[name])
    return found


def _wide(value: Any, *, also_tensors: bool) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _NARROW else value
    return _to_double(value) if also_tensors and isinstance(value, Tensor) else value


def _to_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype in _NARROW else tensor


@contextmanager
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), InDouble():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)


def _off(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape or not torch.equal(found.isfinite(), wanted.isfinite()):
        return float("inf")
    found, wanted = (torch.nan_to_num(one.double(), 0.0, 0.0, 0.0) for one in (found, wanted))
    size = float(wanted.abs().amax()) if wanted.numel() else 0.0
    gap = float((found - wanted).abs().amax()) if wanted.numel() else 0.0
    return gap / size if size else gap
