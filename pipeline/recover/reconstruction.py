"""Reconstruction: what stays of each layer is fitted anew to what the whole layer gave; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.preprocess import Preprocess, apply
from pipeline.data.splits import Split, shuffled
from pipeline.prune import SlimmingPlan
from pipeline.recover.batch_norm import batch_statistics
from pipeline.recover.randomness import generator
from pipeline.watch import Advance

PLACES = 32  # at which a layer is fitted for each weight of one output, as far as there are so many
# How much weights may be held where they are: shares of the inputs' mean square.
HOLDS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
APART = 4  # one image of so many is kept apart, to choose among these
FEWEST_IMAGES, MOST_IMAGES = 64, 1024
MOST_PIXELS = 2**20  # of all images together, but for the fewest
MOST_INPUTS = 8192  # of one output; the normal matrix of a layer with more is too large
_CHUNK = 4096  # places whose inputs are held in double precision at a time

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class _Aim:
    """What a layer is to give: `outputs` (S, channels) at S places.

    A place is a row and a column of a convolution's output for an image; of a linear layer it is the row of its
    flattened output. `images` says which image each place is of.
    """

    images: Tensor
    places: tuple[Tensor, ...]
    outputs: Tensor


def images_to_fit(split: Split, preprocess: Preprocess, seed: int) -> Tensor:
    """Return some of `split`, preprocessed, the same ones every time: the last in the order that `seed` shuffles it to.

    What begins that order, as a deploy's calibration images do, is not among them where there are enough.
    """
    inputs = split.inputs
    count = max(FEWEST_IMAGES, min(MOST_IMAGES, MOST_PIXELS // (inputs.shape[-1] * inputs.shape[-2])))
    return apply(preprocess, inputs[shuffled(split, seed)[-count:]])


def reconstruct(
    model: nn.Module, *, whole: nn.Module, plan: SlimmingPlan, inputs: Tensor, seed: int, progress: Advance
) -> int:
    """Fit the weights and biases of `model`, which is `whole` slimmed by `plan`, in place; return how many layers were.

    Every convolution and linear layer, from the first to the last, takes the weights with which it gives, from what
    reaches it in the slimmed network as fitted so far, most nearly what it gives in the whole one: least squares at
    places drawn by `seed` (He, Zhang and Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks, section
    3.1, for channels that are given, and for all layers). How much it is held towards the weights that it has is
    chosen by its error on images kept apart. Batch norms take the statistics of the batch meanwhile; recalibrate them
    afterwards.

    Left as they are: layers that are so no nearer to it, that run more than once, whose weights are shared, frozen or
    partly zero, of more than `MOST_INPUTS` inputs an output, and all of a model that was slimmed as a graph.

    Args:
        model: maps (N, C, H, W) to logits.
        whole: in eval mode; stays as it is.
        plan: what was taken from `whole`.
        inputs: (N, C, H, W), preprocessed; all go through the networks at once.
        seed: of the places.
        progress: told after each layer.
    """
    small, large = _layers(model, plan), _layers(whole, plan)
    both = {name: layer for name, layer in large.items() if name in small}
    if not both or len(inputs) < 2:  # a single image has no statistics
        return 0
    aims = _aims(whole, both, inputs, seed)
    done = 0

    def fit(name: str, _: nn.Module, given: tuple[Tensor]) -> None:
        nonlocal done
        aim, kept = aims[name], plan.slices.get(f"{name}.weight", {}).get(0)
        outputs = aim.outputs if kept is None else aim.outputs[:, list(kept)]
        apart = aim.images % APART == 0
        _fit(small[name], _inputs(small[name], given[0], aim), outputs, apart)
        done += 1
        progress(done=done, of=len(aims))

    with ExitStack() as hooks:
        for name in aims:
            hooks.callback(small[name].register_forward_pre_hook(partial(fit, name)).remove)
        with torch.no_grad(), batch_statistics(model):
            model(inputs)
    return done


def _layers(model: nn.Module, plan: SlimmingPlan) -> dict[str, Layer]:
    """Return the layers that can be fitted, by name; subclasses may compute something else, so they are left out."""
    owners = Counter(
        id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)
    )
    return {
        name: module
        for name, module in model.named_modules()
        if _is_fittable(module)
        and owners[id(module.weight)] == 1
        and module.weight.requires_grad
        and f"{name}.weight" not in plan.connections
    }


def _is_fittable(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        known = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return known and module.weight[0].numel() <= MOST_INPUTS
    return type(module) is nn.Linear and module.in_features <= MOST_INPUTS


def _aims(whole: nn.Module, layers: Mapping[str, Layer], inputs: Tensor, seed: int) -> dict[str, _Aim]:
    """Return what each of some layers of the whole network gives, in the order in which they run."""
    found: dict[str, _Aim] = {}
    runs: Counter[str] = Counter()

    def note(name: str, layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        del given
        runs[name] += 1
        draw, count = generator(seed, "reconstruction", name), len(output)
        enough = PLACES * layers[name].weight[0].numel()
        if isinstance(layer, nn.Conv2d):
            height, width = output.shape[2:]
            images = torch.arange(count).repeat_interleave(min(-(-enough // count), height * width))
            places = tuple(torch.randint(size, (len(images),), generator=draw) for size in (height, width))
            found[name] = _Aim(images, places, output[images, :, places[0], places[1]])
        else:
            rows = output.reshape(-1, output.shape[-1])
            place = torch.randperm(len(rows), generator=draw)[: max(enough, count)]
            found[name] = _Aim(place // (len(rows) // count), (place,), rows[place])

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(partial(note, name)).remove)
        with torch.no_grad():
            whole(inputs)
    return {name: aim for name, aim in found.items() if runs[name] == 1}


def _inputs(layer: Layer, given: Tensor, aim: _Aim) -> Tensor:
    """Return what a layer's outputs at its places are made of: (groups, S, inputs of one output)."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1])[aim.places[0]][None]
    high, wide = (int(size) for size in layer.padding)
    padded = functional.pad(given, [wide, wide, high, high])
    rows, columns = (
        start[:, None] * stride + torch.arange(kernel) * dilation
        for start, stride, kernel, dilation in zip(
            aim.places, layer.stride, layer.kernel_size, layer.dilation, strict=True
        )
    )
    patches = padded[aim.images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    count = len(aim.images)  # patches: (S, height, width, C)
    return patches.permute(0, 3, 1, 2).reshape(count, layer.groups, -1).transpose(0, 1)


def _fit(layer: Layer, inputs: Tensor, outputs: Tensor, apart: Tensor) -> None:
    """Give a layer the weights that lead from `inputs` (groups, S, k) most nearly to `outputs` (S, channels).

    They are fitted at all places but those that `apart` (S) marks, and chosen by these.
    """
    groups, count, size = inputs.shape
    own = layer.weight.detach().reshape(groups, -1, size).double()
    bias: Tensor | None = layer.bias
    if bias is not None:  # the weight of an input that is always 1
        inputs = torch.cat([inputs, inputs.new_ones(groups, count, 1)], 2)
        own = torch.cat([own, bias.detach().double().reshape(groups, -1, 1)], 2)
    aims = outputs.reshape(count, groups, -1).transpose(0, 1)
    squares, products = _normal(inputs[:, ~apart], aims[:, ~apart])
    tried = [own, *(_held(squares, products, own, size, hold) for hold in HOLDS)]
    given, wanted = inputs[:, apart].double(), aims[:, apart].double()
    errors = torch.stack([(wanted - given @ weights.mT).square().sum() for weights in tried])
    best = tried[int(errors.nan_to_num(nan=torch.inf).argmin())]
    layer.weight.data.copy_(best[:, :, :size].reshape(layer.weight.shape))
    if bias is not None:
        bias.data.copy_(best[:, :, size].reshape(-1))


def _normal(inputs: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides of the normal equations in double precision: (groups, k, k) and (groups, k, channels)."""
    groups, count, size = inputs.shape
    squares = torch.zeros(groups, size, size, dtype=torch.double)
    products = torch.zeros(groups, size, aims.shape[2], dtype=torch.double)
    for begin in range(0, count, _CHUNK):
        part = inputs[:, begin : begin + _CHUNK].double()
        squares += part.mT @ part
        products += part.mT @ aims[:, begin : begin + _CHUNK].double()
    return squares, products


def _held(squares: Tensor, products: Tensor, own: Tensor, size: int, hold: float) -> Tensor:
    """Return the weights of least error, the first `size` held towards `own`; NaN where nothing solves for them."""
    ridge = hold * squares.diagonal(dim1=1, dim2=2)[:, :size].mean(1)
    held = squares.clone()
    held.diagonal(dim1=1, dim2=2)[:, :size] += ridge[:, None]
    change, singular = torch.linalg.solve_ex(held, products - squares @ own.mT)
    return own + change.mT if not bool(singular.any()) else torch.full_like(own, torch.nan)
