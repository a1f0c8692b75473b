"""Recurrent layers: one set of hidden units, shared by all layers and directions of a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, shape_of
from pipeline.graph.rules.dimensions import fixed_results, freeze_dims
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@dataclass(frozen=True)
class _Units:
    """The hidden units, once for every gate, and those that go on to the next step and layer.

    These are the hidden ones again, unless an LSTM projects them.
    """

    hidden: Ids | None
    gates: Ids | None
    going: Ids | None


@rule("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
def recurrent(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Input (batch, time, in), (time, batch, in) or (time, in); states (layers * directions, batch, hidden)."""
    value, directions = flow.value(args["input"]), 1 + bool(args["bidirectional"])
    batched = len(value.dims) == 3
    time = 1 if batched and args["batch_first"] else 0
    batch = value.dims[1 - time : 2 - time] if batched else ()
    freeze_dims(flow, node, [value.dims[time]], "runs along it")
    each = len(args["params"]) // (int(args["num_layers"]) * directions)
    cells = [args["params"][start : start + each] for start in range(0, len(args["params"]), each)]
    units = _units(flow, node, cells[0], args["has_biases"])
    incoming = value.dims[-1]
    for number, cell in enumerate(cells):
        _claim_cell(flow, node, cell, incoming, units, has_biases=args["has_biases"])
        if number % directions == directions - 1:
            incoming = None if units.going is None else np.tile(units.going, directions)
    _claim_states(flow, node, args["hx"], (None, *batch), units)
    first, *states = fixed_results(node)
    ends = [
        Value(one.shape, (None, *batch, ids))
        for one, ids in zip(states, (units.going, units.hidden), strict=False)
    ]
    return (Value(first.shape, (*value.dims[:-1], incoming)), *ends)


@rule(
    "aten.lstm_cell.default",
    "aten.gru_cell.default",
    "aten.rnn_tanh_cell.default",
    "aten.rnn_relu_cell.default",
)
def cell(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """One step of one layer: input (batch, in), states (batch, hidden)."""
    value = flow.value(args["input"])
    parameters = [args[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    units = _units(flow, node, parameters, has_biases=True)
    _claim_cell(flow, node, parameters, value.dims[-1], units, has_biases=True)
    _claim_states(flow, node, args["hx"], value.dims[:-1], units)
    results = tuple(Value(one.shape, (*value.dims[:-1], units.hidden)) for one in fixed_results(node))
    return results if isinstance(node.meta["val"], list | tuple) else results[0]


def _units(flow: Flow, node: fx.Node, parameters: Sequence[fx.Node], has_biases: bool) -> _Units:
    gates = {"lstm": 4, "gru": 3}.get(str(node.target).split(".")[1].split("_")[0], 1)
    rows, going_width = shape_of(parameters[1])
    hidden = flow.units.fresh(rows // gates)
    projects = len(parameters) == (5 if has_biases else 3)
    if projects:  # PyTorch tells a projection by its being narrower
        freeze_dims(flow, node, [hidden], "projects it to fewer")
    going = flow.units.fresh(going_width) if projects else hidden
    return _Units(hidden, None if hidden is None else np.tile(hidden, gates), going)


def _claim_cell(
    flow: Flow,
    node: fx.Node,
    parameters: Sequence[fx.Node],
    incoming: Ids | None,
    units: _Units,
    *,
    has_biases: bool,
) -> None:
    """Parameters: (gates * hidden, in), (gates * hidden, going), two biases, a projection (going, hidden)."""
    from_input, from_state, *rest = parameters
    for weight, ids in ((from_input, incoming), (from_state, units.going)):
        flow.claim(node, weight, 0, units.gates, "out")
        flow.claim(node, weight, 1, ids, "in")
    biases, projection = (rest[:2], rest[2:]) if has_biases else ([], rest)
    for bias in biases:
        flow.claim(node, bias, 0, units.gates, "along")
    for weight in projection:
        flow.claim(node, weight, 0, units.going, "out")
        flow.claim(node, weight, 1, units.hidden, "in")


def _claim_states(
    flow: Flow,
    node: fx.Node,
    given: fx.Node | Sequence[fx.Node],
    leading: tuple[Ids | None, ...],
    units: _Units,
) -> None:
    """An LSTM has two states: what goes on, and the hidden units' memory."""
    states = [given] if isinstance(given, fx.Node) else given
    for state, last in zip(states, (units.going, units.hidden), strict=False):
        for dim, ids in enumerate((*leading, last)):
            flow.claim(node, state, dim, ids, "along")
