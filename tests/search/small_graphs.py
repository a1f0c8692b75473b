"""Small graphs put together by hand, where a test needs to say exactly what a graph holds."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.graph import Block, ComputeLayer, DependencyGraph, LiveSet, PruningGroup, trace
from pipeline.search import LayerShape

NOTHING_CAPTURED = trace(nn.Identity(), torch.zeros(1, 2)).capture


def graph_of(widths, layers, liveness=()) -> DependencyGraph:
    """A graph; layers that say which group they go with make a block of that group's name."""
    groups = tuple(PruningGroup(name, width, (), (), ()) for name, width in widths.items())
    inside = {name: tuple(each.name for each in layers if each.only_with == name) for name in widths}
    blocks = tuple(Block(f"block {name}", name, names) for name, names in inside.items() if names)
    model = nn.Identity()
    return DependencyGraph(
        groups, (), tuple(layers), tuple(liveness), "", model, blocks, tuple(widths), capture=NOTHING_CAPTURED
    )


def conv(name, in_width, out_width, in_groups=(), out_group=None, *, in_fixed=0, **more) -> ComputeLayer:
    """A 3×3 convolution of an 8×8 image, then ReLU, unless `more` says otherwise."""
    usual = {
        "name": name,
        "kind": "conv2d",
        "in_width": in_width,
        "out_width": out_width,
        "in_groups": in_groups,
        "in_repeat": 1,
        "out_group": out_group,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "groups": 1,
        "depthwise": False,
        "input_hw": (8, 8),
        "output_hw": (8, 8),
        "bias": True,
        "activation": "relu",
        "in_fixed": in_fixed if in_groups else in_width,
        "out_fixed": 0 if out_group else out_width,
    }
    return ComputeLayer(**{**usual, **more})


def linear(name, in_width, out_width, in_groups=(), **more) -> ComputeLayer:
    point = {"kernel": (1, 1), "padding": (0, 0), "input_hw": (1, 1), "output_hw": (1, 1), "activation": None}
    return conv(name, in_width, out_width, in_groups, kind="linear", **point, **more)


def chain() -> DependencyGraph:
    """Image → conv a → depthwise d → conv b → flatten 2×2 → classifier."""
    return graph_of(
        {"a": 16, "b": 24},
        (
            conv("a", 3, 16, (), "a"),
            conv("d", 16, 16, ("a",), "a", groups=16, depthwise=True),
            conv("b", 16, 24, ("a",), "b", stride=(4, 4), output_hw=(2, 2)),
            linear("head", 96, 10, ("b",), in_repeat=4),
        ),
        (
            LiveSet("a", 768, {"a": 256.0}),
            LiveSet("d", 0, {"a": 512.0}),
            LiveSet("b", 0, {"a": 256.0, "b": 16.0}),
        ),
    )


def joined() -> DependencyGraph:
    """Two convolutions of the image, joined with four channels that stay, into a depthwise and a full one."""
    return graph_of(
        {"a": 8, "b": 16, "c": 8},
        (
            conv("a", 3, 8, (), "a"),
            conv("b", 3, 16, (), "b"),
            conv("mix", 28, 28, ("a", "b"), in_fixed=4, groups=28, depthwise=True),
            conv("c", 28, 8, ("a", "b"), "c", in_fixed=4),
            linear("head", 8, 10, ("c",)),
        ),
    )


def residual() -> DependencyGraph:
    """A stem, a basic block, a block that begins with a depthwise layer on the stream, and a classifier."""
    inner, wide = {"only_with": "inner"}, {"only_with": "wide"}
    return graph_of(
        {"trunk": 8, "inner": 6, "wide": 24},
        (
            conv("stem", 3, 8, (), "trunk"),
            conv("inner.a", 8, 6, ("trunk",), "inner", **inner),
            conv("inner.b", 6, 8, ("inner",), "trunk", **inner),
            conv("wide.d", 8, 8, ("trunk",), "trunk", groups=8, depthwise=True, **wide),
            conv("wide.a", 8, 24, ("trunk",), "wide", **wide),
            conv("wide.b", 24, 8, ("wide",), "trunk", **wide),
            linear("head", 8, 10, ("trunk",)),
        ),
        (
            LiveSet("stem", 768, {"trunk": 256.0}),
            LiveSet("inner.b", 32, {"trunk": 512.0, "inner": 256.0}, "inner"),
            LiveSet("wide.d", 32, {"trunk": 768.0}, "wide"),
            LiveSet("wide.b", 0, {"trunk": 512.0, "wide": 256.0}, "wide"),
            LiveSet("head", 0, {"trunk": 256.0}),
        ),
    )


def resnet20() -> DependencyGraph:
    """ResNet-20 for 32×32 images, with one group for each stage's trunk and one inside each block."""
    widths, layers = {}, [conv("conv1", 3, 16, (), "trunk1", input_hw=(32, 32))]
    stages, before, size = {1: 16, 2: 32, 3: 64}, 1, 32
    for stage, width in stages.items():
        trunk = f"trunk{stage}"
        widths[trunk] = width
        for block in range(3):
            step = 2 if stage > 1 and block == 0 else 1
            inner = f"inner{stage}.{block}"
            widths[inner] = width
            front = {"stride": (step, step), "input_hw": (size, size)}
            layers.append(conv(f"{inner}.a", stages[before], width, (f"trunk{before}",), inner, **front))
            size //= step
            layers.append(conv(f"{inner}.b", width, width, (inner,), trunk, input_hw=(size, size)))
            before = stage
    layers.append(linear("fc", 64, 10, ("trunk3",)))
    return graph_of(widths, layers, map(live, layers[:-1]))


def live(layer: ComputeLayer) -> LiveSet:
    """Bytes of a layer's input and output, both as large as its input."""
    groups = {*layer.in_groups, layer.out_group} - {None}
    return LiveSet(layer.name, 0, dict.fromkeys(sorted(groups), 4.0 * layer.input_hw[0] ** 2))


def macs(shape: LayerShape) -> float:
    """Multiply-adds of a shape, in millions, as a stand-in for milliseconds."""
    high, wide = shape.output_hw
    return (shape.weight_count - shape.out_width * shape.bias) * high * wide / 1e6
