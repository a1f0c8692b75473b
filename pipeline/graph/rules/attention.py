"""Attention and sums over named indices: products between activations, head by head."""

from __future__ import annotations

from collections import Counter
from string import ascii_letters

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, refuse, rule
from pipeline.graph.units import Ids


@rule("aten.scaled_dot_product_attention.default")
def attention(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Query (..., H, L, E), key (..., K, S, E), value (..., K, S, V); with grouped queries K divides H.

    The scores are at the scale of the full head width; the softmax needs all S positions.
    """
    query, key, value = (flow.value(args[name]) for name in ("query", "key", "value"))
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    flow.merge([query.dims[-1], key.dims[-1]], reason)
    operands = [(query, -3), (key, -3), (value, -3)]
    positions = [key.dims[-2], value.dims[-2]]
    rows = [query.dims[-2]]
    if args["attn_mask"] is not None:
        mask = flow.value(args["attn_mask"])
        positions += mask.dims[-1:] if mask.shape[-1] == key.shape[-2] else ()
        rows += mask.dims[-2:-1] if mask.shape[-2] == query.shape[-2] else ()
        operands.append((mask, -3))
    for ids in positions:
        if ids is not None:
            flow.units.freeze(ids, f"{describe(node)} takes a softmax over it")
    batch = [_along(flow, operands, query.shape, back, reason) for back in range(len(query.shape), 2, -1)]
    flow.heads += [ids for ids in batch if ids is not None]
    return Value(shape_of(node), (*batch, flow.merge(rows, reason), value.dims[-1]))


def _along(
    flow: Flow, operands: list[tuple[Value, int]], shape: tuple[int, ...], back: int, reason: str
) -> Ids | None:
    """Couple one batch dimension; a key shared by several queries goes with all of them."""
    parts: list[Ids | None] = []
    for operand, _ in operands:
        if len(operand.shape) < back or operand.shape[-back] == 1 < shape[-back]:
            continue
        ids, repeats = operand.dims[-back], shape[-back] // operand.shape[-back]
        parts.append(ids if ids is None or repeats == 1 else np.repeat(ids, repeats))
    return flow.merge(parts, reason)


@rule("aten.einsum.default")
def einsum(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Every letter is one set of units; letters that the result lacks are summed over."""
    ranks = [len(shape_of(source)) for source in args["tensors"]]
    terms, result = _terms(str(args["equation"]).replace(" ", ""), ranks)
    if any(len(set(term)) < len(term) for term in terms):
        return refuse(flow, node, f"{describe(node)} with {args['equation']!r} has no pruning rule")
    found: dict[str, Ids | None] = {}
    activations: Counter[str] = Counter()
    for term, source in sorted(zip(terms, args["tensors"], strict=True), key=lambda p: flow.is_weight(p[1])):
        if flow.is_weight(source) and found:
            _use_weight(flow, node, source, term, found, result)
            continue
        activations.update(term)
        for letter, ids in zip(term, flow.value(source).dims, strict=True):
            reason = f"{describe(node)} combines it with a tensor of fixed width"
            found[letter] = flow.merge([found[letter], ids], reason) if letter in found else ids
    for letter in result:
        ids = found[letter]
        if ids is not None and activations[letter] > 1:
            flow.heads.append(ids)
    return Value(shape_of(node), tuple(found[letter] for letter in result))


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return every operand's letters and the result's, with letters of their own in the place of "..."."""
    inputs, arrow, result = equation.partition("->")
    terms = inputs.split(",")
    spare = [letter for letter in ascii_letters if letter not in equation]
    rest = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max((count for count, term in zip(rest, terms, strict=True) if "..." in term), default=0)
    hidden = "".join(spare[:most])
    if not arrow:  # letters that come once, in alphabetical order, as in the classical notation
        once = sorted(letter for letter in set(inputs) - set(".,") if inputs.count(letter) == 1)
        result = ("..." if most else "") + "".join(once)
    shown = [
        term.replace("...", hidden[most - count :] if count else "")
        for term, count in zip(terms, rest, strict=True)
    ]
    return shown, result.replace("...", hidden)


def _use_weight(
    flow: Flow, node: fx.Node, weight: fx.Node, term: str, found: dict[str, Ids | None], result: str
) -> None:
    """Letters that are summed over are a weight's inputs, new ones its outputs."""
    new = [dim for dim, letter in enumerate(term) if letter not in found]
    for dim, letter in enumerate(term):
        if dim not in new:
            flow.claim(node, weight, dim, found[letter], "along" if letter in result else "in")
    for dim in new:
        found[term[dim]] = flow.produce(node, weight, dim)
