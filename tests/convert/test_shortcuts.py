"""Shortcuts without weights become convolutions, exactly, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.convert.shortcuts import with_convolved_shortcuts

X = torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(3))


class Shortcut(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.shortcut = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(torch.relu(x)) + 1


def targets(forward: Callable[[Tensor], Tensor]) -> tuple[set[str], bool]:
    """The operators after rewriting, and whether the answer is the very same."""
    model = Shortcut(forward).eval()
    program = with_convolved_shortcuts(torch.export.export(model, (X,), strict=False))
    names = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    return names, torch.equal(program.module()(X), model(X))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)),
        lambda x: F.pad(x[:, :, ::3, :], (0, 0, 0, 0, 0, 4)),
        lambda x: F.pad(x[:, :, 0:, ::2][:, :, ::2, :], (0, 0, 0, 0, 2, 2), "constant", 0.0),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 0)),
        lambda x: F.pad(x[:, :, ::2][:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)),
    ],
    ids=["both-sides", "rows-only", "two-slices", "nothing-padded", "stride-4"],
)
def test_a_strided_slice_with_channels_of_zeros_is_one_convolution(forward) -> None:
    names, same = targets(forward)
    assert same
    assert "conv2d.default" in names
    assert not any("slice" in name or "pad" in name for name in names)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.pad(x[:, :, 1::2, ::2], (0, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x[:, :, :8:2, ::2], (0, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x[:, ::2, ::2, ::2], (0, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), "constant", 1.0),
        lambda x: F.pad(x[:, :, ::2, ::2], (1, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x[:, :, ::2, ::2], (1, 1, 1, 1)),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, -1, 1)),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
        lambda x: F.pad(x.flatten(2)[:, :, ::2], (0, 0, 1, 1)),
        lambda x: x[:, :, ::2, ::2],
    ],
    ids=[
        "later-start",
        "early-end",
        "channels-too",
        "ones",
        "pixels-too",
        "pixels-only",
        "channels-cut",
        "no-slice",
        "no-image",
        "no-pad",
    ],
)
def test_what_is_no_such_shortcut_stays_as_it_is(forward) -> None:
    names, same = targets(forward)
    assert same
    assert "conv2d.default" not in names


def test_a_slice_that_something_else_reads_too_stays() -> None:
    def forward(x: Tensor) -> Tensor:
        small = x[:, :, ::2, ::2]
        return F.pad(small, (0, 0, 0, 0, 1, 1)) + small.mean()

    names, same = targets(forward)
    assert same
    assert {"conv2d.default", "slice.Tensor"} <= names


def test_without_such_a_shortcut_the_program_is_the_very_same() -> None:
    program = torch.export.export(nn.ReLU(), (X,), strict=False)
    assert with_convolved_shortcuts(program) is program
