from __future__ import annotations

from collections.abc import Callable

import pytest
from rule_cases import IMAGE, around, assert_slims_exactly, reason, widths
from torch import Tensor
from torch.nn import functional

from pipeline.graph import trace

CASES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax.int": lambda x, dim: x.softmax(dim),
    "log_softmax.int": lambda x, dim: x.log_softmax(dim),
    "cumsum.default": lambda x, dim: x.cumsum(dim),
    "cumprod.default": lambda x, dim: x.tanh().cumprod(dim),
    "sort.default": lambda x, dim: x.sort(dim)[0],
    "argsort.default": lambda x, dim: x.argsort(dim) * 0.1,
    "topk.default": lambda x, dim: x.topk(8, dim)[0],
    "cummax.default": lambda x, dim: x.cummax(dim)[0],
}


@pytest.mark.parametrize("operator", CASES)
def test_operator_that_needs_all_of_a_dimension_is_free_along_the_others(operator: str) -> None:
    graph = assert_slims_exactly(around(lambda x: CASES[operator](x, 2)), IMAGE, seeds=1)
    assert widths(graph) == {"0": 8}


@pytest.mark.parametrize("operator", CASES)
def test_operator_that_needs_all_channels_freezes_them(operator: str) -> None:
    graph = trace(around(lambda x: CASES[operator](x, 1)), IMAGE)
    assert widths(graph) == {}
    assert reason(graph, "0") == f"aten.{operator} in 1 needs all of it"


def test_largest_few_positions_are_of_fixed_number() -> None:
    assert widths(assert_slims_exactly(around(lambda x: x.topk(3)[0]), IMAGE)) == {"0": 8}


def test_softmin_is_a_softmax() -> None:
    graph = trace(around(lambda x: functional.softmin(x, 1)), IMAGE)
    assert reason(graph, "0") == "aten.softmax.int in 1 needs all of it"
