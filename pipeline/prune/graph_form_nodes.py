"""A captured graph written anew, node by node, with its mends."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from pipeline.errors import ModelError
from pipeline.graph.capture import Capture
from pipeline.graph.flow import describe_place, modules_of, operator_name
from pipeline.graph.rules.registry import arguments, given_arguments
from pipeline.prune.graph_form_batch import BatchSizes
from pipeline.prune.graph_form_weights import constant_attribute
from pipeline.prune.mends_base import Mend
from pipeline.prune.plan import is_constant, is_within

_aten = torch.ops.aten
_MODE = ("training", "train", "use_input_stats")  # arguments that are true while a module trains
OUT_SPEC = "_out_spec"


class GraphWriter:
    """Writes one graph; `tensors` are the index constants that it needs, `modules` graphs that it calls."""

    def __init__(
        self,
        capture: Capture,
        changes: Sequence[Mend],
        dropped: Collection[str],
        sizes: BatchSizes | None,
        paths: Collection[str],
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.modules: dict[str, torch.nn.Module] = {}
        self._program, self._parameters = capture.program, capture.parameters
        self._dropped = set(dropped)
        self._sizes, self._paths = sizes, paths
        self._graph = fx.Graph()
        self._copies: dict[fx.Node, Any] = {}
        self._attributes: dict[str, fx.Node] = {}
        self._changes: dict[str, list[Mend]] = {}
        for change in changes:
            self._changes.setdefault(change.node, []).append(change)

    def write(self) -> fx.Graph:
        """Return the graph: its placeholders are the inputs, its attributes those of the slimmed module.

        Raises:
            ModelError: a module to drop has not one input and one output.
        """
        nodes = list(self._program.graph.nodes)
        self._skips = dict(_ends(nodes, name, self._parameters) for name in self._dropped)
        self._place_inputs([node for node in nodes if node.op == "placeholder"])
        for node in nodes:
            if node.op == "call_function" and not self._dropped.isdisjoint(modules_of(node)):
                continue
            if node.op == "call_function":
                self._copies[node] = self._call(node)
            elif node.op == "get_attr":
                self.modules[f"_{node.target}"] = self._program.graph_module.get_submodule(str(node.target))
                self._copies[node] = self._attribute(f"_{node.target}")
            elif node.op == "output":
                self._give(node)
        return self._graph

    # --- inputs and outputs ---

    def _place_inputs(self, nodes: Sequence[fx.Node]) -> None:
        """User inputs first, in order; then what belongs to the model."""
        inputs = [node for node in nodes if node.name not in self._parameters]
        for node in inputs:
            self._copies[node] = self._graph.placeholder(node.name)
        if self._sizes and self._sizes.arguments:
            self._batch = self._graph.call_function(_aten.sym_size.int, (self._copies[inputs[0]], 0))
        self._like = None
        for node in nodes:
            name = self._parameters.get(node.name)
            if name is None or any(is_within(name, each) for each in self._dropped):
                continue
            if self._like is None and not is_constant(name) and node.meta["val"].is_floating_point():
                self._like = (name, node.meta["val"])
            if node.users:
                attribute = constant_attribute(node.name) if is_constant(name) else name
                self._copies[node] = self._attribute(attribute)

    def _give(self, node: fx.Node) -> None:
        """The tensors that the model gives, as it packs them."""
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        pairs = zip(node.args[0], kinds, strict=True)  # type: ignore[arg-type]
        leaves = [self._mapped(leaf) for leaf, kind in pairs if kind == OutputKind.USER_OUTPUT]
        if self._program.call_spec.out_spec.is_leaf():
            self._graph.output(leaves[0])
        else:
            spec = self._attribute(OUT_SPEC)
            self._graph.output(self._graph.call_function(pytree.tree_unflatten, (leaves, spec)))

    # --- calls ---

    def _call(self, node: fx.Node) -> Any:
        changes = self._changes.get(node.name, [])
        target: Any = node.target
        if not hasattr(target, "_schema"):
            return self._graph.call_function(target, *self._mapped((node.args, node.kwargs)))
        if changes and changes[0].target is not None:
            return self._substitute(node, changes[0])
        name, given = operator_name(node), given_arguments(node)
        if name == "_assert_tensor_metadata":
            return None
        if name == "to" and _is_idle(node):
            return self._copy(node.all_input_nodes[0])
        new = self._mapped(given)
        new.update({change.argument: change.after for change in changes})
        new.update(self._batched(node, new))
        new.update(self._modes(node))
        if name == "to" or name.startswith("new_") or not node.all_input_nodes:
            new.update(self._kinds(given))
        if target is _aten.view.default:  # strides that allow a view at one batch size may not at another
            target = _aten.reshape.default
        return self._graph.call_function(target, *_by_position(node, new))

    def _substitute(self, node: fx.Node, change: Mend) -> Any:
        """Call the operator that a mend names in the node's place."""
        given = self._mapped(arguments(node))
        source = given["self"]
        if change.target == "squeeze":
            return self._graph.call_function(_aten.squeeze.dims, (source, change.after))
        if change.target == "split_with_sizes":
            args: tuple[Any, ...] = (source, change.after, change.dim)
            return self._graph.call_function(_aten.split_with_sizes.default, args)
        name = f"_index_{node.name}"
        self.tensors[name] = torch.tensor(change.after, dtype=torch.int64)
        index = self._attribute(name)
        if change.target == "index_copy":
            return self._graph.call_function(
                _aten.index_copy.default, (source, change.dim, index, given["src"])
            )
        return self._graph.call_function(_aten.index_select.default, (source, change.dim, index))

    def _batched(self, node: fx.Node, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sizes that follow the batch, as multiples of it."""
        follows = self._sizes.arguments.get(node.name, {}) if self._sizes else {}
        return {name: self._times_batch(given[name], which) for name, which in follows.items()}

    def _times_batch(self, value: Any, follows: Any) -> Any:
        if isinstance(follows, list):
            return [self._times_batch(each, which) for each, which in zip(value, follows, strict=True)]
        if not follows or self._sizes is None:
            return value
        share = value // self._sizes.batch
        return self._batch if share == 1 else self._graph.call_function(operator.mul, (self._batch, share))

    def _modes(self, node: fx.Node) -> dict[str, fx.Node]:
        """Return what follows `train()` and `eval()` of the module that runs the node; what is always on stays so."""
        given = arguments(node)
        names = [name for name in _MODE if given.get(name) is False]
        path = describe_place(node)
        owner = f"{path}." if path in self._paths and path else ""
        return {name: self._attribute(f"{owner}training") for name in names}

    def _kinds(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return dtype and device of a new tensor; where they are the model's, they follow it."""
        if self._like is None:
            return {}
        name, example = self._like
        found = {}
        for kind in ("dtype", "device"):
            if given.get(kind) is not None and given[kind] == getattr(example, kind):
                like = self._attribute(name)
                found[kind] = self._graph.call_function(getattr, (like, kind))
        return found

    # --- references ---

    def _attribute(self, name: str) -> fx.Node:
        """Return the node that reads an attribute of the slimmed module, once a run."""
        if name not in self._attributes:
            self._attributes[name] = self._graph.get_attr(name)
        return self._attributes[name]

    def _mapped(self, given: Any) -> Any:
        return pytree.tree_map_only(fx.Node, self._copy, _plain(given))

    def _copy(self, node: fx.Node) -> Any:
        while node in self._skips:
            node = self._skips[node]
        return self._copies[node]


def _plain(given: Any) -> Any:
    """Return arguments as plain lists and dictionaries, which `torch.fx` makes immutable."""
    if isinstance(given, list | tuple):
        return type(given)(map(_plain, given)) if type(given) is tuple else [_plain(each) for each in given]
    return {key: _plain(value) for key, value in given.items()} if isinstance(given, dict) else given


def _by_position(node: fx.Node, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments by position up to the first that is missing, then by name."""
    leading = []
    for argument in node.target._schema.arguments:  # type: ignore[union-attr] # noqa: SLF001
        if argument.kwarg_only or argument.name not in given:
            break
        leading.append(given.pop(argument.name))
    return tuple(leading), given


def _is_idle(node: fx.Node) -> bool:
    """Tell whether a conversion gives what it is given."""
    args, (source, result) = arguments(node), (node.all_input_nodes[0].meta["val"], node.meta["val"])
    same = source.dtype == result.dtype and source.device == result.device
    return same and not args.get("copy") and args.get("memory_format") is None


# --- dropped modules ---


def _ends(nodes: Sequence[fx.Node], name: str, parameters: Mapping[str, str]) -> tuple[fx.Node, fx.Node]:
    """Return the one tensor that a module gives and the one of that shape that it takes."""
    inside = {node for node in nodes if name in modules_of(node)}
    made = [node for node in nodes if node in inside and any(user not in inside for user in node.users)]
    sources = {source: None for node in nodes if node in inside for source in node.all_input_nodes}
    given = [
        source
        for source in sources
        if source not in inside
        and source.name not in parameters
        and len(made) == 1
        and _shape(source) == _shape(made[0])
    ]
    if len(made) != 1 or len(given) != 1:
        raise ModelError(
            f"{name} cannot be dropped: it has not one input and one output of equal shape",
            hint="graph.blocks lists the modules that can go",
        )
    return made[0], given[0]


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None
