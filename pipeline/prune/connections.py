"""Connection pruning: single weights that are zero, of any pattern or N of every M, as part of a plan.

The shapes stay; only kernels and formats that know of zeros gain by it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph
    from pipeline.prune.plan import SlimmingPlan

UNSTRUCTURED = "unstructured"
_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True)
class Connections:
    """Which entries of one parameter stay: `kept` holds the bits of a mask of `shape`, base64.

    The shape is the parameter's before any channel is taken out. `pattern` is "unstructured" or "N:M".
    """

    pattern: str
    shape: tuple[int, ...]
    kept: str

    @classmethod
    def of(cls, mask: Tensor, pattern: str) -> Connections:
        """Return the connections that a truth value an entry tells."""
        bits = np.packbits(mask.cpu().numpy().reshape(-1))
        return cls(pattern, tuple(mask.shape), base64.b64encode(bits.tobytes()).decode())

    def mask(self) -> Tensor:
        """Return one truth value an entry.

        Raises:
            ModelError: the bits are not those of a mask of this shape.
        """
        count = int(np.prod(self.shape, dtype=np.int64))
        try:
            bits = np.frombuffer(base64.b64decode(self.kept, validate=True), dtype=np.uint8)
        except ValueError as error:
            raise ModelError(f"a connection mask is not base64: {error}") from error
        if len(bits) != -(-count // 8):
            raise ModelError(f"a connection mask has {8 * len(bits)} bits for {count} entries")
        return torch.from_numpy(np.unpackbits(bits, count=count).astype(np.bool_)).reshape(self.shape)


def connection_plan(
    graph: DependencyGraph,
    keep: float = 0.5,
    pattern: str = UNSTRUCTURED,
    base: SlimmingPlan | None = None,
    ignore: Collection[str] = (),
) -> SlimmingPlan:
    """Return a plan that zeroes the smallest weights of the convolutions and linear layers.

    Args:
        graph: the traced model.
        keep: share of all weights to keep, the largest in magnitude over the whole model (Han et al. 2015,
            "Learning both Weights and Connections", section 3); not looked at with an N:M pattern.
        pattern: "unstructured", or "N:M": of every M weights in a row along the input dimension the N largest
            (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3). A shorter rest keeps the
            same share, rounded up.
        base: a plan whose channels go first; connections are chosen among what it leaves.
        ignore: names of parameters to leave dense.

    Raises:
        ModelError: `keep` is not above 0 up to 1, the pattern is none, or `ignore` names no weight.
    """
    plan = base if base is not None else graph.plan({})
    weights = _weights(graph.model)
    unknown = sorted(set(ignore) - set(weights))
    if unknown:
        raise ModelError(f"ignore: no weight of a layer is named {unknown[0]!r}")
    left = {
        name: _left(weight, plan.slices.get(name, {}))
        for name, weight in weights.items()
        if name not in ignore and not any(f"{name}.".startswith(f"{each}.") for each in plan.dropped)
    }
    if pattern == UNSTRUCTURED:
        masks = _largest(left, keep)
    else:
        n, m = _parsed(pattern)
        masks = {name: largest_n_of_m(weight, n, m) for name, (weight, _) in left.items()}
    connections = {}
    for name, mask in masks.items():
        whole = torch.zeros(weights[name].shape, dtype=torch.bool)
        whole[left[name][1]] = mask
        connections[name] = Connections.of(whole, pattern)
    return replace(plan, connections=connections)


def largest_n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """Return the mask that keeps the `n` largest magnitudes of every `m` along dimension 1 (inputs).

    Raises:
        ModelError: `n` is not from 1 to `m`.
    """
    if not 1 <= n <= m:
        raise ModelError(f"{n}:{m} keeps {n} of every {m}", hint="N is from 1 to M, such as 2:4")
    rows = weight.detach().abs().float().movedim(1, -1)
    size = rows.shape[-1]
    mask = torch.zeros_like(rows, dtype=torch.bool)
    for start in range(0, size, m):
        part = rows[..., start : start + m]
        count = min(part.shape[-1], -(-n * part.shape[-1] // m))
        mask[..., start : start + m].scatter_(-1, part.topk(count, -1).indices, value=True)
    return mask.movedim(-1, 1)


def masks_of(plan: SlimmingPlan) -> dict[str, Tensor]:
    """Return the masks of a plan's connections, for the parameters as the plan leaves them."""
    masks = {}
    for name, connections in plan.connections.items():
        mask = connections.mask()
        for dim, kept in plan.slices.get(name, {}).items():
            mask = mask.index_select(dim, torch.tensor(kept))
        masks[name] = mask
    return masks


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero in place what the masks leave out.

    Raises:
        ModelError: a parameter is missing or of another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != mask.shape:
            found = "there is none" if parameter is None else f"it has shape {tuple(parameter.shape)}"
            raise ModelError(f"connections of {name}, shape {tuple(mask.shape)}: {found}")
        parameter.data.mul_(mask.to(parameter.device))


def hold_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> list[RemovableHandle]:
    """Keep what is zero at zero while the model trains: its gradients are zeroed, too.

    Returns:
        Handles; `remove()` lets go again.
    """
    apply_masks(model, masks)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    handles: list[RemovableHandle] = []
    for name, mask in masks.items():
        zeroed = partial(torch.mul, mask.to(parameters[name].device))
        handles.append(parameters[name].register_hook(zeroed))  # type: ignore[no-untyped-call]
    return handles


def _weights(model: nn.Module) -> dict[str, Tensor]:
    layers = {
        id(module.weight): None
        for module in model.modules()
        if isinstance(module, _ConvNd | nn.Linear) and isinstance(module.weight, nn.Parameter)
    }
    return {name: weight.detach() for name, weight in model.named_parameters() if id(weight) in layers}


def _left(weight: Tensor, dims: Mapping[int, tuple[int, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return what is left of a weight once channels are gone, and where that was in the whole one."""
    kept = [torch.tensor(dims.get(dim, range(size))) for dim, size in enumerate(weight.shape)]
    places = torch.meshgrid(*kept, indexing="ij")
    return weight[places], places


def _largest(left: Mapping[str, tuple[Tensor, tuple[Tensor, ...]]], keep: float) -> dict[str, Tensor]:
    if not 0.0 < keep <= 1.0:
        raise ModelError(f"keep={keep} gives no plan", hint="keep is a share above 0 up to 1")
    if not left:
        return {}
    sizes = torch.cat([weight.abs().float().reshape(-1) for weight, _ in left.values()])
    count = max(1, round(keep * len(sizes)))
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[torch.sort(sizes, descending=True, stable=True).indices[:count]] = True
    parts = torch.split(mask, [weight.numel() for weight, _ in left.values()])
    return {name: part.reshape(left[name][0].shape) for name, part in zip(left, parts, strict=True)}


def _parsed(pattern: str) -> tuple[int, int]:
    found = _PATTERN.fullmatch(pattern)
    if found is None:
        raise ModelError(
            f"{pattern!r} is no pattern of connections", hint='give "unstructured" or "N:M", as 2:4'
        )
    return int(found[1]), int(found[2])
